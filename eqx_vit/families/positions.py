"""Position embeddings for images of another size."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from ..layers import replaced


Size = tuple[int, int]


def antialiased(
    table: Float[Array, "height width dim"], size: Size
) -> Float[Array, "new_height new_width dim"]:
    """A map of positions for another grid, interpolated bicubically as by timm."""
    # JAX's cubic kernel is the one that PyTorch has where it antialiases.
    return jax.image.resize(table, (*size, table.shape[-1]), "cubic")


# From a map of positions and another size to a map of that size.
Interpolate = Callable[[Array, Size], Array]


def resized_patches(
    module: Any, image_size: Size, interpolate: Interpolate = antialiased
) -> Any:
    """A model, or a branch of one, with a position for every patch."""
    patches = patch_size(module)
    old, new = grid(module.image_size, patches), grid(image_size, patches)
    table = resized_table(module.position_embedding, old, new, interpolate)
    return replaced(module, position_embedding=table, image_size=image_size)


def patch_size(module: Any) -> Size:
    """The `(height, width)` of the patches of a model or of a branch."""
    return module.patch_embedding.patch_size


def grid(image_size: Size, patch_size: Size) -> Size:
    """How many patches an image has, `(rows, columns)`."""
    return image_size[0] // patch_size[0], image_size[1] // patch_size[1]


def resized_table(
    table: Float[Array, "positions dim"],
    old: Size,
    new: Size,
    interpolate: Interpolate = antialiased,
) -> Float[Array, "new_positions dim"]:
    """A table for another grid, whose first rows may belong to other tokens."""
    prefix = len(table) - old[0] * old[1]
    positions = rearrange(table[prefix:], "(h w) d -> h w d", h=old[0])
    positions = rearrange(interpolate(positions, new), "h w d -> (h w) d")
    return jnp.concatenate([table[:prefix], positions])
