"""The published variants of the ViT and its nearest relatives, by timm's names."""

from ..layers import gelu_tanh, quick_gelu
from ..models import ParallelViT, SimpleViT, SmallDatasetViT, ViT
from .record import Variant


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

# What the families changed about the paper's ViT.
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
    """With attention pooling as trained, and with a mean in its place."""
    name = f"{name}_patch{patch}_siglip"
    mapped = _vits(name, size, patch, sides, SIGLIP | changes)
    return mapped | _vits(f"{name}_gap", size, patch, sides, MEAN | changes)


def _parallel(size: dict, branches: int) -> Variant:
    settings = dict(image_size=224, patch_size=16, qkv_bias=True, layer_scale=1e-5)
    settings |= size | dict(num_parallel_branches=branches)
    return Variant(ParallelViT, 224, settings)


_SIMPLE = SMALL | dict(qkv_bias=True, output_bias=True, pre_logits_dim=384)

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
    # Better plain ViT baselines
    **{
        f"simple_vit_small_patch16_{epochs}ep": Variant(
            SimpleViT, 224, dict(image_size=224, patch_size=16) | _SIMPLE
        )
        for epochs in (90, 150, 300)
    },
    # Three things everyone should know about ViTs
    "vit_small_patch16_36x1_224": _vit(
        SMALL | dict(depth=36), 16, 224, dict(layer_scale=1e-5)
    ),
    "vit_small_patch16_18x2_224": _parallel(SMALL | dict(depth=18), 2),
    "vit_base_patch16_18x2_224": _parallel(BASE | dict(depth=18), 2),
    # Vision Transformer for Small-Size Datasets
    "sl_vit_cifar100": Variant(
        SmallDatasetViT,
        32,
        dict(image_size=32, patch_size=4, num_classes=100, mlp_dim=384)
        | dict(dim=192, depth=9, heads=12, dim_head=16),
    ),
}
