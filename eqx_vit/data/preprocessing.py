"""The input of a model, made of pixels. Needs no JAX, for it runs in the processes that
load."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8


@dataclass(frozen=True)
class Centre:
    """The middle of an image, resized and normalised: timm's evaluation transform.

    - `image_size`: `(height, width)` for the model.
    - `mean`, `std`: Mean and deviation of pixels in [0, 1], per channel.
    - `crop`: The share of the image's short side that is kept.
    - `crop_mode`: `"center"`, or `"squash"`, which resizes both sides; with `"_floor"`
        behind it an odd pixel is left at the lower right, as by transformers.
    - `interpolation`: The filter of resizing, a name in `PIL.Image.Resampling`.
    """

    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float = 1.0
    crop_mode: str = "center"
    interpolation: str = "bicubic"

    @classmethod
    def of(
        cls, record: Any, image_size: int | tuple[int, int] | None = None
    ) -> "Centre":
        """The transform of a published model.

        **Arguments:**

        - `record`: An entry of `eqx_vit.zoo`.
        - `image_size`: Another size of its images, in pixels.
        """
        values = {field.name: getattr(record, field.name) for field in fields(cls)}
        if image_size is not None:
            is_side = isinstance(image_size, int)
            values["image_size"] = 2 * (image_size,) if is_side else image_size
        return cls(**values)

    def grey(self) -> "Centre":
        """The same for images of one channel: with the means of the statistics."""
        mean, std = (float(np.mean(values)) for values in (self.mean, self.std))
        return replace(self, mean=(mean,), std=(std,))

    def __call__(
        self, pixels: UInt8[np.ndarray, "height width channels"]
    ) -> Float[np.ndarray, "new_height new_width channels"]:
        """**Arguments:**

        - `pixels`: An image of 1 or 3 channels.

        **Returns:**

        The image for the model, in float32.
        """
        from PIL import Image

        from ._pixels import as_image

        image = as_image(pixels)
        height, width = self.image_size
        target = math.floor(height / self.crop), math.floor(width / self.crop)
        size = (
            target if self.crop_mode.startswith("squash") else _covering(image, target)
        )
        resample = Image.Resampling[self.interpolation.upper()]
        image = image.resize((size[1], size[0]), resample)
        # (Python rounds halves to even, as torchvision does here.)
        whole = math.floor if self.crop_mode.endswith("_floor") else round
        top, left = whole((size[0] - height) / 2), whole((size[1] - width) / 2)
        image = image.crop((left, top, left + width, top + height))
        return normalise(np.asarray(image), self.mean, self.std)

    def undo(
        self, image: Float[np.ndarray, "height width channels"]
    ) -> Float[np.ndarray, "height width channels"]:
        """The pixels, in [0, 1], of a prepared image."""
        pixels = image * np.array(self.std, np.float32) + np.array(
            self.mean, np.float32
        )
        return np.clip(pixels, 0, 1)


def normalise(
    pixels: UInt8[np.ndarray, "..."], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[np.ndarray, "height width channels"]:
    """Pixels as a model wants them, in float32.

    **Arguments:**

    - `pixels`: An image of bytes, `height width channels` or `height width`.
    - `mean`, `std`: Mean and deviation of pixels in [0, 1], per channel.
    """
    shape = pixels.shape if pixels.ndim == 3 else (*pixels.shape, 1)
    # (Row by row: NumPy is slow where the last axis is short.)
    rows = pixels.reshape(shape[0], -1).astype(np.float32)
    as_row = lambda x: np.tile(np.broadcast_to(np.float32(x), shape[2:]), shape[1])
    rows /= 255
    rows -= as_row(mean)
    rows /= as_row(std)
    return rows.reshape(shape)


def _covering(image: Any, target: tuple[int, int]) -> tuple[int, int]:
    """The `(height, width)` of the image when it just covers the target."""
    height, width = image.height, image.width
    if target[0] != target[1]:
        ratio = min(height / target[0], width / target[1])
        return round(height / ratio), round(width / ratio)
    short = min(height, width)
    return target[0] * height // short, target[0] * width // short
