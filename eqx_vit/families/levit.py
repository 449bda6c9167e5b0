from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import rearrange

from ..layers import check_multiple, replaced, resize_bicubic
from ..models import LeViT
from .family import Family, Variant
from .formats import (
    Format,
    Names,
    Tensor,
    Tensors,
    torch_batch_norm,
    torch_conv,
    torch_names,
)
from .positions import grid, Size


def _linear(ours: str, theirs: str, axes: str) -> Names:
    weight = Tensor(f"{theirs}.linear.weight", theirs=f"o i{axes}", ours="o i")
    return {
        f"{ours}.layer.weight": weight,
        **torch_batch_norm(f"{ours}.norm", f"{theirs}.bn"),
    }


def _feed_forward(ours: str, theirs: str, axes: str) -> Names:
    return {
        **_linear(f"{ours}.expand", f"{theirs}.ln1", axes),
        **_linear(f"{ours}.contract", f"{theirs}.ln2", axes),
    }


def timm(model: LeViT, axes: str = "") -> Names:
    """`axes` are those that a linear layer has besides where it is a convolution."""
    names = {}
    for i in range(4):
        ours, theirs = f"stem.convs.{i}", f"stem.conv{i + 1}"
        names |= torch_conv(f"{ours}.layer", f"{theirs}.linear")
        names |= torch_batch_norm(f"{ours}.norm", f"{theirs}.bn")
    for i in range(len(model.stages)):
        ours, theirs = f"stages.{i}.blocks", f"stages.{i}.blocks.{{}}"
        names |= {
            f"{ours}.attention.biases": Tensor(f"{theirs}.attn.attention_biases"),
            **_linear(f"{ours}.attention.qkv", f"{theirs}.attn.qkv", axes),
            **_linear(f"{ours}.attention.output", f"{theirs}.attn.proj.ln", axes),
            **_feed_forward(f"{ours}.feed_forward", f"{theirs}.mlp", axes),
        }
    for i in range(len(model.shrinkings)):
        ours, theirs = f"shrinkings.{i}", f"stages.{i + 1}.downsample"
        attention = f"{theirs}.attn_downsample"
        names |= {
            f"{ours}.attention.biases": Tensor(f"{attention}.attention_biases"),
            **_linear(f"{ours}.attention.query", f"{attention}.q.ln", axes),
            **_linear(f"{ours}.attention.key_value", f"{attention}.kv", axes),
            **_linear(f"{ours}.attention.output", f"{attention}.proj.ln", axes),
            **_feed_forward(f"{ours}.feed_forward", f"{theirs}.mlp", axes),
        }
    for ours, theirs in (("head", "head"), ("distillation_head", "head_dist")):
        names |= torch_batch_norm(f"{ours}.norm", f"{theirs}.bn")
        names |= torch_names(f"{ours}.linear", f"{theirs}.linear")
    return names


def timm_conv(model: LeViT) -> Names:
    """Of timm's `levit_conv_*`: the same with linear layers as convolutions."""
    return timm(model, " 1 1")


def _linear_spelling(tensors: Tensors) -> Tensors:
    pointwise = (1, 1)
    return {
        name: np.asarray(t)[:, :, 0, 0] if tuple(t.shape[2:]) == pointwise else t
        for name, t in tensors.items()
    }


_IGNORED = ("num_batches_tracked", "attention_bias_idxs")

# Files of either are read by the first, since they have the same names.
_FORMATS = (
    Format("timm", ".safetensors", timm, canonical=_linear_spelling, ignored=_IGNORED),
    Format("timm_conv", ".safetensors", timm_conv, ignored=_IGNORED),
)


def _levit(dim: tuple, heads: tuple, depth: tuple, dim_key: int) -> Variant:
    sizes = dict(image_size=224, dim=dim, heads=heads, depth=depth)
    keys = dict(dim_key=dim_key, dim_value=2 * dim_key)
    return Variant(LeViT, 224, sizes | keys)


_LEVITS = {
    "128s": _levit((128, 256, 384), (4, 6, 8), (2, 3, 4), 16),
    "128": _levit((128, 256, 384), (4, 8, 12), (4, 4, 4), 16),
    "192": _levit((192, 288, 384), (3, 5, 6), (4, 4, 4), 32),
    "256": _levit((256, 384, 512), (4, 6, 8), (4, 4, 4), 32),
    "384": _levit((384, 512, 768), (6, 9, 12), (4, 4, 4), 32),
}

VARIANTS = {
    **{f"levit_{name}": levit for name, levit in _LEVITS.items()},
    # The same weights, written as convolutions.
    **{f"levit_conv_{name}": levit for name, levit in _LEVITS.items()},
}


def _heads(model: LeViT) -> dict[str, int]:
    # (Without a head its state has no statistics for one.)
    heads = dict(head=model.head, distillation_head=model.distillation_head)
    return {
        f"{name}.linear": head.linear.weight.shape[1]
        for name, head in heads.items()
        if head is not None
    }


def _resize(model: LeViT, image_size: Size) -> LeViT:
    """timm has nothing for the biases. They are mirrored to a table of signed
    distances, interpolated about its centre, and cut again."""
    check_multiple("image_size", image_size, "the stride of the stem", 16)
    size = grid(image_size, (16, 16))
    stages, shrinkings = [], []
    for i, stage in enumerate(model.stages):
        if i > 0:
            shrinking = model.shrinkings[i - 1]
            attention = _resized_biases(shrinking.attention, size)
            shrinkings.append(replaced(shrinking, attention=attention))
            size = (size[0] + 1) // 2, (size[1] + 1) // 2
        attention = _resized_biases(stage.blocks.attention, size)
        blocks = replaced(stage.blocks, attention=attention)
        stages.append(replaced(stage, blocks=blocks))
    return replaced(
        model,
        stages=tuple(stages),
        shrinkings=tuple(shrinkings),
        image_size=image_size,
    )


def _resized_biases(attention: Any, size: Size) -> Any:
    """Attention whose table of a bias per distance spans a map of another size."""
    shape = attention.biases.shape  # of a stack, or of a single layer
    height, width = attention.size
    table = rearrange(attention.biases.reshape(-1, height, width), "h y x -> y x h")
    # Distances are symmetric, and 0 must stay where it is.
    table = jnp.pad(table, ((height - 1, 0), (width - 1, 0), (0, 0)), "reflect")
    table = resize_bicubic(table, (2 * size[0] - 1, 2 * size[1] - 1))
    table = rearrange(table[size[0] - 1 :, size[1] - 1 :], "y x h -> h (y x)")
    return replaced(attention, biases=table.reshape(*shape[:-1], -1), size=size)


FAMILY = Family(
    model=LeViT,
    tiny=dict(stages=2, dim=(32, 64), depth=1, heads=(2, 4), mlp_mult=2),
    tiny_side=64,
    variants=VARIANTS,
    formats=_FORMATS,
    heads=_heads,
    resize=_resize,
    between=("shrinkings",),
)
