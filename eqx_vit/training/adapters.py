"""LoRA: low-rank adapters beside the linear layers of a model."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import PRNGKeyArray

from ..families import find_family
from ..layers import (
    adapted,
    COUNT,
    Linear,
    LoRALinear,
    POSITIVE,
    replaced,
    uniform,
)
from .optimizer import is_parameter, match_paths, spell_path


Model = TypeVar("Model", bound=Callable)

# The layers of attention that are adapted by default.
_PROJECTIONS = ("qkv", "kqv", "query", "key", "value", "key_value", "output")


def lora(
    model: Model,
    rank: int = 8,
    where: Sequence[str] | None = None,
    *,
    alpha: float | None = None,
    dropout: float = 0.0,
    rank_stabilised: bool = False,
    key: PRNGKeyArray,
) -> Model:
    """Return the model with a low-rank adapter beside some of its linear layers.

    It computes what `model` does until the adapters are trained. In a scanned stack
    each block has an adapter of its own. To train the adapters and the head:

        model = eqx_vit.lora(model, rank=8, key=key)
        patterns = eqx_vit.training.lora_patterns(model)
        optimizer = eqx_vit.freeze(optax.adamw(1e-3), model, patterns)

    [`eqx_vit.merge_lora`][] makes a plain model of it, and [`eqx_vit.save_adapter`][]
    saves the adapters alone. From [LoRA](https://arxiv.org/abs/2106.09685).

    **Arguments:**

    - `model`: A model, or a part of one.
    - `rank`: The rank of the adapters, at most the smaller side of each weight.
    - `where`: The paths of the linear layers to adapt, as in [`eqx_vit.freeze`][]:
        `["*attention.qkv", "*feed_forward*"]`. One that begins with `!` takes out of
        the earlier ones. By default the projections of attention to and from queries,
        keys and values.
    - `alpha`: The adapter is multiplied by `alpha / rank`; by default by 1. (All others
        are keyword only arguments.)
    - `dropout`: Dropout rate of the input of each adapter.
    - `rank_stabilised`: Whether to multiply by `alpha / sqrt(rank)` instead, as
        [rsLoRA](https://arxiv.org/abs/2312.03732) does.
    - `key`: Randomness for the adapters: `down` is uniform in ±1/√`in_features`, as
        peft has it, and `up` is zero.

    **Raises:**

    A `ValueError` for a path that no linear layer has, a layer that has an adapter, a
    rank larger than a side of a weight, or a number out of range.
    """
    COUNT.check("rank", rank)
    alpha = float(rank) if alpha is None else alpha
    POSITIVE.check("alpha", alpha)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(model, is_leaf=_is_linear)
    layers = {spell_path(path): layer for path, layer in leaves if _is_linear(layer)}
    if where is None:
        where = [path for path in layers if _is_projection(path)]
        if not where:
            raise ValueError(
                f"`model` has no projections of attention by the names "
                f"{', '.join(_PROJECTIONS)}; give `where`, the paths of linear layers, "
                f"of {', '.join(layers) or 'which it has none'}."
            )
    is_chosen = match_paths(list(layers), "where", where, "linear layer")
    keys = iter(jr.split(key, len(layers)))
    scale = alpha / (math.sqrt(rank) if rank_stabilised else rank)

    def adapt(path: str, layer: Linear) -> Linear:
        if isinstance(layer, LoRALinear):
            raise ValueError(
                f"`where` has {path!r}, which has an adapter already; leave it out "
                f"with {'!' + path!r}, or merge the adapters first with `merge_lora`."
            )
        *stack, outputs, inputs = layer.weight.shape
        if rank > min(outputs, inputs):
            raise ValueError(
                f"`rank={rank}` is larger than a side of {path!r}, whose weight is "
                f"{outputs} x {inputs}; the nearest legal value is "
                f"{min(outputs, inputs)}. Or leave the layer out with {'!' + path!r}."
            )
        dtype = layer.weight.dtype
        down = uniform(next(keys), (*stack, rank, inputs), inputs**-0.5, dtype)
        up = jnp.zeros((*stack, outputs, rank), dtype)
        return adapted(layer, down, up, scale, dropout)

    paths = [spell_path(path) for path, _ in leaves]
    new = [
        adapt(path, leaf) if is_chosen.get(path) else leaf
        for path, (_, leaf) in zip(paths, leaves)
    ]
    return jax.tree.unflatten(treedef, new)


def merge_lora(model: Model) -> Model:
    """Return the plain model that computes the same: the product of each adapter is
    added to the weight beside it.

    [`eqx_vit.save_weights`][] and [`eqx_vit.export`][] take it. A model without
    adapters is returned as it is.

    **Arguments:**

    - `model`: From [`eqx_vit.lora`][].
    """
    return jax.tree.map(
        lambda layer: layer.merged() if _is_adapted(layer) else layer,
        model,
        is_leaf=_is_adapted,
    )


def lora_patterns(model: Any) -> list[str]:
    """Return the `patterns` of [`eqx_vit.freeze`][] that leave the adapters and the
    heads to be trained, and nothing else.

    **Arguments:**

    - `model`: From [`eqx_vit.lora`][].

    **Raises:**

    A `ValueError` if the model has no adapters.
    """
    leaves = jax.tree_util.tree_leaves_with_path(model, is_leaf=_is_linear)
    paths = [spell_path(path) for path, layer in leaves if _is_adapted(layer)]
    if not paths:
        raise ValueError("`model` has no adapters; make them with `eqx_vit.lora`.")
    parameters = jax.tree_util.tree_leaves_with_path(eqx.filter(model, is_parameter))
    names = [spell_path(path) for path, _ in parameters]
    family = find_family(model)
    heads = [] if family is None else [f"{head}." for head in family.heads(model)]
    heads = [head for head in heads if any(name.startswith(head) for name in names)]
    adapters = [f"{path}.{factor}" for path in paths for factor in ("down", "up")]
    short = [name for name in names if name.endswith((".down", ".up"))]
    if set(short) == set(adapters):
        adapters = ["*.down", "*.up"]
    return ["*", *(f"!{path}" for path in adapters), *(f"!{head}*" for head in heads)]


def with_lora_keys(model: Model, key: PRNGKeyArray | None) -> Model:
    """Return the model with a key in each adapter that drops some of its input.

    Models call their linear layers without a key, so this gives them theirs before.
    [`eqx_vit.train_step`][] does so for every image.

    **Arguments:**

    - `model`: A model, with adapters or without.
    - `key`: Randomness, split into a key for each adapter, and for each block of a
        scanned stack. With `None` the model is returned as it is.
    """
    leaves, treedef = jax.tree.flatten(model, is_leaf=_is_adapted)
    dropping = [
        i for i, leaf in enumerate(leaves) if _is_adapted(leaf) and _drops(leaf)
    ]
    if key is None or not dropping:
        return model
    keys = jr.split(jr.fold_in(key, _FOLD), len(dropping))
    for i, own in zip(dropping, keys):
        stack = leaves[i].down.shape[:-2]
        leaves[i] = replaced(leaves[i], key=jr.split(own, stack) if stack else own)
    return jax.tree.unflatten(treedef, leaves)


# Folded into the key of an image. (The model draws from splits of that key.)
_FOLD = 0x4C6F5241


def _drops(x: Any) -> bool:
    return _is_adapted(x) and x.dropout.p > 0 and not x.dropout.inference


def _is_adapted(x: Any) -> bool:
    return isinstance(x, LoRALinear)


def _is_linear(x: Any) -> bool:
    return type(x) in (Linear, LoRALinear)


def _is_projection(path: str) -> bool:
    name = path.removesuffix(".layer").rpartition(".")[2]
    return name in _PROJECTIONS and "attention" in path
