from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import einops
import equinox as eqx
import jax
import numpy as np


class Tensor:
    """Where published files keep one array of a model, and in which layout."""

    names: tuple[str, ...]
    theirs: str
    ours: str
    sizes: dict[str, int]

    def __init__(
        self, *names: str, theirs: str = "...", ours: str = "...", **sizes: int
    ):
        """**Arguments:**

        - `names`: The published name. `{}` in it stands for the index along the leading
            axis of an array that belongs to a scanned stack. Several names are tensors
            that one array of ours joins: `theirs` then begins with an axis over them.
        - `theirs`: The published layout, an einops pattern.
        - `ours`: Our layout of the same, without the axis of the stack.
        - `sizes`: The axes that einops cannot infer on the way back.
        """
        self.names = names
        self.theirs = theirs
        self.ours = ours
        self.sizes = sizes

    @property
    def stacked(self) -> bool:
        return "{}" in self.names[0]

    def publish(self, array) -> dict:
        """The published tensors, by name, of one array of ours."""
        tensors = {}
        for i, layer in enumerate(array) if self.stacked else [(0, array)]:
            pattern = f"{self.ours} -> {self.theirs}"
            layer = einops.rearrange(layer, pattern, **self.sizes)
            parts = layer if len(self.names) > 1 else [layer]
            for name, part in zip(self.names, parts, strict=True):
                tensors[name.format(i)] = part
        return tensors

    def read(self, tensors: Mapping, shape: tuple[int, ...]) -> np.ndarray:
        """Our array, of shape `shape`."""
        layers = []
        for i in range(shape[0] if self.stacked else 1):
            parts = [np.asarray(tensors[name.format(i)]) for name in self.names]
            layer = np.stack(parts) if len(parts) > 1 else parts[0]
            pattern = f"{self.theirs} -> {self.ours}"
            layers.append(einops.rearrange(layer, pattern, **self.sizes))
        return np.stack(layers) if self.stacked else layers[0]


Names = dict[str, Tensor]
Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Format:
    """The names that one family of published files gives the arrays of a model.

    - `name`: What `save_weights` calls it.
    - `suffix`: The file format it comes in, `.safetensors` or `.npz`.
    - `names`: From a model to the place of each of its arrays, by path in the model.
        A path that is absent has no place in such files.
    - `constants`: From a model to tensors of the file that the model computes.
    - `canonical`: Rewrites the spellings that are found to the one that `names` gives.
    - `ignored`: Endings of the names of buffers that carry no weights.
    - `unfit`: From a model to the reason why such files cannot hold it, or `None`.
    """

    name: str
    suffix: str
    names: Callable[[Any], Names]
    constants: Callable[[Any], Tensors] = lambda model: {}
    canonical: Callable[[Tensors], Tensors] = lambda tensors: tensors
    ignored: tuple[str, ...] = ("num_batches_tracked",)
    unfit: Callable[[Any], str | None] = lambda model: None


def torch_names(ours: str, theirs: str) -> Names:
    """A layer with a weight and a bias, as PyTorch calls them."""
    kinds = ("weight", "bias")
    return {f"{ours}.{kind}": Tensor(f"{theirs}.{kind}") for kind in kinds}


def flax_norm(ours: str, theirs: str) -> Names:
    """A normalisation, as Flax calls its arrays."""
    return {
        f"{ours}.weight": Tensor(f"{theirs}/scale"),
        f"{ours}.bias": Tensor(f"{theirs}/bias"),
    }


def flax_dense(ours: str, theirs: str) -> Names:
    """A linear layer, as Flax calls its arrays."""
    return {
        f"{ours}.weight": Tensor(f"{theirs}/kernel", theirs="i o", ours="o i"),
        f"{ours}.bias": Tensor(f"{theirs}/bias"),
    }


def flax_attention(ours: str, theirs: str, heads: int) -> Names:
    """Our fused attention, as Flax calls the arrays of its multi-head attention."""

    def fused(kind):
        return [f"{theirs}/{name}/{kind}" for name in ("query", "key", "value")]

    return {
        f"{ours}.qkv.weight": Tensor(
            *fused("kernel"), theirs="n i h d", ours="(n h d) i", n=3, h=heads
        ),
        f"{ours}.qkv.bias": Tensor(
            *fused("bias"), theirs="n h d", ours="(n h d)", n=3, h=heads
        ),
        f"{ours}.output.weight": Tensor(
            f"{theirs}/out/kernel", theirs="h d o", ours="o (h d)", h=heads
        ),
        f"{ours}.output.bias": Tensor(f"{theirs}/out/bias"),
    }


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
