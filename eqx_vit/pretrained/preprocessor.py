"""How transformers prepares images: `preprocessor_config.json`, in and out."""

import math
from collections.abc import Mapping
from typing import Any

from ..families.configs import Config
from ..layers import pair


_HALF = [0.5, 0.5, 0.5]
_IMAGENET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
_CLIP = dict(
    image_mean=[0.48145466, 0.4578275, 0.40821073],
    image_std=[0.26862954, 0.26130258, 0.27577711],
)
_CENTRE = dict(size=dict(shortest_edge=224), crop_size=224, do_center_crop=True)

# Pillow's numbers.
INTERPOLATIONS = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}

# The defaults of a class where they differ from `_DEFAULTS`.
_DEFAULTS: dict[str, Any] = dict(
    size=dict(height=224, width=224),
    resample=3,
    do_center_crop=False,
    do_rescale=True,
    rescale_factor=1 / 255,
    do_normalize=True,
    image_mean=_HALF,
    image_std=_HALF,
)
_CLASSES: dict[str, dict[str, Any]] = {
    "ViT": dict(resample=2),
    "DeiT": dict(size=dict(height=256, width=256), crop_size=224, do_center_crop=True),
    "Levit": _CENTRE | _IMAGENET,
    "Bit": _CENTRE | _CLIP,
    "CLIP": _CENTRE | _CLIP,
    "Siglip": {},
    "ConvNext": dict(size=dict(shortest_edge=384), crop_pct=224 / 256),
}


def read_preprocessor(config: Config | None, size: tuple[int, int]) -> dict[str, Any]:
    """How images are prepared, as in a record.

    **Arguments:**

    - `config`: The contents of `preprocessor_config.json`, if there is one.
    - `size`: The `(height, width)` of the model's images.

    **Raises:**

    A `ValueError` for settings that a record cannot hold.
    """
    name = "" if config is None else _class_of(config)
    if name == "Siglip2":
        raise ValueError(
            "its processor, `Siglip2ImageProcessor`, keeps the aspect ratio of images, "
            "which have all sizes then; give it a `preprocessor_config.json` of a "
            "`SiglipImageProcessor`"
        )
    if config is None:
        config = dict(size=dict(height=size[0], width=size[1]))
    elif name not in _CLASSES:
        _check_complete(name, config)
    values: dict[str, Any] = _DEFAULTS | _CLASSES.get(name, {}) | dict(config)
    if values.get("do_resize") is False:
        raise ValueError("its images are not resized (`do_resize=false`)")
    # `(x * factor - mean) / std`, where ours takes x from 0 to 1.
    factor = 255 * values["rescale_factor"] if values["do_rescale"] else 255.0
    mean, std = values["image_mean"], values["image_std"]
    if not values["do_normalize"]:
        mean, std = [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
    return dict(
        mean=tuple(float(value / factor) for value in mean),
        std=tuple(float(value / factor) for value in std),
        interpolation=INTERPOLATIONS[values["resample"]],
        **_geometry(name, values),
    )


def _check_complete(name: str, config: Config) -> None:
    """Raise a `ValueError` if a processor that is not known leaves something to a
    default of its own."""
    for value in ("size", "resample", "image_mean", "image_std"):
        if value not in config:
            raise ValueError(
                f"its processor, `{name}ImageProcessor`, is not known here, and its "
                f"`preprocessor_config.json` does not say its `{value}`; add it there"
            )


def _class_of(config: Config) -> str:
    kind = config.get("image_processor_type") or config.get("feature_extractor_type")
    kind = str(kind or "").removesuffix("Fast").removesuffix("Pil")
    return kind.removesuffix("ImageProcessor").removesuffix("FeatureExtractor")


def _geometry(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The size of the images, and the part of them that is kept."""
    size = values["size"]
    if isinstance(size, int):
        keeps_ratio = "shortest_edge" in _CLASSES.get(name, {}).get("size", {})
        size = dict(shortest_edge=size) if keeps_ratio else _square(size)
    if "shortest_edge" in size:
        short = size["shortest_edge"]
        mode, whole = "center_floor", (short, short)
        if name == "ConvNext" and short >= 384:
            return dict(image_size=whole, crop=1.0, crop_mode="squash")
        if name == "ConvNext":
            kept, whole = whole, pair(int(short / values["crop_pct"]))
        elif name == "Levit":
            kept, whole = _kept(values, whole), pair(int(256 / 224 * short))
        elif not values["do_center_crop"]:
            raise ValueError("its images keep their aspect ratio and are not cut")
        else:
            kept = _kept(values, whole)
    elif "height" in size and "width" in size:
        mode, whole = "squash_floor", (size["height"], size["width"])
        kept = _kept(values, whole)
        mode = "squash" if kept == whole else mode
    else:
        raise ValueError(f"`size={size!r}` has neither `shortest_edge` nor `height`")
    if kept[0] * whole[1] != kept[1] * whole[0] or kept > whole:
        raise ValueError(f"`crop_size={kept}` is not the centre of images of {whole}")
    crop = kept[0] / whole[0]
    while crop < 1 and math.floor(kept[0] / crop) < whole[0]:  # by rounding
        crop = math.nextafter(crop, 0)
    return dict(image_size=kept, crop=crop, crop_mode=mode)


def _kept(values: Mapping[str, Any], whole: tuple[int, int]) -> tuple[int, int]:
    size = values.get("crop_size") if values["do_center_crop"] else None
    if size is None:
        return whole
    size = _square(size) if isinstance(size, int) else size
    return size["height"], size["width"]


def _square(side: int) -> dict[str, int]:
    return dict(height=side, width=side)


def write_preprocessor(size: tuple[int, int], pixels: Mapping[str, Any]) -> Config:
    """The contents of `preprocessor_config.json`.

    **Arguments:**

    - `size`: The `(height, width)` of the model's images.
    - `pixels`: How they are prepared: `mean`, `std`, `crop`, `crop_mode` and
        `interpolation`, as in a record.

    **Raises:**

    A `ValueError` for settings that the library does not have.
    """
    height, width = size
    numbers = {name: number for number, name in INTERPOLATIONS.items()}
    shared = dict(
        do_resize=True,
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=list(pixels["mean"]),
        image_std=list(pixels["std"]),
        resample=numbers[pixels["interpolation"]],
    )
    whole = [math.floor(side / pixels["crop"]) for side in size]
    if pixels["crop_mode"].startswith("center"):
        if height != width:
            raise ValueError(
                "transformers cannot cut the centre of images that are not square; "
                "give a record with `crop_mode='squash'`."
            )
        return shared | dict(
            image_processor_type="CLIPImageProcessor",
            size=dict(shortest_edge=whole[0]),
            do_center_crop=True,
            crop_size=dict(height=height, width=width),
        )
    if pixels["crop"] == 1:
        return shared | dict(
            image_processor_type="ViTImageProcessor",
            size=dict(height=height, width=width),
        )
    return shared | dict(
        image_processor_type="DeiTImageProcessor",
        size=dict(height=whole[0], width=whole[1]),
        do_center_crop=True,
        crop_size=dict(height=height, width=width),
    )
