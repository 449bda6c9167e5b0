from collections.abc import Callable

import jax

from ..layers import gelu_tanh, quick_gelu
from ..models import CvT
from ..pretrained.names import (
    Format,
    Names,
    token,
    torch_batch_norm,
    torch_conv,
    torch_depthwise,
    torch_names,
)


def official(model: CvT) -> Names:
    names = {
        "class_token": token("stage2.cls_token"),
        **torch_names("norm", "norm"),
        **torch_names("head", "head"),
    }
    for i in range(3):
        ours, theirs = f"stages.{i}", f"stage{i}"
        blocks, block = f"{ours}.blocks.blocks", f"{theirs}.blocks.{{}}"
        names |= torch_conv(f"{ours}.conv", f"{theirs}.patch_embed.proj")
        names |= torch_names(f"{ours}.norm", f"{theirs}.patch_embed.norm")
        for kind in ("query", "key", "value"):
            attention = f"{blocks}.attention.{kind}"
            conv = f"{block}.attn.conv_proj_{kind[0]}"
            names |= torch_depthwise(f"{attention}_conv.layer", f"{conv}.conv")
            names |= torch_batch_norm(f"{attention}_conv.norm", f"{conv}.bn")
            names |= torch_names(attention, f"{block}.attn.proj_{kind[0]}")
        names |= {
            **torch_names(f"{blocks}.attention.output", f"{block}.attn.proj"),
            **torch_names(f"{blocks}.norm1", f"{block}.norm1"),
            **torch_names(f"{blocks}.norm2", f"{block}.norm2"),
            **torch_names(f"{blocks}.feed_forward.expand", f"{block}.mlp.fc1"),
            **torch_names(f"{blocks}.feed_forward.contract", f"{block}.mlp.fc2"),
        }
    return names


# From the authors' names to those of transformers, part by part.
_EMBEDDING = ".embedding.convolution_embeddings."
_PARTS = {
    "stage": "cvt.encoder.stages.",
    ".patch_embed.proj": f"{_EMBEDDING}projection",
    ".patch_embed.norm": f"{_EMBEDDING}normalization",
    ".blocks.": ".layers.",
    ".attn.proj.": ".attention.output.dense.",
    ".mlp.fc1": ".intermediate.dense",
    ".mlp.fc2": ".output.dense",
    ".norm1": ".layernorm_before",
    ".norm2": ".layernorm_after",
}
for _kind in ("query", "key", "value"):
    _attention = ".attention.attention."
    _conv = f"{_attention}convolution_projection_{_kind}.convolution_projection."
    _PARTS |= {
        f".attn.conv_proj_{_kind[0]}.conv": f"{_conv}convolution",
        f".attn.conv_proj_{_kind[0]}.bn": f"{_conv}normalization",
        f".attn.proj_{_kind[0]}": f"{_attention}projection_{_kind}",
    }


def transformers(model: CvT) -> Names:
    names = official(model)
    for tensor in names.values():
        tensor.names = tuple(_in_transformers(name) for name in tensor.names)
    return names


def _in_transformers(name: str) -> str:
    for whole, their_whole in (("norm.", "layernorm."), ("head.", "classifier.")):
        if name.startswith(whole):
            return name.replace(whole, their_whole)
    for part, their_part in _PARTS.items():
        name = name.replace(part, their_part)
    return name


def _not_exact(model: CvT) -> str | None:
    activation = model.stages[0].blocks.blocks.feed_forward.activation
    # (QuickGELU is known to differ; an activation of somebody's own is their business.)
    if activation in (quick_gelu, gelu_tanh, jax.nn.gelu):
        return (
            f"transformers' CvT has the exact GELU and this model `{_name(activation)}`"
            "; build it with `activation=eqx_vit.layers.gelu`"
        )


def _name(function: Callable) -> str:
    return getattr(function, "__name__", str(function))


FORMATS = (
    Format("official", ".safetensors", official),
    Format("transformers", ".safetensors", transformers, unfit=_not_exact),
)
