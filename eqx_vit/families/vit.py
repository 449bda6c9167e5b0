import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ..layers import gelu, gelu_tanh, quick_gelu
from ..models import SimpleViT, ViT
from . import vit_configs, vit_in_transformers
from .configs import (
    Config,
    ratio_of,
    read_timm,
    renamed,
    their_size,
)
from .family import Family, pooled_tokens, resize_patches_plain, Variant
from .formats import (
    flax_attention,
    flax_cross_attention,
    flax_dense,
    flax_norm,
    Format,
    Names,
    Tensor,
    Tensors,
    token,
    torch_block,
    torch_names,
    torch_patches,
    vit_pytorch_block,
)


Model = ViT | SimpleViT


def timm(model: Model) -> Names:
    block, theirs = "transformer.blocks", "blocks.{}"
    norm = "fc_norm" if isinstance(model, ViT) and model.norm_after_pool else "norm"
    return {
        "class_token": token("cls_token"),
        "distillation_token": token("dist_token"),
        "register_tokens": token("reg_token"),
        "position_embedding": token("pos_embed"),
        **torch_patches(
            "patch_embedding.linear",
            "patch_embed.proj",
            model.patch_embedding.patch_size,
        ),
        **torch_names("pre_norm", "norm_pre"),
        **torch_block(block, theirs),
        f"{block}.layer_scale1.weight": Tensor(f"{theirs}.ls1.gamma"),
        f"{block}.layer_scale2.weight": Tensor(f"{theirs}.ls2.gamma"),
        "attention_pool.probe": token("attn_pool.latent"),
        **torch_names("attention_pool.attention.query", "attn_pool.q"),
        **torch_names("attention_pool.attention.key_value", "attn_pool.kv"),
        **torch_names("attention_pool.attention.output", "attn_pool.proj"),
        **torch_names("attention_pool.norm", "attn_pool.norm"),
        **torch_names("attention_pool.feed_forward.expand", "attn_pool.mlp.fc1"),
        **torch_names("attention_pool.feed_forward.contract", "attn_pool.mlp.fc2"),
        **torch_names("norm", norm),
        **torch_names("pre_logits", "pre_logits.fc"),
        **torch_names("head", "head"),
        **torch_names("distillation_head", "head_dist"),
    }


def vit_pytorch(model: Model) -> Names:
    # The steps of an `nn.Sequential` count: without its two normalisations the
    # projection comes first.
    projection = 1 if model.patch_embedding.patch_norm is None else 2
    if isinstance(model, SimpleViT):
        block = vit_pytorch_block("transformer.blocks", "to_out", "net.3")
        head = "linear_head"
    else:
        block, head = vit_pytorch_block("transformer.blocks"), "mlp_head"
    return {
        "class_token": Tensor("cls_token"),
        "position_embedding": Tensor("pos_embedding"),
        **torch_names("patch_embedding.patch_norm", "to_patch_embedding.1"),
        **torch_names("patch_embedding.linear", f"to_patch_embedding.{projection}"),
        **torch_names("patch_embedding.token_norm", "to_patch_embedding.3"),
        **block,
        **torch_names("norm", "transformer.norm"),
        **torch_names("head", head),
    }


def _flax(model: Model, attention: int, norm: int, mlp: int) -> Names:
    # The numbers are those that Flax gave the children of a block.
    block, theirs = "transformer.blocks", "Transformer/encoderblock_{}"
    heads = model.transformer.blocks.attention.heads
    height, width = model.patch_embedding.patch_size
    pool = "MAPHead_0"
    return {
        "class_token": token("cls"),
        "patch_embedding.linear.weight": Tensor(
            "embedding/kernel",
            theirs="p q c o",
            ours="o (p q c)",
            sizes={"p": height, "q": width},
        ),
        "patch_embedding.linear.bias": Tensor("embedding/bias"),
        **flax_norm(f"{block}.norm1", f"{theirs}/LayerNorm_0"),
        **flax_attention(
            f"{block}.attention",
            f"{theirs}/MultiHeadDotProductAttention_{attention}",
            heads,
        ),
        **flax_norm(f"{block}.norm2", f"{theirs}/LayerNorm_{norm}"),
        **flax_dense(
            f"{block}.feed_forward.expand", f"{theirs}/MlpBlock_{mlp}/Dense_0"
        ),
        **flax_dense(
            f"{block}.feed_forward.contract", f"{theirs}/MlpBlock_{mlp}/Dense_1"
        ),
        "attention_pool.probe": token(f"{pool}/probe"),
        **flax_cross_attention(
            "attention_pool.attention", f"{pool}/MultiHeadDotProductAttention_0", heads
        ),
        **flax_norm("attention_pool.norm", f"{pool}/LayerNorm_0"),
        **flax_dense(
            "attention_pool.feed_forward.expand", f"{pool}/MlpBlock_0/Dense_0"
        ),
        **flax_dense(
            "attention_pool.feed_forward.contract", f"{pool}/MlpBlock_0/Dense_1"
        ),
        **flax_norm("norm", "Transformer/encoder_norm"),
        **flax_dense("pre_logits", "pre_logits"),
        **flax_dense("head", "head"),
    }


_BIG_VISION_POSITIONS = "pos_embedding"
VIT_JAX_POSITIONS = "Transformer/posembed_input/pos_embedding"


def big_vision(model: Model) -> Names:
    positions = token(_BIG_VISION_POSITIONS)
    return _flax(model, 0, 1, 0) | {"position_embedding": positions}


def vision_transformer(model: Model) -> Names:
    positions = token(VIT_JAX_POSITIONS)
    return _flax(model, 1, 2, 3) | {"position_embedding": positions}


def plain(tensors: Tensors) -> Tensors:
    """Without the prefixes of training states, and with scanned blocks taken apart."""
    for prefix in ("opt/target/", "params/img/", "params/"):
        if f"{prefix}embedding/kernel" in tensors:
            start = len(prefix)
            tensors = {n[start:]: t for n, t in tensors.items() if n.startswith(prefix)}
            break
    plain = {}
    for name, tensor in tensors.items():
        head, scanned, tail = name.partition("Transformer/encoderblock/")
        if scanned:
            for i, layer in enumerate(tensor):
                plain[f"{head}Transformer/encoderblock_{i}/{tail}"] = layer
        else:
            plain[name] = tensor
    return plain


def old_numbers(tensors: Tensors) -> Tensors:
    """Count the children of a block together, as Flax did before Linen.

    The files of the paper count so; whatever the present source writes counts each
    kind of child from 0.
    """
    tensors = plain(tensors)
    new = r"(Transformer/encoderblock_\d+/)"
    if any(re.match(f"{new}MlpBlock_0/", name) for name in tensors):
        swaps = {
            "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
            "LayerNorm_1": "LayerNorm_2",
            "MlpBlock_0": "MlpBlock_3",
        }
        pattern = re.compile(f"{new}({'|'.join(swaps)})/")
        tensors = {
            pattern.sub(lambda m: f"{m[1]}{swaps[m[2]]}/", name): tensor
            for name, tensor in tensors.items()
        }
    return tensors


def _only_patches(model: ViT) -> str | None:
    if model.embed_prefix and model.class_token is not None:
        return (
            "big_vision's files have no position embedding for the class token; "
            "build the model with `embed_prefix=False`"
        )


def _no_class_token(model: ViT) -> Tensors:
    # vit-pytorch keeps a class token of zero rows where others have none.
    if model.class_token is not None:
        return {}
    return {"cls_token": np.zeros((0, model.position_embedding.shape[1]), np.float32)}


def _timm_layer_scale(tensors: Tensors) -> Tensors:
    """Without the spelling of the DeiT III authors."""
    gamma = re.compile(r"\.gamma_([12])$")
    return {gamma.sub(r".ls\1.gamma", name): t for name, t in tensors.items()}


def _beyond(model: ViT) -> str:
    # The token for masked patches, and a layer before the head of another task. timm
    # leaves them out too.
    return r"mask_token$|pre_logits\.fc\."


def _zero_bias(name: str) -> Callable[[ViT], Tensors]:
    """The bias of a head without one, in files that always have it."""

    def constants(model: ViT) -> Tensors:
        head = model.head
        if head is None or head.bias is not None:
            return {}
        return {name: np.zeros(head.weight.shape[0], np.float32)}

    return constants


_FORMATS = (
    Format(
        "timm",
        ".safetensors",
        timm,
        constants=_zero_bias("head.bias"),
        canonical=_timm_layer_scale,
        beyond=_beyond,
    ),
    Format(
        "vit_pytorch",
        ".safetensors",
        vit_pytorch,
        constants=_no_class_token,
    ),
    Format("vision_transformer", ".npz", vision_transformer, canonical=old_numbers),
    Format("big_vision", ".npz", big_vision, canonical=plain, unfit=_only_patches),
    *vit_in_transformers.FORMATS,
)


def _heads(model: ViT) -> dict[str, int]:
    dim = model.position_embedding.shape[1]
    if model.pool == "cls_mean":
        dim = 2 * dim
    if model.pre_logits is not None:
        dim = model.pre_logits.weight.shape[0]
    heads = ("head", "distillation_head")
    return dict.fromkeys(heads[: 1 if model.distillation_token is None else 2], dim)


def _size(dim: int, depth: int, heads: int, mlp_dim: int) -> dict:
    dim_head = dim // heads
    return dict(dim=dim, depth=depth, heads=heads, dim_head=dim_head, mlp_dim=mlp_dim)


XSMALL = _size(256, 10, 4, 1024)
TINY = _size(192, 12, 3, 768)
WEE = _size(256, 14, 4, 1280)
SMALL = _size(384, 12, 6, 1536)
LITTLE = _size(320, 14, 5, 1792)
MEDIUM = _size(512, 12, 8, 2048)
MEDIUM_DEEP = _size(512, 20, 8, 2048)
BETWIXT = _size(640, 12, 10, 2560)
BASE = _size(768, 12, 12, 3072)
BASE_PLUS = _size(896, 12, 14, 3584)
LARGE = _size(1024, 24, 16, 4096)
SO150M = _size(896, 18, 14, 2304)  # "shape-optimised"
SO150M2 = _size(832, 21, 13, 2176)
SO400M = _size(1152, 27, 16, 4304)
HUGE = _size(1280, 32, 16, 5120)
GIANT = _size(1408, 40, 16, 6144)
GIANT_OPT = _size(1536, 40, 16, 6144)
GIANT_WIDE = _size(1536, 40, 24, 6144)
GIGANTIC = _size(1664, 48, 16, 8192)

# Differences from the paper's ViT.
MEAN = dict(pool="mean", class_token=False)
FC_NORM = dict(pool="mean", norm_after_pool=True)
CLIP = dict(pre_norm=True, norm_eps=1e-5)
OPENAI_CLIP = CLIP | dict(activation=quick_gelu)
SIGLIP = dict(pool="map", class_token=False)
TANH = dict(activation=gelu_tanh)  # SigLIP 2, where timm follows Google
DEIT3 = dict(layer_scale=1e-6, embed_prefix=False)
DINOV2 = dict(layer_scale=1e-5)
DINOV2_REGISTERS = DINOV2 | dict(register_tokens=4, embed_prefix=False)
DINOV2_GIANT = GIANT_WIDE | dict(gated=True, mlp_dim=4096)
TIPS = dict(layer_scale=1.0, register_tokens=1, embed_prefix=False)
RADIO = dict(embed_prefix=False, final_norm=False)
GAP = MEAN | dict(layer_scale=1e-6, qkv_bias=False)


def _registers(number: int) -> dict:
    """timm's own small ViTs, whose registers replace the class token."""
    tokens = dict(class_token=False, register_tokens=number, embed_prefix=False)
    return FC_NORM | tokens | dict(layer_scale=1e-5)


def _vit(size: dict, patch_size: int, side: int, changes: dict = {}) -> Variant:
    embedding = dict(image_size=side, patch_size=patch_size, qkv_bias=True)
    return Variant(ViT, side, embedding | size | changes)


def _vits(prefix: str, size: dict, patch: int, sides: tuple, changes: dict = {}):
    return {f"{prefix}_{side}": _vit(size, patch, side, changes) for side in sides}


def _siglips(name: str, size: dict, patch: int, sides: tuple, changes: dict = {}):
    """Variants with attention pooling, as trained, and with a mean in its place."""
    name = f"{name}_patch{patch}_siglip"
    mapped = _vits(name, size, patch, sides, SIGLIP | changes)
    return mapped | _vits(f"{name}_gap", size, patch, sides, MEAN | changes)


VARIANTS = {
    # An Image is Worth 16x16 Words; How to train your ViT?; DINO; MAE; SAM; ...
    **_vits("vit_tiny_patch16", TINY, 16, (224, 384)),
    **_vits("vit_small_patch32", SMALL, 32, (224, 384)),
    **_vits("vit_small_patch16", SMALL, 16, (224, 384)),
    **_vits("vit_small_patch8", SMALL, 8, (224,)),
    **_vits("vit_base_patch32", BASE, 32, (224, 384)),
    **_vits("vit_base_patch16", BASE, 16, (224, 384)),
    **_vits("vit_base_patch8", BASE, 8, (224,)),
    **_vits("vit_large_patch32", LARGE, 32, (224, 384)),
    **_vits("vit_large_patch16", LARGE, 16, (224, 384)),
    **_vits("vit_huge_patch14", HUGE, 14, (224,)),
    "vit_base_patch16_224_miil": _vit(BASE, 16, 224, dict(qkv_bias=False)),
    **_vits("eva_large_patch14", LARGE, 14, (196, 336), FC_NORM),
    "flexivit_small": _vit(SMALL, 16, 240, dict(embed_prefix=False)),
    "flexivit_base": _vit(BASE, 16, 240, dict(embed_prefix=False)),
    "flexivit_large": _vit(LARGE, 16, 240, dict(embed_prefix=False)),
    "vit_intern300m_patch14_448": _vit(
        LARGE, 14, 448, dict(layer_scale=0.1, final_norm=False)
    ),
    # DeiT and DeiT III
    **_vits("deit_tiny_patch16", TINY, 16, (224,)),
    **_vits("deit_small_patch16", SMALL, 16, (224,)),
    **_vits("deit_base_patch16", BASE, 16, (224, 384)),
    **_vits("deit_tiny_distilled_patch16", TINY, 16, (224,), dict(distilled=True)),
    **_vits("deit_small_distilled_patch16", SMALL, 16, (224,), dict(distilled=True)),
    **_vits("deit_base_distilled_patch16", BASE, 16, (224, 384), dict(distilled=True)),
    **_vits("deit3_small_patch16", SMALL, 16, (224, 384), DEIT3),
    **_vits("deit3_medium_patch16", MEDIUM, 16, (224,), DEIT3),
    **_vits("deit3_base_patch16", BASE, 16, (224, 384), DEIT3),
    **_vits("deit3_large_patch16", LARGE, 16, (224, 384), DEIT3),
    **_vits("deit3_huge_patch14", HUGE, 14, (224,), DEIT3),
    # DINOv2, with and without registers, and TIPSv2
    "vit_small_patch14_dinov2": _vit(SMALL, 14, 518, DINOV2),
    "vit_base_patch14_dinov2": _vit(BASE, 14, 518, DINOV2),
    "vit_large_patch14_dinov2": _vit(LARGE, 14, 518, DINOV2),
    "vit_giant_patch14_dinov2": _vit(DINOV2_GIANT, 14, 518, DINOV2),
    "vit_small_patch14_reg4_dinov2": _vit(SMALL, 14, 518, DINOV2_REGISTERS),
    "vit_base_patch14_reg4_dinov2": _vit(BASE, 14, 518, DINOV2_REGISTERS),
    "vit_large_patch14_reg4_dinov2": _vit(LARGE, 14, 518, DINOV2_REGISTERS),
    "vit_giant_patch14_reg4_dinov2": _vit(DINOV2_GIANT, 14, 518, DINOV2_REGISTERS),
    "vit_base_patch14_reg1_tipsv2": _vit(BASE, 14, 448, TIPS),
    "vit_large_patch14_reg1_tipsv2": _vit(LARGE, 14, 448, TIPS),
    "vit_so400m_patch14_reg1_tipsv2": _vit(SO400M, 14, 448, TIPS),
    "vit_giant_patch14_reg1_tipsv2": _vit(DINOV2_GIANT, 14, 448, TIPS),
    # I-JEPA
    **_vits("vit_huge_patch14_gap", HUGE, 14, (224,), MEAN),
    **_vits("vit_huge_patch16_gap", HUGE, 16, (448,), MEAN),
    **_vits("vit_giant_patch16_gap", GIANT, 16, (224,), MEAN),
    # The image towers of CLIP
    **_vits("vit_xsmall_patch16_clip", XSMALL, 16, (224,), CLIP),
    **_vits("vit_medium_patch32_clip", MEDIUM, 32, (224,), CLIP),
    **_vits("vit_medium_patch16_clip", MEDIUM, 16, (224,), CLIP),
    **_vits("vit_betwixt_patch32_clip", BETWIXT, 32, (224,), CLIP),
    **_vits("vit_base_patch32_clip", BASE, 32, (224, 256, 384, 448), CLIP),
    **_vits("vit_base_patch16_clip", BASE, 16, (224, 384), CLIP),
    **_vits("vit_base_patch16_plus_clip", BASE_PLUS, 16, (240,), CLIP),
    **_vits("vit_large_patch14_clip", LARGE, 14, (224, 336), CLIP),
    **_vits("vit_huge_patch14_clip", HUGE, 14, (224, 336, 378), CLIP),
    **_vits("vit_giant_patch14_clip", GIANT, 14, (224,), CLIP),
    **_vits("vit_gigantic_patch14_clip", GIGANTIC, 14, (224, 378), CLIP),
    **_vits("vit_base_patch32_clip_quickgelu", BASE, 32, (224,), OPENAI_CLIP),
    **_vits("vit_base_patch16_clip_quickgelu", BASE, 16, (224,), OPENAI_CLIP),
    **_vits("vit_large_patch14_clip_quickgelu", LARGE, 14, (224, 336), OPENAI_CLIP),
    **_vits("vit_huge_patch14_clip_quickgelu", HUGE, 14, (224, 378), OPENAI_CLIP),
    **_vits("vit_gigantic_patch14_clip_quickgelu", GIGANTIC, 14, (224,), OPENAI_CLIP),
    # The image towers of SigLIP, PaliGemma and SigLIP 2
    **_siglips("vit_base", BASE, 32, (256,), TANH),
    **_siglips("vit_base", BASE, 16, (224, 256, 384, 512)),
    **_siglips("vit_large", LARGE, 16, (256, 384)),
    **_siglips("vit_large", LARGE, 16, (512,), TANH),
    # (timm's two `..._patch14_siglip_384` are those of 378 pixels, the rest unseen.)
    **_siglips("vit_so400m", SO400M, 14, (224, 378)),
    **_vits("vit_so400m_patch14_siglip_gap", SO400M, 14, (448, 896), MEAN),
    **_siglips("vit_so400m", SO400M, 16, (256, 384, 512), TANH),
    **_siglips("vit_giantopt", GIANT_OPT, 16, (256, 384), TANH),
    # RADIO
    "vit_base_patch16_radio_v3": _vit(
        BASE, 16, 512, RADIO | dict(layer_scale=1e-5, register_tokens=7)
    ),
    "vit_large_patch16_radio_v3": _vit(
        LARGE, 16, 512, RADIO | dict(layer_scale=1e-5, register_tokens=7)
    ),
    "vit_huge_patch16_radio_v3": _vit(HUGE, 16, 512, RADIO | dict(register_tokens=7)),
    "vit_giant_patch16_radio_v3": _vit(
        GIANT_WIDE, 16, 512, RADIO | dict(register_tokens=7)
    ),
    "vit_huge_patch16_radio_v4": _vit(HUGE, 16, 512, RADIO | dict(register_tokens=9)),
    "vit_so400m_patch16_radio_v4": _vit(
        SO400M, 16, 512, RADIO | dict(register_tokens=9)
    ),
    # timm's own
    **_vits("vit_medium_patch16_gap", MEDIUM, 16, (240, 256, 384), GAP),
    **_vits("vit_wee_patch16_reg1_gap", WEE, 16, (256,), _registers(1)),
    **_vits("vit_little_patch16_reg1_gap", LITTLE, 16, (256,), _registers(1)),
    **_vits("vit_little_patch16_reg4_gap", LITTLE, 16, (256,), _registers(4)),
    **_vits("vit_medium_patch16_reg1_gap", MEDIUM, 16, (256,), _registers(1)),
    **_vits("vit_medium_patch16_reg4_gap", MEDIUM, 16, (256,), _registers(4)),
    **_vits("vit_mediumd_patch16_reg4_gap", MEDIUM_DEEP, 16, (256, 384), _registers(4)),
    **_vits("vit_betwixt_patch16_reg1_gap", BETWIXT, 16, (256,), _registers(1)),
    **_vits("vit_betwixt_patch16_reg4_gap", BETWIXT, 16, (256, 384), _registers(4)),
    **_vits(
        "vit_so150m_patch16_reg4_gap",
        SO150M,
        16,
        (256, 384),
        MEAN | dict(register_tokens=4),
    ),
    **_vits(
        "vit_so150m2_patch16_reg1_gap",
        SO150M2,
        16,
        (256, 384, 448),
        _registers(1) | dict(embed_prefix=True, qkv_bias=False),
    ),
    "test_vit": _vit(_size(64, 6, 2, 192), 16, 160),
    "test_vit2": _vit(
        _size(64, 8, 2, 192), 16, 160, _registers(1) | dict(embed_prefix=True)
    ),
    # Three things everyone should know about ViTs
    "vit_small_patch16_36x1_224": _vit(
        SMALL | dict(depth=36), 16, 224, dict(layer_scale=1e-5)
    ),
}


# timm's arguments and ours.
_TIMM_ARGUMENTS = {
    "patch_size": "patch_size",
    "embed_dim": "dim",
    "depth": "depth",
    "num_heads": "heads",
    "qkv_bias": "qkv_bias",
    "init_values": "layer_scale",
    "class_token": "class_token",
    "reg_tokens": "register_tokens",
    "pre_norm": "pre_norm",
    "final_norm": "final_norm",
}
_TIMM_POOLS = {"token": "cls", "avg": "mean", "map": "map"}


def _read_timm(settings: Config, model_args: Config) -> dict[str, Any]:
    changes, rest = renamed(model_args, _TIMM_ARGUMENTS)
    sizes = {**settings, **changes}
    changes["dim_head"] = sizes["dim"] // sizes["heads"]
    width = sizes["mlp_dim"]
    if "embed_dim" in model_args:
        width = width * sizes["dim"] // settings["dim"]
    if "mlp_ratio" in rest:
        width = int(rest.pop("mlp_ratio") * sizes["dim"])
        width = width // 2 if settings.get("gated") else width
    changes["mlp_dim"] = width
    if "no_embed_class" in rest:
        changes["embed_prefix"] = not rest.pop("no_embed_class")
    if rest.get("act_layer") is not None:
        name = rest.pop("act_layer")
        if name not in _TIMM_ACTIVATIONS:
            legal = ", ".join(map(repr, _TIMM_ACTIVATIONS))
            raise ValueError(f"`act_layer={name!r}`; a ViT here has one of {legal}")
        changes["activation"] = _TIMM_ACTIVATIONS[name]
    pool, fc_norm = rest.pop("global_pool", None), rest.pop("fc_norm", None)
    if pool is not None:
        if pool not in _TIMM_POOLS:
            legal = ", ".join(map(repr, _TIMM_POOLS))
            raise ValueError(f"`global_pool={pool!r}`; a ViT here has one of {legal}")
        changes["pool"] = _TIMM_POOLS[pool]
        # timm's default.
        changes["norm_after_pool"] = pool == "avg" if fc_norm is None else fc_norm
    elif fc_norm is not None:
        changes["norm_after_pool"] = fc_norm
    if settings.get("distilled") and changes.get("norm_after_pool"):
        raise ValueError("`fc_norm` has no effect in timm's distilled ViT")
    return changes | read_timm(settings, rest)


_TIMM_ACTIVATIONS = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


def _timm_activation(function: Callable) -> str:
    name = getattr(function, "__name__", str(function))
    if name not in _TIMM_ACTIVATIONS:
        raise ValueError(f"timm's ViT has no activation `{name}`")
    return name


def _write_timm(model: ViT) -> tuple[str, dict[str, Any]]:
    block, dim = model.transformer.blocks, model.position_embedding.shape[1]
    gated = not hasattr(block.feed_forward, "activation")
    distilled, is_clip = (
        model.distillation_token is not None,
        model.pre_norm is not None,
    )
    eps = block.norm1.eps
    if model.pool not in _TIMM_POOLS.values():
        raise ValueError(f"timm has no `pool={model.pool!r}`")
    if model.patch_embedding.patch_norm is not None:
        raise ValueError("timm's ViT has no `patch_norm`")
    if model.pre_logits is not None:
        raise ValueError("timm's ViT has no `pre_logits_dim`")
    if block.attention.output.weight.shape[-1] != dim:
        raise ValueError("timm's ViT has `heads * dim_head` equal to `dim`")
    wanted = 1e-5 if is_clip else 1e-6
    if eps != wanted:
        raise ValueError(f"`norm_eps={eps}`; timm's ViT has {wanted} here")
    if gated and (distilled or is_clip or model.pool == "map"):
        raise ValueError("timm has no such ViT with `gated=True`")
    if gated and block.layer_scale1 is None:
        raise ValueError("timm's ViT with `gated=True` has LayerScale")
    unlike = {
        "norm_after_pool": model.norm_after_pool,
        "pre_norm": is_clip,
        "register_tokens": model.register_tokens is not None,
        "embed_prefix=False": not model.embed_prefix,
        "head_bias=False": model.head is not None and model.head.bias is None,
    }
    if distilled and any(unlike.values()):
        what = next(name for name, holds in unlike.items() if holds)
        raise ValueError(f"timm's distilled ViT has no `{what}`")
    name = "vit_base_patch16_224"
    if distilled:
        name = "deit_base_distilled_patch16_224"
    elif is_clip:
        name = "vit_base_patch16_clip_224"
    elif gated:
        name = "vit_giant_patch14_dinov2"
    mlp_dim = block.feed_forward.expand.weight.shape[1]
    scale, registers = block.layer_scale1, model.register_tokens
    arguments: dict[str, Any] = dict(
        img_size=their_size(model.image_size),
        patch_size=their_size(model.patch_embedding.patch_size),
        in_chans=model.channels,
        embed_dim=dim,
        depth=model.transformer.depth,
        num_heads=block.attention.heads,
        mlp_ratio=ratio_of(mlp_dim, dim),
        qkv_bias=block.attention.qkv.bias is not None,
        init_values=None if scale is None else 1e-5,
        class_token=model.class_token is not None,
        no_embed_class=not model.embed_prefix,
        reg_tokens=0 if registers is None else registers.shape[0],
        global_pool={ours: theirs for theirs, ours in _TIMM_POOLS.items()}[model.pool],
        fc_norm=model.norm_after_pool,
        final_norm=model.norm is not None,
    )
    if not gated:
        arguments["act_layer"] = _timm_activation(block.feed_forward.activation)
    if distilled:
        del arguments["class_token"]
    return name, {k: v for k, v in arguments.items() if v is not None}


FAMILY = Family(
    model=ViT,
    tiny=dict(
        patch_size=7,
        dim=64,
        depth=4,
        heads=4,
        dim_head=16,
        mlp_dim=128,
        pool="mean",
        qkv_bias=True,
    ),
    variants=VARIANTS,
    formats=_FORMATS,
    kinds=vit_configs.KINDS,
    read_timm=_read_timm,
    write_timm=_write_timm,
    heads=_heads,
    resize_plain=resize_patches_plain,
    head_reads=pooled_tokens,
    rollout=True,
)
