"""Maps on the plane of the image, made of the values inside a model."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from .positions import grid, patch_size


Grid = tuple[int, int]

# Names and values inside a model, in the order of the forward pass.
Found = list[tuple[str, Array]]


class Feature(eqx.Module):
    """The output of a block or a stage.

    - `map`: Where the tokens lie on a grid, that; else `None`.
    - `prefix`: The tokens before it: class, distillation and register tokens, or all
        where there is no grid.
    """

    map: Float[Array, "height width dim"] | None
    prefix: Float[Array, "prefix dim"]


class AttentionMap(eqx.Module):
    """The attention between tokens in one layer.

    Tokens that lie on a grid come last, row by row; all others come before them:
    class, distillation and register tokens, or regional tokens.

    - `probabilities`: Every row sums to one. What windows and groups do not see is 0.
    - `query_grid`, `key_grid`: The `(height, width)` of the grids on which queries and
        keys lie, `(0, 0)` for none. They differ where keys are fewer, or padded.
    """

    probabilities: Float[Array, "heads queries keys"]
    query_grid: Grid = eqx.field(static=True)
    key_grid: Grid = eqx.field(static=True)

    @property
    def num_prefix(self) -> int:
        """How many queries are on no grid."""
        return self.probabilities.shape[1] - math.prod(self.query_grid)

    def on_keys(self) -> Float[Array, "heads queries height width"]:
        """The attention of each query to the keys' grid."""
        heads, queries, _ = self.probabilities.shape
        keys = self.probabilities[..., -math.prod(self.key_grid) :]
        return keys.reshape(heads, queries, *self.key_grid)


def patch_grid(module: Any) -> Grid:
    """The `(height, width)` of the patches of a model, or of a branch of one."""
    return grid(module.image_size, patch_size(module))


def split(model: Any, found: Found) -> list[Feature]:
    """The outputs of the stages of a pyramid, or of the blocks of a model with one grid
    of patches."""
    if all(name != "stage" for name, _ in found):
        grid = patch_grid(model)
        return [feature(value, grid) for _, value in found]
    features, before = [], None
    for name, value in found:
        if name == "block":
            before = value
            continue
        height, width, dim = value.shape
        prefix = jnp.zeros((0, dim), value.dtype)
        if before is not None and before.ndim == 2:
            prefix = before[: len(before) - height * width]
        features.append(Feature(value, prefix))
    return features


def feature(tokens: Float[Array, "tokens dim"], grid: Grid) -> Feature:
    """Tokens; the last of them lie on a grid."""
    prefix = len(tokens) - grid[0] * grid[1]
    if prefix < 0:  # merged tokens lie on no grid
        return Feature(None, tokens)
    shape = (*grid, tokens.shape[-1])
    return Feature(tokens[prefix:].reshape(shape), tokens[:prefix])


def fold(model: Any, found: Found) -> list[AttentionMap]:
    """The attention of a model with one grid of patches; or of a pyramid whose layers
    attend within square windows, to the whole map, or to a smaller one."""

    def layer(value: Array, grids: list[Grid], stage: int, number: int) -> AttentionMap:
        if value.ndim == 4:
            return of_windows(value, grids[stage], None)
        is_between = value.shape[1] < value.shape[2]  # a way to the next stage
        keys = grids[stage - 1] if is_between and stage > 0 else grids[stage]
        return whole(value, grids[stage], keys)

    if all(name != "stage" for name, _ in found):
        grid = patch_grid(model)
        return [whole(heads_first(value), grid, grid) for _, value in found]
    return by_stage(found, layer)


def by_stage(
    found: Found, layer: Callable[[Array, list[Grid], int, int], AttentionMap]
) -> list[AttentionMap]:
    """The attention of a pyramid.

    **Arguments:**

    - `found`: The values named `"attention"` and `"stage"`.
    - `layer`: From one value, the grids of all stages, the number of its stage and that
        of the layer in the model to its map.
    """
    stages = [value for name, value in found if name == "stage"]
    grids = [(value.shape[0], value.shape[1]) for value in stages]
    maps, stage = [], 0
    for name, value in found:
        if name == "stage":
            stage += 1
        else:
            maps.append(layer(value, grids, stage, len(maps)))
    return maps


def heads_first(value: Array) -> Float[Array, "heads queries keys"]:
    """Merge all leading axes into the axis of heads."""
    return value.reshape(-1, *value.shape[-2:])


def whole(
    value: Float[Array, "heads queries keys"], query_grid: Grid, key_grid: Grid
) -> AttentionMap:
    """The map of global attention, perhaps to a smaller map of keys."""
    _, queries, keys = value.shape
    query_grid = query_grid if queries >= math.prod(query_grid) else (0, 0)
    prefix = queries - math.prod(query_grid)
    key_grid = key_grid if query_grid == (0, 0) else _reduced(key_grid, keys - prefix)
    key_grid = key_grid if keys >= math.prod(key_grid) else (0, 0)
    return AttentionMap(value, query_grid, key_grid)


def _reduced(grid: Grid, keys: int) -> Grid:
    """The grid of so many keys that a stride leaves of another."""
    for stride in range(1, max(grid) + 1):
        height, width = (-(-side // stride) for side in grid)
        if height * width == keys:
            return height, width
    return grid


def of_windows(
    value: Float[Array, "windows heads queries keys"], grid: Grid, window: Grid | None
) -> AttentionMap:
    """The map of windows that follow each other row by row, maybe on a padded map; by
    default they are square."""
    number, _, tokens, _ = value.shape
    side = math.isqrt(tokens)
    window = grid if number == 1 and tokens == math.prod(grid) else window
    window = window or (side, side)
    height, width = (-(-side // w) * w for side, w in zip(grid, window))
    places = np.arange(height * width).reshape(height, width)
    pattern = "(r p) (c q) -> (r c) (p q)"
    places = rearrange(places, pattern, p=window[0], q=window[1])
    probabilities = scattered(value, places, height * width)
    seen = np.arange(height * width).reshape(height, width)[: grid[0], : grid[1]]
    return AttentionMap(probabilities[:, seen.ravel()], grid, (height, width))


def scattered(
    value: Float[Array, "windows heads queries keys"], places: np.ndarray, number: int
) -> Float[Array, "heads tokens tokens"]:
    """Windows' maps on all `number` tokens; `places` has the token at each place of a
    window."""
    value = rearrange(value, "windows heads q k -> heads windows q k")
    on_all = jnp.zeros((len(value), number, number), value.dtype)
    return on_all.at[:, places[:, :, None], places[:, None, :]].set(value)
