from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .record import Record


def preprocess(record: Record, image: Any) -> Float[Array, "height width channels"]:
    """Prepare an image for inference with a published model: timm's evaluation
    transform.

    The short side is resized to `image_size / crop` and the centre cut out; with
    `crop_mode="squash"` both sides are resized. Then pixels, in [0, 1], are normalised
    by the record's mean and standard deviation. Resizing is Pillow's, in 8 bits.

    **Arguments:**

    - `record`: An entry of `eqx_vit.zoo`. For another size,
        `dataclasses.replace(record, image_size=(256, 256))`.
    - `image`: A `PIL.Image.Image`, read as [`eqx_vit.data.to_pixels`][] does, or an
        array `height width 3` or `height width` of integers in [0, 255] or floats in
        [0, 1].

    **Returns:**

    The image for the model, in float32; a batch is `jnp.stack` of several.

    **Raises:**

    A `ValueError` if an array is not an image.
    """
    try:
        from PIL import Image

        from ..data._pixels import as_channels, to_pixels
        from ..data.preprocessing import Centre
    except ImportError as error:
        raise ImportError(
            "`preprocess` needs the package pillow; "
            "install it with `pip install pillow`."
        ) from error
    if not isinstance(image, Image.Image):
        image = Image.fromarray(_bytes(np.asarray(image)))
    pixels = as_channels(to_pixels(image), len(record.mean))
    return jnp.asarray(Centre.of(record)(pixels))


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
