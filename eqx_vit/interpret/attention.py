"""What a model has seen: features, attention maps, and what follows from them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int

from ..models import (
    CaiT,
    CrossFormer,
    CrossViT,
    DeepViT,
    NesT,
    ParallelViT,
    PatchMergerViT,
    RegionViT,
    SimpleViT,
    SmallDatasetViT,
    T2TViT,
    ViT,
)
from ..models.t2t_vit import token_grid
from .capture import interpret


Grid = tuple[int, int]


class Feature(eqx.Module):
    """What leaves a block or a stage.

    - `map`: Where the tokens lie on a grid, that; else `None`.
    - `prefix`: The tokens before it: class, distillation and register tokens, or all
        where there is no grid.
    """

    map: Float[Array, "height width dim"] | None
    prefix: Float[Array, "prefix dim"]


@eqx.filter_jit
def features(
    model: Callable,
    image: Float[Array, "height width channels"],
    *state: eqx.nn.State,
    blocks: Sequence[int] | None = None,
) -> list[Feature]:
    """What leaves the stages of a pyramid, or the blocks of any other model, before the
    last normalisation; as timm's `forward_intermediates` where timm has it.

    **Arguments:**

    - `model`: One of the seventeen. It is taken in inference mode.
    - `image`: A single image. (Use `jax.vmap` for a batch.)
    - `state`: The model's state, if it has one.
    - `blocks`: Which of them, counted from 0, or from the end if negative; by default
        all. (Keyword only argument.)

    **Returns:**

    A feature for each. `CrossViT` has two a block, of small and of large patches;
    `RegionViT`'s are of the local tokens.

    **Raises:**

    A `ValueError` if there is no such block.
    """
    model = eqx.nn.inference_mode(model)
    names = ["block", "stage"]
    _, found = interpret(model, names, image, *state, unstack=True, strict=False)
    if isinstance(model, CrossViT):
        # In a multi-scale block those of the two encoders come first.
        per_block = len(found) // len(model.transformer.drop_rates)
        pairs = [found[i : i + 2] for i in range(per_block - 2, len(found), per_block)]
        grids = [_grid(model, branch) for branch in ("small", "large")]
        all_features = [
            _feature(tokens, grid)
            for pair in pairs
            for (_, tokens), grid in zip(pair, grids)
        ]
    elif any(name == "stage" for name, _ in found):
        all_features, before = [], None
        for name, value in found:
            if name == "block":
                before = value
                continue
            height, width, dim = value.shape
            prefix = jnp.zeros((0, dim), value.dtype)
            if before is not None and before.ndim == 2:
                prefix = before[: len(before) - height * width]
            all_features.append(Feature(value, prefix))
    else:
        all_features = [_feature(value, _grid(model)) for _, value in found]
    number = len(all_features)
    for block in blocks or ():
        if not -number <= block < number:
            raise ValueError(
                f"`blocks={tuple(blocks or ())}` has {block}, but there are {number}; "
                f"the nearest legal value is {number - 1 if block > 0 else -number}."
            )
    chosen = range(number) if blocks is None else blocks
    return [all_features[i] for i in chosen]


class AttentionMap(eqx.Module):
    """Which tokens attend to which, in one layer.

    Tokens that lie on a grid come last, row by row; what is left comes before them:
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
        """What every query sees of the keys' grid."""
        heads, queries, _ = self.probabilities.shape
        keys = self.probabilities[..., -math.prod(self.key_grid) :]
        return keys.reshape(heads, queries, *self.key_grid)


@eqx.filter_jit
def attention_maps(
    model: Callable,
    image: Float[Array, "height width channels"],
    *state: eqx.nn.State,
) -> list[AttentionMap]:
    """The attention of every layer, with windows, groups and regions folded back into
    the plane of the image.

    As they are after the softmax: before CaiT's talking heads and DeepViT's
    re-attention mix them. Of `ParallelViT` the branches of a block count as heads.
    Performers, T2T's attention in linear time, have no maps.

    **Arguments:**

    - `model`: One of the seventeen. It is taken in inference mode.
    - `image`: A single image. (Use `jax.vmap` for a batch.)
    - `state`: The model's state, if it has one.
    """
    model = eqx.nn.inference_mode(model)
    names = ["attention", "stage"]
    _, found = interpret(model, names, image, *state, unstack=True, strict=False)
    return _folded(model, found)


def _folded(model: Any, found: list[tuple[str, Array]]) -> list[AttentionMap]:
    stages = [value for name, value in found if name == "stage"]
    grids = [(value.shape[0], value.shape[1]) for value in stages]
    values = [value for name, value in found if name == "attention"]
    if isinstance(model, CrossViT):
        return _of_cross_vit(model, values)
    if isinstance(model, T2TViT):
        return _of_t2t_vit(model, values)
    if not grids:
        grid = _grid(model)
        return [_whole(_heads_first(value), grid, grid) for value in values]
    maps, stage = [], 0
    for name, value in found:
        if name == "stage":
            stage += 1
        elif isinstance(model, CrossFormer):
            maps.append(_of_cross_former(model, value, grids[stage], len(maps)))
        elif isinstance(model, RegionViT):
            maps.append(_of_region_vit(value, grids[stage], model.stages[stage]))
        elif value.ndim == 4:
            block = model.levels[stage].block_size if isinstance(model, NesT) else None
            maps.append(_of_windows(value, grids[stage], block))
        else:
            smaller = value.shape[1] < value.shape[2]  # LeViT's way to the next stage
            keys = grids[stage - 1] if smaller else grids[stage]
            maps.append(_whole(value, grids[stage], keys))
    return maps


@eqx.filter_jit
def rollout(
    model: Callable,
    image: Float[Array, "height width channels"],
    *state: eqx.nn.State,
) -> Float[Array, "rows columns"]:
    """Attention rollout: what reaches the head from every patch, if a layer passes on
    half of what it has and half of what it attends to.

    [Quantifying Attention Flow in Transformers](https://arxiv.org/abs/2005.00928), with
    the mean over heads. It is the class token's row, or without one the mean over all
    tokens; in CaiT the class attention goes on from the patches' rollout.

    **Arguments:** as [`eqx_vit.attention_maps`][], of a model whose tokens all attend
    to each other: `ViT`, `SimpleViT`, `ParallelViT`, `SmallDatasetViT`, `DeepViT`,
    `CaiT` or the backbone of `T2TViT`.

    **Raises:**

    A `ValueError` for any other.
    """
    _check_global(model, "rollout")
    return _flow(model, attention_maps(model, image, *state), 0.5, 0.5)


def class_attention(
    model: Callable,
    image: Float[Array, "height width channels"],
    *state: eqx.nn.State,
) -> list[Float[Array, "heads rows columns"]]:
    """What the class token attends to, in every layer in which it does: of CaiT the
    class blocks, of CrossViT both branches and the exchange between them.

    **Arguments:** as [`eqx_vit.attention_maps`][].

    **Raises:**

    A `ValueError` for a model without a class token.
    """
    maps = attention_maps(model, image, *state)
    found = [m.on_keys()[:, 0] for m in maps if m.num_prefix and m.key_grid != (0, 0)]
    if not found or isinstance(model, RegionViT):
        raise ValueError(
            f"{type(model).__name__} has no class token; `attention_maps` shows what "
            "its patches attend to."
        )
    return found


def relevance(
    model: Callable,
    image: Float[Array, "height width channels"],
    *state: eqx.nn.State,
    label: int | Int[Array, ""],
) -> Float[Array, "rows columns"]:
    """Gradient-weighted attention: how much every patch speaks for a class.

    In every layer the attention, times the gradient of the class's logit in it where
    that is positive, is averaged over heads and added up from the image on: rules 5 and
    6 of [Generic Attention-model Explainability](https://arxiv.org/abs/2103.15679) by
    Chefer et al. Of a pyramid these are the layers of its last stage, and the map is
    that stage's; keys that stand for several queries share what they get among them.

    **Arguments:** as [`eqx_vit.attention_maps`][], and

    - `label`: The class to explain. (Keyword only argument.)

    **Raises:**

    A `ValueError` for `CrossViT`, whose branches have two grids, and for
    `PatchMergerViT`, whose last tokens are on none.
    """
    if isinstance(model, CrossViT | PatchMergerViT):
        raise ValueError(
            f"`relevance` follows the patches of one grid to the logits, which "
            f"{type(model).__name__} does not have; see `attention_maps`."
        )
    return _relevance(model, image, state, jnp.asarray(label))


@eqx.filter_jit
def _relevance(model, image, state, label):
    model = eqx.nn.inference_mode(model)
    names = ["attention", "stage"]
    options: dict[str, Any] = dict(unstack=True, strict=False)
    _, found = interpret(model, names, image, *state, **options)

    def logit(offsets):
        logits, _ = interpret(model, names, image, *state, offsets=offsets, **options)
        return logits[label]

    gradients = jax.grad(logit)([jnp.zeros_like(value) for _, value in found])
    pairs = zip(found, gradients)
    weighted = [
        (name, v if name == "stage" else jax.nn.relu(v * g)) for (name, v), g in pairs
    ]
    # Those behind the stage before the last.
    ends = [i for i, (name, _) in enumerate(found) if name == "stage"]
    last = len(found) - 1 - ends[-2] if len(ends) > 1 else len(found)
    number = sum(name == "attention" for name, _ in found[-last:])
    return _flow(model, _folded(model, weighted)[-number:], 1.0, 1.0)


def _check_global(model: Callable, name: str) -> None:
    legal = (ViT, SimpleViT, ParallelViT, SmallDatasetViT, DeepViT, CaiT, T2TViT)
    if not isinstance(model, legal):
        known = ", ".join(kind.__name__ for kind in legal)
        raise ValueError(
            f"`{name}` is for models whose tokens all attend to each other: {known}. "
            f"For {type(model).__name__} see `relevance` and `attention_maps`."
        )


def _flow(
    model: Any, maps: list[AttentionMap], kept: float, attended: float
) -> Float[Array, "rows columns"]:
    """What flows from the last grid's patches to what the head sees, if a layer passes
    on these shares of what it has and of what it attends to."""
    grid = maps[-1].key_grid if maps[-1].query_grid == (0, 0) else maps[-1].query_grid
    # (Keys of twice the size are what a stage begins with, of the one before.)
    layers = [m for m in maps if m.query_grid == grid and m.key_grid[0] < 2 * grid[0]]
    flow = jnp.eye(layers[-1].probabilities.shape[1])
    for layer in layers:
        flow = kept * flow + attended * _on_queries(layer) @ flow
    classes = [m for m in maps if m.query_grid == (0, 0)]
    if classes:  # over the class token itself and the patches
        patches = jnp.pad(flow, ((0, 0), (1, 0)))
        flow = jnp.eye(1, patches.shape[1])
        for layer in classes:
            seen = jnp.mean(layer.probabilities, axis=0)
            gathered = seen[:, :1] @ flow + seen[:, 1:] @ patches
            flow = kept * flow + attended * gathered
    prefix = flow.shape[1] - math.prod(grid)
    if isinstance(model, RegionViT):
        seen = flow[:prefix]  # the regional tokens
    elif prefix and getattr(model, "pool", "cls") != "mean":
        seen = flow[:1]
    else:
        seen = flow[-math.prod(grid) :]
    return jnp.mean(seen, axis=0)[prefix:].reshape(grid)


def _on_queries(layer: AttentionMap) -> Float[Array, "queries queries"]:
    """The mean over heads, with the keys on the queries' grid."""
    (height, width), (rows, columns) = layer.query_grid, layer.key_grid
    mean = jnp.mean(layer.probabilities, axis=0)
    prefix = mean.shape[1] - rows * columns
    keys = mean[:, prefix:].reshape(-1, rows, columns)
    down, across = max(1, -(-height // rows)), max(1, -(-width // columns))
    keys = jnp.repeat(jnp.repeat(keys, down, axis=1), across, axis=2)
    keys = keys[:, :height, :width] / (down * across)
    return jnp.concatenate([mean[:, :prefix], keys.reshape(len(mean), -1)], axis=1)


def _heads_first(value: Array) -> Array:
    return value.reshape(-1, *value.shape[-2:])


def _whole(value: Array, query_grid: Grid, key_grid: Grid) -> AttentionMap:
    """Of global attention, perhaps to a smaller map of keys."""
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


def _of_windows(value: Array, grid: Grid, window: Grid | None) -> AttentionMap:
    """Of windows that follow each other row by row, maybe on a map that is padded."""
    number, _, tokens, _ = value.shape
    side = math.isqrt(tokens)
    window = grid if number == 1 and tokens == math.prod(grid) else window
    window = window or (side, side)
    height, width = (-(-side // w) * w for side, w in zip(grid, window))
    places = np.arange(height * width).reshape(height, width)
    pattern = "(r p) (c q) -> (r c) (p q)"
    places = rearrange(places, pattern, p=window[0], q=window[1])
    probabilities = _scattered(value, places, height * width)
    seen = np.arange(height * width).reshape(height, width)[: grid[0], : grid[1]]
    return AttentionMap(probabilities[:, seen.ravel()], grid, (height, width))


def _scattered(value: Array, places: np.ndarray, number: int) -> Array:
    """Windows' maps on all tokens; `places` has the token at each place of a window."""
    value = rearrange(value, "windows heads q k -> heads windows q k")
    whole = jnp.zeros((len(value), number, number), value.dtype)
    return whole.at[:, places[:, :, None], places[:, None, :]].set(value)


def _of_region_vit(value: Array, grid: Grid, stage: Any) -> AttentionMap:
    """Of regional tokens among themselves, or of each with its window."""
    rows, columns = (side // stage.window_size for side in grid)
    if value.ndim == 3:
        return AttentionMap(value, (rows, columns), (rows, columns))
    places = np.arange(math.prod(grid)).reshape(grid)
    pattern = "(r p) (c q) -> (r c) (p q)"
    places = rearrange(places, pattern, r=rows, c=columns)
    regions = np.arange(rows * columns)[:, None]
    places = np.concatenate([regions, len(regions) + places], axis=1)
    return AttentionMap(_scattered(value, places, places.size), grid, grid)


def _of_cross_former(
    model: CrossFormer, value: Array, grid: Grid, layer: int
) -> AttentionMap:
    """Of groups of neighbours, or of embeddings that stand apart."""
    blocks: list[Any] = []
    for stage in model.stages:
        turns = stage.blocks.turns
        blocks = [] if turns is None else turns.blocks.blocks * len(turns.drop_rates)
        blocks = [*blocks, *stage.blocks.rest.blocks]
        if layer < len(blocks):
            break
        layer -= len(blocks)
    places = blocks[layer].block.attention.places(*grid)
    number = math.prod(grid)
    # (What is padded goes to a token more, which nobody sees.)
    whole = _scattered(value, np.where(places < 0, number, places), number + 1)
    return AttentionMap(whole[:, :number, :number], grid, grid)


def _of_cross_vit(model: CrossViT, values: list[Array]) -> list[AttentionMap]:
    small, large = (_grid(model, branch) for branch in ("small", "large"))
    block = model.transformer.blocks
    depths = [len(stack.drop_rates) for stack in (block.small, block.large)]
    depths += [
        len(f.cross_attention.drop_rates)
        for f in (block.small_fusion, block.large_fusion)
    ]
    grids = [small] * depths[0] + [large] * depths[1]
    grids += [large] * depths[2] + [small] * depths[3]
    times = len(values) // len(grids)
    return [_whole(v, grid, grid) for v, grid in zip(values, times * grids)]


def _of_t2t_vit(model: T2TViT, values: list[Array]) -> list[AttentionMap]:
    splits = range(1, 1 + len(model.token_attentions))
    grids = [token_grid(model.image_size, model.t2t_layers[:i]) for i in splits]
    depth = len(model.transformer.drop_rates)
    grids = grids[: len(values) - depth] + [_grid(model)] * depth
    return [_whole(value, grid, grid) for value, grid in zip(values, grids)]


def _feature(tokens: Float[Array, "tokens dim"], grid: Grid) -> Feature:
    prefix = len(tokens) - grid[0] * grid[1]
    if prefix < 0:  # merged tokens lie on no grid
        return Feature(None, tokens)
    shape = (*grid, tokens.shape[-1])
    return Feature(tokens[prefix:].reshape(shape), tokens[:prefix])


def _grid(model: Any, branch: str = "") -> Grid:
    """The `(height, width)` of the patches of a model that is no pyramid."""
    if isinstance(model, T2TViT):
        return token_grid(model.image_size, model.t2t_layers)
    if isinstance(model, CrossViT):
        embedding = getattr(model, f"{branch}_embedding")
        image_size, patches = embedding.image_size, embedding.patch_embedding
    else:
        image_size, patches = model.image_size, model.patch_embedding
    height, width = (a // b for a, b in zip(image_size, patches.patch_size))
    return height, width
