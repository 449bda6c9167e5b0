"""Features, attention maps, rollout and relevance."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..families import families, family_of, headless
from ..families.maps import AttentionMap, Feature
from ..layers import call_with_state, unwrapped
from .capture import interpret


@eqx.filter_jit
def features(
    model: Callable,
    image: Float[Array, "height width channels"],
    state: eqx.nn.State | None = None,
    *,
    blocks: Sequence[int] | None = None,
) -> list[Feature]:
    """The outputs of the stages of a pyramid, or of the blocks of any other model,
    before the last normalisation; as timm's `forward_intermediates` where timm has it.

    **Arguments:**

    - `model`: A model. It is taken in inference mode.
    - `image`: A single image. (Use `jax.vmap` for a batch.)
    - `state`: The model's running statistics, from
        `equinox.nn.make_with_state(Model)(...)`; not needed by a model without any.
    - `blocks`: Which of them, counted from 0, or from the end if negative; by default
        all. (Keyword only argument.)

    **Returns:**

    A feature for each. A model of two branches has two a block; one with regional
    tokens gives its local ones.

    **Raises:**

    A `ValueError` if there is no such block.
    """
    model = eqx.nn.inference_mode(model)
    names = ["block", "stage"]
    _, found = interpret(model, names, image, state, unstack=True, strict=False)
    all_features = family_of(unwrapped(model)).features(unwrapped(model), found)
    number = len(all_features)
    for block in blocks or ():
        if not -number <= block < number:
            raise ValueError(
                f"`blocks={tuple(blocks or ())}` has {block}, but there are {number}; "
                f"the nearest legal value is {number - 1 if block > 0 else -number}."
            )
    chosen = range(number) if blocks is None else blocks
    return [all_features[i] for i in chosen]


class Embedding(eqx.Module):
    """The features of an image before the head.

    - `pooled`: The input of the head.
    - `map`: The tokens of the last grid after the last normalisation, `None` where they
        lie on none.
    - `prefix`: The tokens before them: class, distillation and register tokens.
    """

    pooled: Float[Array, " features"]
    map: Float[Array, "height width dim"] | None
    prefix: Float[Array, "prefix dim"]


@eqx.filter_jit
def embed(
    model: Callable,
    image: Float[Array, "height width channels"],
    state: eqx.nn.State | None = None,
) -> Embedding:
    """The pooled features of an image, and the tokens that are pooled: transformers'
    `pooler_output` and `last_hidden_state`, timm's `forward_head(x, pre_logits=True)`
    and `forward_features`.

    Of a model that normalises after pooling, the tokens are not normalised. (CaiT keeps
    its class token apart, and CrossViT gives the tokens of its branch of larger
    patches.)

    **Arguments:** as [`eqx_vit.features`][], without `blocks`.
    """
    model = eqx.nn.inference_mode(model)
    found = features(model, image, state)
    tokens = family_of(unwrapped(model)).tokens(unwrapped(model), found)
    bare = eqx.tree_at(unwrapped, model, headless(unwrapped(model)))
    pooled, _ = call_with_state(bare, image, state)
    return Embedding(pooled, tokens.map, tokens.prefix)


@eqx.filter_jit
def attention_maps(
    model: Callable,
    image: Float[Array, "height width channels"],
    state: eqx.nn.State | None = None,
) -> list[AttentionMap]:
    """The attention of every layer, with windows, groups and regions folded back into
    the plane of the image.

    The probabilities after the softmax, before talking heads or re-attention mix
    them. Parallel branches of a block count as heads.
    Performers, attention in linear time, have no maps.

    **Arguments:**

    - `model`: A model. It is taken in inference mode.
    - `image`: A single image. (Use `jax.vmap` for a batch.)
    - `state`: The model's running statistics, from
        `equinox.nn.make_with_state(Model)(...)`; not needed by a model without any.
    """
    model = eqx.nn.inference_mode(model)
    names = ["attention", "stage"]
    _, found = interpret(model, names, image, state, unstack=True, strict=False)
    return family_of(unwrapped(model)).attention(unwrapped(model), found)


@eqx.filter_jit
def rollout(
    model: Callable,
    image: Float[Array, "height width channels"],
    state: eqx.nn.State | None = None,
) -> Float[Array, "rows columns"]:
    """Attention rollout: the share of each patch in the input of the head.

    Each layer passes on half of its input and half of the tokens that it attends to.

    [Quantifying Attention Flow in Transformers](https://arxiv.org/abs/2005.00928), with
    the mean over heads. It is the class token's row, or without one the mean over all
    tokens; class attention goes on from the patches' rollout.

    **Arguments:** as [`eqx_vit.attention_maps`][], of a model whose tokens all attend
    to each other on one grid; the error lists them.

    **Raises:**

    A `ValueError` for any other.
    """
    if not family_of(unwrapped(model)).rollout:
        known = ", ".join(name for name, f in families().items() if f.rollout)
        raise ValueError(
            f"`rollout` is for models whose tokens all attend to each other: {known}. "
            f"For {type(model).__name__} see `relevance` and `attention_maps`."
        )
    return _flow(model, attention_maps(model, image, state), 0.5, 0.5)


def class_attention(
    model: Callable,
    image: Float[Array, "height width channels"],
    state: eqx.nn.State | None = None,
) -> list[Float[Array, "heads rows columns"]]:
    """The attention of the class token in each layer that has one, with cross-attention
    between branches.

    **Arguments:** as [`eqx_vit.attention_maps`][].

    **Raises:**

    A `ValueError` for a model without a class token.
    """
    maps = attention_maps(model, image, state)
    found = [m.on_keys()[:, 0] for m in maps if m.num_prefix and m.key_grid != (0, 0)]
    if (
        not found
        or family_of(unwrapped(model)).head_reads(unwrapped(model)) == "regions"
    ):
        raise ValueError(
            f"{type(model).__name__} has no class token; `attention_maps` shows what "
            "its patches attend to."
        )
    return found


def relevance(
    model: Callable,
    image: Float[Array, "height width channels"],
    state: eqx.nn.State | None = None,
    *,
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

    A `ValueError` for a model whose branches have two grids, or whose last tokens are
    on none.
    """
    if not family_of(unwrapped(model)).relevance:
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
    _, found = interpret(model, names, image, state, **options)

    def logit(offsets):
        logits, _ = interpret(model, names, image, state, offsets=offsets, **options)
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
    return _flow(
        model,
        family_of(unwrapped(model)).attention(unwrapped(model), weighted)[-number:],
        1.0,
        1.0,
    )


def _flow(
    model: Any, maps: list[AttentionMap], kept: float, attended: float
) -> Float[Array, "rows columns"]:
    """The flow from the last grid's patches to the tokens that the head reads, where a
    layer passes on these shares of its input and of the tokens that it attends to."""
    grid = maps[-1].key_grid if maps[-1].query_grid == (0, 0) else maps[-1].query_grid
    # (Keys of twice the size are what a stage begins with, of the one before.)
    layers = [m for m in maps if m.query_grid == grid and m.key_grid[0] < 2 * grid[0]]
    flow = jnp.eye(layers[-1].probabilities.shape[1])
    for layer in layers:
        flow = kept * flow + attended * _on_queries(layer) @ flow
    reads = family_of(unwrapped(model)).head_reads(unwrapped(model))
    classes = [m for m in maps if m.query_grid == (0, 0)]
    # Over the class token itself and the patches.
    if classes and reads == "class token":
        patches = jnp.pad(flow, ((0, 0), (1, 0)))
        flow = jnp.eye(1, patches.shape[1])
        for layer in classes:
            seen = jnp.mean(layer.probabilities, axis=0)
            gathered = seen[:, :1] @ flow + seen[:, 1:] @ patches
            flow = kept * flow + attended * gathered
    prefix = flow.shape[1] - math.prod(grid)
    if reads == "regions":
        seen = flow[:prefix]
    elif reads == "class token" and prefix:
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
