from collections.abc import Callable
from typing import Any

import jax

from ..layers import gelu, gelu_tanh, quick_gelu
from ..models import CvT
from .configs import Config, Kind, num_labels
from .family import any_size, Family, no_argument, Variant
from .formats import (
    Format,
    Names,
    prefixed,
    Tensors,
    token,
    torch_batch_norm,
    torch_conv,
    torch_depthwise,
    torch_names,
    with_counters,
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
    "stage": "encoder.stages.",
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


def _plain(tensors: Tensors) -> Tensors:
    return {name.removeprefix("cvt."): tensor for name, tensor in tensors.items()}


def _spell(model: CvT, tensors: Tensors) -> Tensors:
    return prefixed(with_counters(tensors), "cvt.", ("layernorm.", "classifier."))


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


_TRANSFORMERS = Format(
    "transformers",
    ".safetensors",
    transformers,
    canonical=_plain,
    spell=_spell,
    unfit=_not_exact,
)
_FORMATS = (Format("official", ".safetensors", official), _TRANSFORMERS)


# What a config of transformers has for each stage, as our arguments end; and what the
# class fixes.
_STAGE = {
    "embed_dim": "emb_dim",
    "patch_sizes": "emb_kernel",
    "patch_stride": "emb_stride",
    "kernel_qkv": "proj_kernel",
    "stride_kv": "kv_proj_stride",
    "num_heads": "heads",
    "depth": "depth",
    "mlp_ratio": "mlp_mult",
}
_DEFAULTS = dict(
    embed_dim=[64, 192, 384],
    patch_sizes=[7, 3, 3],
    patch_stride=[4, 2, 2],
    kernel_qkv=[3, 3, 3],
    stride_kv=[2, 2, 2],
    num_heads=[1, 3, 6],
    depth=[1, 2, 10],
    mlp_ratio=[4, 4, 4],
)
_FIXED = dict(
    qkv_bias=[True, True, True],
    cls_token=[False, False, True],
    qkv_projection_method=["dw_bn", "dw_bn", "dw_bn"],
    stride_q=[1, 1, 1],
)


def _read(config: Config) -> dict[str, Any]:
    for name, value in _FIXED.items():
        if list(config.get(name, value)) != value:
            raise ValueError(f"`{name}={config[name]!r}`; a CvT here has {value!r}")
    sides, strides = (
        config.get(name, _DEFAULTS[name]) for name in ("patch_sizes", "patch_stride")
    )
    padding = [(side - stride + 1) // 2 for side, stride in zip(sides, strides)]
    if list(config.get("patch_padding", padding)) != padding:
        raise ValueError(
            f"`patch_padding={config['patch_padding']!r}`; a CvT here has {padding!r}"
        )
    kernels = config.get("kernel_qkv", _DEFAULTS["kernel_qkv"])
    padding = [side // 2 for side in kernels]
    for name in ("padding_kv", "padding_q"):
        if list(config.get(name, padding)) != padding:
            raise ValueError(f"`{name}={config[name]!r}`; a CvT here has {padding!r}")
    arguments: dict[str, Any] = {
        f"s{i + 1}_{ours}": _whole(config.get(theirs, _DEFAULTS[theirs])[i])
        for theirs, ours in _STAGE.items()
        for i in range(3)
    }
    return arguments | dict(
        channels=config.get("num_channels", 3),
        num_classes=num_labels(config),
        image_size=224,  # it takes images of any size
        activation=gelu,
    )


def _whole(number: float) -> float:
    return int(number) if number == int(number) else number


def _write(model: CvT) -> dict[str, Any]:
    if model.head is None:
        raise ValueError("transformers' CvT without a head has no last normalisation")
    stages = model.stages
    block = stages[0].blocks.blocks
    if block.feed_forward.activation is not gelu or block.norm1.eps != 1e-5:
        raise ValueError(
            "transformers' CvT has `activation=eqx_vit.layers.gelu, norm_eps=1e-5`"
        )
    if any(stage.blocks.depth <= i for i, stage in enumerate(stages)):
        raise ValueError("transformers' CvT has at least i blocks in its stage i")
    attentions = [stage.blocks.blocks.attention for stage in stages]
    widths = [stage.conv.weight.shape[-1] for stage in stages]
    hidden = [s.blocks.blocks.feed_forward.expand.weight.shape[1] for s in stages]
    kernels = [a.key_conv.layer.weight.shape[1] for a in attentions]
    patches = [stage.conv.weight.shape[0] for stage in stages]
    return dict(
        model_type="cvt",
        architectures=["CvtForImageClassification"],
        num_channels=stages[0].conv.weight.shape[2],
        embed_dim=widths,
        patch_sizes=patches,
        patch_stride=[stage.conv.stride[0] for stage in stages],
        patch_padding=[stage.conv.padding for stage in stages],
        kernel_qkv=kernels,
        padding_kv=[side // 2 for side in kernels],
        padding_q=[side // 2 for side in kernels],
        stride_kv=[a.key_conv.layer.stride for a in attentions],
        num_heads=[attention.heads for attention in attentions],
        depth=[stage.blocks.depth for stage in stages],
        mlp_ratio=[h / width for h, width in zip(hidden, widths)],
        **_FIXED,
    )


_KIND = Kind(
    model_types=("cvt",),
    format=_TRANSFORMERS,
    read=_read,
    write=_write,
    any_size=True,
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
    kinds=(_KIND,),
    resize=any_size,
    size_arguments=no_argument,
)
