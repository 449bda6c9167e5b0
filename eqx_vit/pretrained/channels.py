from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..families import family_of


def with_channels(model: Any, target: Any, old: int, channels: int) -> Any:
    """Return a model for images of other channels: with 1 the weights of the first
    layer are summed, with more they are repeated and scaled.

    **Arguments:**

    - `model`: The model.
    - `target`: The shapes of the model that takes the other channels.
    - `old`, `channels`: How many `model` takes, and how many `target`.
    """
    planar = family_of(model).planar_patches

    def adapt(array, wanted):
        if not eqx.is_array(array) or array.shape == wanted.shape:
            return array
        *leading, size = array.shape
        if array.ndim == 4:  # a convolution
            axis = 2
        elif planar:  # a channel's pixels stand together
            array, axis = array.reshape(*leading, old, size // old), -2
        else:  # a pixel's channels do
            array, axis = array.reshape(*leading, size // old, old), -1
        norm = not leading
        if channels == 1:
            array = (jnp.mean if norm else jnp.sum)(array, axis, keepdims=True)
        else:  # a product, a sum over channels, keeps its size
            array = jnp.take(array, jnp.arange(channels) % old, axis)
            array = array if norm else array * (old / channels)
        return array.reshape(wanted.shape)

    leaves, structure = jax.tree.flatten(target)
    return jax.tree.unflatten(structure, map(adapt, jax.tree.leaves(model), leaves))
