from collections.abc import Callable

import jax

from ..layers import gelu_tanh, quick_gelu
from ..models import CvT
from .family import any_size, Family, no_argument, Variant
from .formats import (
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


_FORMATS = (
    Format("official", ".safetensors", official),
    Format("transformers", ".safetensors", transformers, unfit=_not_exact),
)


def _cvt(depth: int, side: int) -> Variant:
    depths = dict(s1_depth=1, s2_depth=2 if depth == 13 else 4)
    depths |= dict(s3_depth=depth - sum(depths.values()))
    return Variant(CvT, side, depths | dict(s3_heads=6))


# The largest is not a multiple of the others.
_CVT_W24 = dict(s1_emb_dim=192, s1_depth=2, s1_heads=3)
_CVT_W24 |= dict(s2_emb_dim=768, s2_depth=2, s2_heads=12)
_CVT_W24 |= dict(s3_emb_dim=1024, s3_depth=20, s3_heads=16)

VARIANTS = {
    "cvt_13": _cvt(13, 224),
    "cvt_21": _cvt(21, 224),
    "cvt_13_384": _cvt(13, 384),
    "cvt_21_384": _cvt(21, 384),
    "cvt_w24_384": Variant(CvT, 384, _CVT_W24),
}


FAMILY = Family(
    model=CvT,
    tiny=dict(
        s1_emb_dim=16,
        s1_heads=1,
        s1_depth=1,
        s1_mlp_mult=2,
        s2_emb_dim=32,
        s2_heads=2,
        s2_depth=1,
        s2_mlp_mult=2,
        s3_emb_dim=64,
        s3_heads=4,
        s3_depth=1,
        s3_mlp_mult=2,
    ),
    variants=VARIANTS,
    formats=_FORMATS,
    resize=any_size,
    size_arguments=no_argument,
)
