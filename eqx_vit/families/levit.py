import numpy as np

from ..models import LeViT
from ..pretrained.names import (
    Format,
    Names,
    Tensor,
    Tensors,
    torch_batch_norm,
    torch_conv,
    torch_names,
)


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
FORMATS = (
    Format("timm", ".safetensors", timm, canonical=_linear_spelling, ignored=_IGNORED),
    Format("timm_conv", ".safetensors", timm_conv, ignored=_IGNORED),
)
