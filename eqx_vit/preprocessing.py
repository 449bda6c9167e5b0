import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .checkpoints import Record


def preprocess(record: Record, image: Any) -> Float[Array, "height width 3"]:
    """An image as a published model wants it for inference: timm's evaluation
    transform.

    The short side is resized to `image_size / crop` and the centre cut out; with
    `crop_mode="squash"` both sides are resized. Then pixels, in [0, 1], are normalised
    by the record's mean and standard deviation. Resizing is Pillow's, in 8 bits.

    **Arguments:**

    - `record`: An entry of `eqx_vit.zoo`. For another size,
        `dataclasses.replace(record, image_size=(256, 256))`.
    - `image`: A `PIL.Image.Image` of any mode, or an array `height width 3` or
        `height width` of integers in [0, 255] or floats in [0, 1].

    **Returns:**

    The image for the model, in float32; a batch is `jnp.stack` of several.

    **Raises:**

    A `ValueError` if an array is no image.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "`preprocess` needs the package pillow; "
            "install it with `pip install 'eqx_vit[hub]'`."
        ) from error
    if not isinstance(image, Image.Image):
        image = Image.fromarray(_bytes(np.asarray(image)))
    image = image.convert("RGB")
    height, width = record.image_size
    target = math.floor(height / record.crop), math.floor(width / record.crop)
    size = target if record.crop_mode == "squash" else _covering(image, target)
    resample = Image.Resampling[record.interpolation.upper()]
    image = image.resize(size[::-1], resample)
    # Python rounds halves to even, as torchvision does here.
    top, left = round((size[0] - height) / 2), round((size[1] - width) / 2)
    image = image.crop((left, top, left + width, top + height))
    pixels = np.asarray(image, np.float32) / 255
    mean, std = np.array([record.mean, record.std], np.float32)
    return jnp.asarray((pixels - mean) / std)


def _covering(image: Any, target: tuple[int, int]) -> tuple[int, int]:
    """The `(height, width)` of the image when it just covers the target."""
    height, width = image.height, image.width
    if target[0] != target[1]:
        ratio = min(height / target[0], width / target[1])
        return round(height / ratio), round(width / ratio)
    short = min(height, width)
    return target[0] * height // short, target[0] * width // short


def _bytes(array: np.ndarray) -> np.ndarray:
    shape, kind = array.shape, array.dtype.kind
    if kind not in "uif" or not (
        array.ndim == 2 or (array.ndim == 3 and shape[2] == 3)
    ):
        raise ValueError(
            f"`image` is an array of shape {shape} and type {array.dtype}; it must be "
            "`height width 3` or `height width`, of integers in [0, 255] or floats in "
            "[0, 1]."
        )
    highest = 1 if kind == "f" else 255
    low, high = array.min(), array.max()
    if not (0 <= low and high <= highest):
        raise ValueError(
            f"`image` has values from {low} to {high}; an array of {array.dtype} must "
            f"have them in [0, {highest}], before any normalisation."
        )
    return np.round(array * (255 / highest)).astype(np.uint8)
