"""The arrays of a model and of its state by their paths."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax

from ..families.formats import Format, Names, Tensor


def _is_index(x) -> bool:
    return isinstance(x, eqx.nn.StateIndex)


def _is_array(x) -> bool:
    return eqx.is_array(x) or isinstance(x, jax.ShapeDtypeStruct)


def flatten(model: eqx.Module, state: eqx.nn.State | None) -> dict:
    """The arrays of a model, and of its state, by their path in the model."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(model, is_leaf=_is_index)
    arrays = {}
    for path, leaf in leaves:
        value = state.get(leaf) if _is_index(leaf) and state is not None else leaf
        if _is_array(value):
            arrays[jax.tree_util.keystr(path, simple=True, separator=".")] = value
    return arrays


def _own_names(model: eqx.Module) -> Names:
    """The paths of the arrays in the model, for which any model has a place."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(model, is_leaf=_is_index)
    paths = [path for path, leaf in leaves if _is_index(leaf) or _is_array(leaf)]
    spelt = (jax.tree_util.keystr(p, simple=True, separator=".") for p in paths)
    return {path: Tensor(path) for path in spelt}


# The file of a model that no published code can hold.
OWN = Format("eqx_vit", ".safetensors", _own_names)


def unflatten(
    model: eqx.Module, state: eqx.nn.State | None, arrays: Mapping
) -> tuple[Any, Any]:
    """`model` and `state` with other arrays, given by path."""
    if state is not None:  # a copy, since `State.set` spends what it is called on
        leaves, treedef = jax.tree.flatten(state)
        state = jax.tree.unflatten(treedef, leaves)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(model, is_leaf=_is_index)
    new_leaves = []
    for path, leaf in leaves:
        value = arrays.get(jax.tree_util.keystr(path, simple=True, separator="."))
        if value is None:
            new_leaves.append(leaf)
        elif state is not None and _is_index(leaf):
            state = state.set(leaf, value)
            new_leaves.append(leaf)
        else:
            new_leaves.append(value)
    return jax.tree.unflatten(treedef, new_leaves), state
