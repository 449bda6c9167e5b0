import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray


def split_key(key: PRNGKeyArray | None, num: int) -> list[PRNGKeyArray] | list[None]:
    """`num` independent keys, or `num` times `None` if there is no key to split.

    Layers that draw take `key=None` in inference; this hands the `None` on.
    """
    return [None] * num if key is None else list(jr.split(key, num))


def uniform(
    key: PRNGKeyArray, shape: tuple[int, ...], limit: float
) -> Float[Array, "..."]:
    """As `jax.random.uniform(key, shape, minval=-limit, maxval=limit)`, with few
    programs to compile: a third of a second for each shape was most of the time that a
    new model took.

    Outside of `jax.jit` it draws a row of one of a few lengths, which begins with the
    numbers of every shorter row, and takes as many as it needs.
    """
    size = math.prod(shape)
    # Powers of four up to `last`, and its multiples beyond.
    last = 4**9
    row = max(4**5, 4 ** math.ceil(math.log(max(size, 1), 4)))
    row = row if size <= last else last * math.ceil(size / last)
    numbers = jr.uniform(key, (row,), minval=-limit, maxval=limit)
    if isinstance(numbers, Tracer):
        return jr.uniform(key, shape, minval=-limit, maxval=limit)
    return _on_device(np.asarray(numbers)[:size].reshape(shape))


def stack(arrays: Sequence[Array]) -> Array:
    """As `jax.numpy.stack`, without a program to compile outside of `jax.jit`."""
    if any(isinstance(array, Tracer) for array in arrays):
        return jnp.stack(arrays)
    return _on_device(np.stack(arrays))


# (`jax.numpy.array` compiles a program for each shape.)
def _on_device(array: np.ndarray) -> Array:
    return jax.device_put(array, may_alias=False)
