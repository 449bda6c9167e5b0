"""Where published files keep the arrays of a model: names and layouts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import einops
import equinox as eqx
import jax
import numpy as np

from ..layers import AlternatingStack


Module = TypeVar("Module", bound=eqx.Module)


class Tensor:
    """Where published files keep one array of a model, and in which layout."""

    def __init__(
        self,
        *names: str,
        theirs: str = "...",
        ours: str = "...",
        encode: Callable = lambda array: array,
        decode: Callable = lambda array: array,
        join: Callable = np.stack,
        split: Callable = list,
        sizes: Mapping[str, int] = {},
    ):
        """**Arguments:**

        - `names`: The published name. Each `{}` in it stands for the index along a
            leading axis of an array that belongs to a scanned stack. Several names are
            tensors that one array of ours joins: `theirs` then begins with an axis over
            them.
        - `theirs`: The published layout, an einops pattern.
        - `ours`: Our layout of the same, without the axes of stacks.
        - `encode`: What else is done to an array of ours, before the change of layout.
        - `decode`: The reverse of `encode`.
        - `join`: From several tensors to the array that `theirs` describes.
        - `split`: The reverse of `join`.
        - `sizes`: The axes that einops cannot infer on the way back.
        """
        self.names = names
        self.theirs = theirs
        self.ours = ours
        # The index along the first axis, in their names: see `numbered`.
        self.start, self.step = 0, 1
        self.encode = encode
        self.decode = decode
        self.join = join
        self.split = split
        self.sizes = dict(sizes)

    def _layers(self, shape: tuple[int, ...]) -> list:
        """The index of every layer in our array, with its published names."""
        axes = shape[: self.names[0].count("{}")]
        return [
            (index, [name.format(*self._numbers(index)) for name in self.names])
            for index in np.ndindex(axes)
        ]

    def _numbers(self, index: tuple[int, ...]) -> tuple[int, ...]:
        return (self.start + self.step * index[0], *index[1:]) if index else ()

    def publish(self, array) -> dict:
        """The published tensors, by name, of one array of ours."""
        tensors, pattern = {}, f"{self.ours} -> {self.theirs}"
        for index, names in self._layers(array.shape):
            layer = self.encode(array[index])
            layer = einops.rearrange(layer, pattern, **self.sizes)
            parts = self.split(layer) if len(names) > 1 else [layer]
            tensors |= zip(names, parts, strict=True)
        return tensors

    def read(self, tensors: Mapping, shape: tuple[int, ...]) -> np.ndarray:
        """Our array, of shape `shape`."""
        layers, pattern = [], f"{self.theirs} -> {self.ours}"
        for _, names in self._layers(shape):
            parts = [_widened(tensors[name]) for name in names]
            layer = self.join(parts) if len(parts) > 1 else parts[0]
            layer = einops.rearrange(layer, pattern, **self.sizes)
            layers.append(self.decode(layer))
        return np.stack(layers).reshape(shape)


def _widened(tensor: Any) -> np.ndarray:
    """A tensor in float32, or wider, so that `decode` does not compute in the 16 bits
    of some files."""
    array = np.asarray(tensor)
    return array.astype(np.float32) if array.dtype.itemsize < 4 else array


Names = dict[str, Tensor]
Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Format:
    """The names that one family of published files gives the arrays of a model.

    - `name`: What `save_weights` calls it. Several formats can share a name, for models
        of different structure.
    - `suffix`: The file format it comes in, `.safetensors` or `.npz`.
    - `names`: From a model to the place of each of its arrays, by path in the model.
        A path that is absent has no place in such files.
    - `constants`: From a model to tensors of the file that the model computes.
    - `canonical`: Rewrites the spellings that are found to the one that `names` gives.
    - `spell`: From a model and its tensors as `names` spells them to those of a file,
        where these differ. `canonical` reads them again.
    - `live`: Renames the tensors of a file, or some of them, to the modules that hold
        them in the library, where these differ.
    - `ignored`: Endings of the names of buffers that carry no weights.
    - `beyond`: From a model to a pattern that the names of tensors for other tasks
        begin with. They are left out, which is logged.
    - `unfit`: From a model to the reason why such files cannot hold it, or `None`.
    - `prefers`: Whether a model that several formats of one name can hold is more
        likely one of this format.
    """

    name: str
    suffix: str
    names: Callable[[Any], Names]
    constants: Callable[[Any], Tensors] = lambda model: {}
    canonical: Callable[[Tensors], Tensors] = lambda tensors: tensors
    spell: Callable[[Any, Tensors], Tensors] = lambda model, tensors: tensors
    live: Callable[[Tensors], Tensors] = lambda tensors: tensors
    ignored: tuple[str, ...] = ("num_batches_tracked",)
    beyond: Callable[[Any], str] = lambda model: "$."  # none
    unfit: Callable[[Any], str | None] = lambda model: None
    prefers: Callable[[Any], bool] = lambda model: False


def numbered(names: Names, start: int, step: int = 1) -> Names:
    """`names` of one stack whose blocks are elsewhere `start`, `start + step`, ..."""
    for tensor in names.values():
        tensor.start, tensor.step = start, step
    return names


def alternating_names(
    ours: str,
    stack: AlternatingStack,
    theirs: str,
    block_names: Callable[[str, str], Names],
    start: int = 0,
) -> Names:
    """The blocks of a [`eqx_vit.layers.AlternatingStack`][], one list elsewhere.

    `theirs` has `{}` for the index in that list, of which `start` is the first.
    `block_names(ours, theirs)` names every kind of block.
    """
    names, position = {}, start
    if stack.turns is not None:
        num_turns = stack.turns.depth
        period = len(stack.turns.blocks.blocks)
        for i in range(period):
            block = block_names(f"{ours}.turns.blocks.blocks.{i}", theirs)
            names |= numbered(block, start + i, period)
        position += num_turns * period
    for i in range(len(stack.remainder.blocks)):
        block = theirs.format(position + i)
        names |= block_names(f"{ours}.remainder.blocks.{i}", block)
    return names


def torch_names(ours: str, theirs: str) -> Names:
    """A layer with a weight and a bias, as PyTorch calls them."""
    return {f"{ours}.{kind}": Tensor(f"{theirs}.{kind}") for kind in ("weight", "bias")}


def torch_block(ours: str, theirs: str) -> Names:
    """A [`eqx_vit.layers.Block`][] with fused attention, as timm calls its arrays."""
    layers = {
        "norm1": "norm1",
        "attention.qkv": "attn.qkv",
        "attention.output": "attn.proj",
        "norm2": "norm2",
        "feed_forward.expand": "mlp.fc1",
        "feed_forward.contract": "mlp.fc2",
    }
    names = {}
    for our_layer, their_layer in layers.items():
        names |= torch_names(f"{ours}.{our_layer}", f"{theirs}.{their_layer}")
    return names


def vit_pytorch_block(
    ours: str, output: str = "to_out.0", contract: str = "net.4"
) -> Names:
    """A [`eqx_vit.layers.Block`][], as vit-pytorch calls its arrays.

    `output` and `contract` differ where a model has no dropout.
    """
    attention, mlp = "transformer.layers.{}.0", "transformer.layers.{}.1"
    layers = {
        "norm1": f"{attention}.norm",
        "attention.qkv": f"{attention}.to_qkv",
        "attention.output": f"{attention}.{output}",
        "norm2": f"{mlp}.net.0",
        "feed_forward.expand": f"{mlp}.net.1",
        "feed_forward.contract": f"{mlp}.{contract}",
    }
    names = {}
    for layer, theirs in layers.items():
        names |= torch_names(f"{ours}.{layer}", theirs)
    # Queries, keys and values have no bias there.
    del names[f"{ours}.attention.qkv.bias"]
    return names


def torch_patches(ours: str, theirs: str, patch_size: tuple[int, int]) -> Names:
    """The projection of patches, which elsewhere is a convolution."""
    height, width = patch_size
    weight = Tensor(
        f"{theirs}.weight",
        theirs="o c p q",
        ours="o (p q c)",
        sizes={"p": height, "q": width},
    )
    return {f"{ours}.weight": weight, f"{ours}.bias": Tensor(f"{theirs}.bias")}


def torch_conv(ours: str, theirs: str) -> Names:
    """A [`eqx_vit.layers.Conv`][]."""
    weight = Tensor(f"{theirs}.weight", theirs="o i h w", ours="h w i o")
    return {f"{ours}.weight": weight, f"{ours}.bias": Tensor(f"{theirs}.bias")}


def torch_depthwise(ours: str, theirs: str, multiplier: int = 1) -> Names:
    """A [`eqx_vit.layers.DepthwiseConv`][]."""
    weight = Tensor(
        f"{theirs}.weight",
        theirs="(c m) 1 h w",
        ours="h w c m",
        sizes={"m": multiplier},
    )
    return {f"{ours}.weight": weight, f"{ours}.bias": Tensor(f"{theirs}.bias")}


def torch_batch_norm(ours: str, theirs: str) -> Names:
    """A [`eqx_vit.layers.BatchNorm`][], running statistics included."""
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {f"{ours}.{kind}": Tensor(f"{theirs}.{kind}") for kind in kinds}


def prefixed(tensors: Tensors, prefix: str, outside: tuple[str, ...]) -> Tensors:
    """Put a prefix before all names that do not begin with one of `outside`, as a class
    with a head spells its encoder."""
    return {
        name if name.startswith(outside) else f"{prefix}{name}": tensor
        for name, tensor in tensors.items()
    }


def with_counters(tensors: Tensors) -> Tensors:
    """Add the counts of updates of PyTorch's batch normalisations, all 0."""
    ending = ".running_mean"
    counters = {
        f"{name.removesuffix(ending)}.num_batches_tracked": np.zeros((), np.int64)
        for name in tensors
        if name.endswith(ending)
    }
    return tensors | counters


def torch_cross_attention(
    ours: str, theirs: str, query: str, key: str, value: str
) -> Names:
    """A [`eqx_vit.layers.CrossAttention`][] of separate keys and values."""
    names = torch_names(f"{ours}.query", f"{theirs}.{query}")
    for kind, axes in (("weight", "o i"), ("bias", "o")):
        names[f"{ours}.key_value.{kind}"] = Tensor(
            f"{theirs}.{key}.{kind}",
            f"{theirs}.{value}.{kind}",
            theirs=f"kv {axes}",
            ours="(kv o) i" if kind == "weight" else "(kv o)",
            sizes={"kv": 2},
        )
    return names | torch_names(f"{ours}.output", f"{theirs}.proj")


def token(name: str) -> Tensor:
    """A table of tokens, which elsewhere has an axis for the batch."""
    return Tensor(name, theirs="1 n d", ours="n d")


def buffer(name: str, **layout: Any) -> Tensor:
    """The bits of a [`eqx_vit.layers.Buffer`][], as the numbers that they spell."""
    return Tensor(
        name,
        encode=lambda bits: jax.lax.bitcast_convert_type(bits, np.float32),
        decode=lambda value: np.float32(value).view(np.uint32),
        **layout,
    )


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


def _flax_heads(ours: str, theirs: str, names: tuple[str, ...], heads: int) -> Names:
    # Projections to heads, which Flax keeps apart and we join in the order of `names`.
    kernels, biases = (
        [f"{theirs}/{name}/{kind}" for name in names] for kind in ("kernel", "bias")
    )
    n, sizes = ("n ", {"n": len(names)}) if len(names) > 1 else ("", {})
    sizes["h"] = heads
    return {
        f"{ours}.weight": Tensor(
            *kernels, theirs=f"{n}i h d", ours=f"({n}h d) i", sizes=sizes
        ),
        f"{ours}.bias": Tensor(
            *biases, theirs=f"{n}h d", ours=f"({n}h d)", sizes=sizes
        ),
    }


def _flax_output(ours: str, theirs: str, heads: int) -> Names:
    weight = Tensor(
        f"{theirs}/out/kernel", theirs="h d o", ours="o (h d)", sizes={"h": heads}
    )
    return {
        f"{ours}.output.weight": weight,
        f"{ours}.output.bias": Tensor(f"{theirs}/out/bias"),
    }


def flax_attention(ours: str, theirs: str, heads: int) -> Names:
    """A [`eqx_vit.layers.Attention`][], as Flax calls its arrays."""
    return {
        **_flax_heads(f"{ours}.qkv", theirs, ("query", "key", "value"), heads),
        **_flax_output(ours, theirs, heads),
    }


def flax_cross_attention(ours: str, theirs: str, heads: int) -> Names:
    """A [`eqx_vit.layers.CrossAttention`][], as Flax calls its arrays."""
    return {
        **_flax_heads(f"{ours}.query", theirs, ("query",), heads),
        **_flax_heads(f"{ours}.key_value", theirs, ("key", "value"), heads),
        **_flax_output(ours, theirs, heads),
    }


def first_of(kind: type[Module], module: eqx.Module) -> Module | None:
    """The first part of a module that is of some kind, or `None`."""
    is_kind = lambda x: isinstance(x, kind)
    parts = jax.tree.leaves(module, is_leaf=is_kind)
    return next((part for part in parts if is_kind(part)), None)
