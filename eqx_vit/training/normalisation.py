"""Images of a batch normalised, and parts of them erased, on the device."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8


@functools.partial(jax.jit, static_argnames=("mean", "std"))
def normalise(
    images: UInt8[Array, "batch height width channels"],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    erased: Int[Array, "batch 4"] | None = None,
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

    A `ValueError` if `erased` is given and `key` is not.
    """
    x = (images.astype(jnp.float32) / 255 - jnp.array(mean)) / jnp.array(std)
    if erased is None:
        return x
    if key is None:
        raise ValueError("`erased` needs a `key`, for the noise; give both or none.")
    top, left, height, width = (column[:, None] for column in erased.T)
    rows, columns = jnp.arange(x.shape[1]), jnp.arange(x.shape[2])
    is_row = (rows >= top) & (rows < top + height)
    is_column = (columns >= left) & (columns < left + width)
    inside = is_row[:, :, None, None] & is_column[:, None, :, None]
    return jnp.where(inside, jr.normal(key, x.shape), x)
