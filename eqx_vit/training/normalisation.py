"""Images of a batch normalised, and parts of them erased, on the device."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from ..layers import AnyArray


def normalise(
    images: UInt8[AnyArray, "batch height width channels"],
    mean: Sequence[float],
    std: Sequence[float],
    erased: Int[AnyArray, "batch 4"] | None = None,
    *,
    key: PRNGKeyArray | None = None,
) -> Float[Array, "batch height width channels"]:
    """Images of bytes as a model wants them, in float32, with noise where they are
    erased ([Random Erasing](https://arxiv.org/abs/1708.04896), as in timm).

    **Arguments:**

    - `images`: A batch of bytes.
    - `mean`, `std`: Mean and deviation of pixels in [0, 1], per channel.
    - `erased`: `(top, left, height, width)` of a rectangle of each image, as
        [`eqx_vit.data.ForDevice`][] draws it; 0 wide for none.
    - `key`: Randomness of the noise. (Keyword only argument.)

    **Raises:**

    A `ValueError` if `mean` or `std` has not a number for each channel, or if `erased`
    is given and `key` is not.
    """
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != images.shape[-1]:
            raise ValueError(
                f"`{name}={tuple(values)}` must have a number for each of the "
                f"{images.shape[-1]} channels of the images."
            )
    if erased is not None and key is None:
        raise ValueError("`erased` needs a `key`, for the noise; give both or none.")
    statistics = np.array(mean, np.float32), np.array(std, np.float32)
    return _normalise(images, *statistics, erased, key)


@jax.jit
def _normalise(images, mean, std, erased, key):
    x = (images.astype(jnp.float32) / 255 - mean) / std
    if erased is None:
        return x
    top, left, height, width = (column[:, None] for column in erased.T)
    rows, columns = jnp.arange(x.shape[1]), jnp.arange(x.shape[2])
    is_row = (rows >= top) & (rows < top + height)
    is_column = (columns >= left) & (columns < left + width)
    inside = is_row[:, :, None, None] & is_column[:, None, :, None]
    return jnp.where(inside, jr.normal(key, x.shape, x.dtype), x)
