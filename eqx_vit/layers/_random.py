import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray


def split_key(key: PRNGKeyArray | None, num: int) -> list[PRNGKeyArray] | list[None]:
    """`num` independent keys, or `num` times `None` if there is no key to split.

    Layers that draw take `key=None` in inference; this hands the `None` on.
    """
    return [None] * num if key is None else list(jr.split(key, num))


def uniform(
    key: PRNGKeyArray,
    shape: tuple[int, ...],
    limit: float,
    dtype: DTypeLike = float,
) -> Float[Array, "..."]:
    """Returns `jax.random.uniform(key, shape, dtype, minval=-limit, maxval=limit)`,
    compiled for a few sizes instead of for every shape.

    It draws a row of one of a few lengths, which begins with the numbers of every
    shorter row, and takes as many as it needs. Where that does not hold, or the numbers
    are traced or placed on a device, it draws the shape itself.
    """
    draw = lambda shape: jr.uniform(key, shape, dtype, minval=-limit, maxval=limit)
    if isinstance(key, Tracer) or not getattr(jax.config, "jax_threefry_partitionable"):
        return draw(shape)
    size = math.prod(shape)
    # Powers of four up to `last`, and its multiples beyond.
    last = 4**9
    if size <= last:
        row = 4 ** math.ceil(math.log(max(size, 4**5), 4))
    else:
        row = last * math.ceil(size / last)
    numbers = draw((row,))
    if not _is_plain(numbers):
        return draw(shape)
    # (A copy, since JAX would keep the whole row. `jnp.asarray` compiles, too.)
    return jax.device_put(np.array(np.asarray(numbers)[:size]).reshape(shape))


def stack(arrays: Sequence[Array]) -> Array:
    """As `jax.numpy.stack`, without a program to compile where the arrays are neither
    traced nor placed on a device."""
    if all(map(_is_plain, arrays)):
        return jax.device_put(np.stack(arrays))
    return jnp.stack(arrays)


def _is_plain(array: Array) -> bool:
    """Whether an array of numbers is free to lie on the default device."""
    return (
        not isinstance(array, Tracer)
        and not jnp.issubdtype(array.dtype, jax.dtypes.extended)
        and isinstance(array.sharding, SingleDeviceSharding)
        and not array.committed
    )
