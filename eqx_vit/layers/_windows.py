import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from ._checks import pair


def split_windows(
    x: Float[Array, "height width dim"], size: tuple[int, int]
) -> Float[Array, "windows tokens dim"]:
    """Cuts a map into windows that do not overlap, both row by row.

    **Arguments:**

    - `x`: A map whose sides are multiples of the windows'.
    - `size`: The `(height, width)` of a window.
    """
    return rearrange(x, "(r p) (c q) d -> (r c) (p q) d", p=size[0], q=size[1])


def join_windows(
    windows: Float[Array, "windows tokens dim"],
    size: tuple[int, int],
    width: int,
) -> Float[Array, "height width dim"]:
    """The reverse of [`eqx_vit.layers.split_windows`][].

    **Arguments:**

    - `windows`: The windows of a map.
    - `size`: The `(height, width)` of a window.
    - `width`: The width of the map.
    """
    pattern = "(r c) (p q) d -> (r p) (c q) d"
    return rearrange(windows, pattern, p=size[0], q=size[1], c=width // size[1])


def pad_to_multiple(
    x: Float[Array, "height width dim"], multiple: int | tuple[int, int]
) -> Float[Array, "padded_height padded_width dim"]:
    """Zeros below and to the right of a map, until its sides are multiples.

    **Arguments:**

    - `x`: A map.
    - `multiple`: What shall divide the sides, or one number a side.
    """
    below, right = (-side % m for side, m in zip(x.shape, pair(multiple)))
    return jnp.pad(x, [(0, below), (0, right), (0, 0)])
