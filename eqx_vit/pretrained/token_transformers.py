"""The published variants of DeepViT, CaiT, CrossViT, T2T-ViT and PiT."""

from ..models import CaiT, CrossViT, DeepViT, PiT, T2TViT
from .record import Variant


def _deep_vit(dim: int, depth: int, changes: dict = {}) -> Variant:
    sizes = dict(image_size=224, patch_size=16, qkv_bias=True, dim=dim, depth=depth)
    heads = dict(heads=12, dim_head=dim // 12, mlp_dim=3 * dim)
    return Variant(DeepViT, 224, sizes | heads | changes)


def _conv_deep_vit(dim: int, depth: int, last: int, changes: dict = {}) -> Variant:
    """With a convolutional stem, and re-attention in the `last` blocks only."""
    reattention = (False,) * (depth - last) + (True,) * last
    stem = dict(conv_stem=True, residual_scale=0.5, reattention=reattention)
    return _deep_vit(dim, depth, stem | changes)


def _cait(dim: int, depth: int, side: int, layer_scale: float = 1e-5) -> Variant:
    sizes = dict(image_size=side, patch_size=16, qkv_bias=True, dim=dim, depth=depth)
    heads = dict(heads=dim // 48, dim_head=48, mlp_dim=4 * dim)
    return Variant(CaiT, side, sizes | heads | dict(layer_scale=layer_scale))


def _cross_vit(
    dim: int, depth: int, heads: int, mlp_mult: int, side: int = 240, dagger=False
) -> Variant:
    """`dim` is that of the small patches' branch, half of the other's."""
    sizes = dict(image_size=side, lg_image_size=round(side * 224 / 240 / 16) * 16)
    small = dict(sm_dim=dim, sm_patch_size=12, sm_enc_depth=1, sm_enc_heads=heads)
    small |= dict(sm_enc_dim_head=dim // heads, sm_enc_mlp_dim=mlp_mult * dim)
    large = dict(lg_dim=2 * dim, lg_patch_size=16, lg_enc_depth=depth)
    large |= dict(lg_enc_heads=heads, lg_enc_dim_head=2 * dim // heads)
    large |= dict(lg_enc_mlp_dim=2 * mlp_mult * dim)
    cross = dict(depth=3, cross_attn_depth=1, cross_attn_heads=heads)
    cross |= dict(cross_attn_dim_head=(2 * dim // heads, dim // heads))
    further = dict(qkv_bias=True, multi_conv=dagger)
    return Variant(CrossViT, side, sizes | small | large | cross | further)


def _t2t_vit(
    dim: int, depth: int, heads: int, mlp_mult: int, performer=True, side: int = 224
) -> Variant:
    sizes = dict(image_size=side, dim=dim, depth=depth, heads=heads)
    further = dict(mlp_dim=mlp_mult * dim, performer=performer)
    return Variant(T2TViT, side, sizes | dict(dim_head=dim // heads) | further)


def _pit(heads: int, dim_head: int, patch_size: int = 16, distilled=False) -> Variant:
    dim = heads * dim_head
    # PiT-B has smaller patches and another depth.
    depth = (2, 6, 4) if patch_size == 16 else (3, 6, 4)
    sizes = dict(image_size=224, patch_size=patch_size, stride=patch_size // 2)
    sizes |= dict(dim=dim, depth=depth, mlp_dim=(4 * dim, 8 * dim, 16 * dim))
    heads_of_stages = dict(heads=(heads, 2 * heads, 4 * heads), dim_head=dim_head)
    further = dict(qkv_bias=True, distilled=distilled)
    return Variant(PiT, 224, sizes | heads_of_stages | further)


VARIANTS = {
    "deepvit_24": _deep_vit(384, 24),
    "deepvit_32": _deep_vit(384, 32),
    "deepvit_s": _conv_deep_vit(396, 16, 5, dict(scale_reattention=True)),
    "deepvit_l": _conv_deep_vit(420, 32, 12),
    "cait_xxs24_224": _cait(192, 24, 224),
    "cait_xxs24_384": _cait(192, 24, 384),
    "cait_xxs36_224": _cait(192, 36, 224),
    "cait_xxs36_384": _cait(192, 36, 384),
    "cait_xs24_384": _cait(288, 24, 384),
    "cait_s24_224": _cait(384, 24, 224),
    "cait_s24_384": _cait(384, 24, 384),
    "cait_s36_384": _cait(384, 36, 384, 1e-6),
    "cait_m36_384": _cait(768, 36, 384, 1e-6),
    "cait_m48_448": _cait(768, 48, 448, 1e-6),
    "crossvit_tiny_240": _cross_vit(96, 4, 3, 4),
    "crossvit_small_240": _cross_vit(192, 4, 6, 4),
    "crossvit_base_240": _cross_vit(384, 4, 12, 4),
    "crossvit_9_240": _cross_vit(128, 3, 4, 3),
    "crossvit_15_240": _cross_vit(192, 5, 6, 3),
    "crossvit_18_240": _cross_vit(224, 6, 7, 3),
    "crossvit_9_dagger_240": _cross_vit(128, 3, 4, 3, dagger=True),
    "crossvit_15_dagger_240": _cross_vit(192, 5, 6, 3, dagger=True),
    "crossvit_18_dagger_240": _cross_vit(224, 6, 7, 3, dagger=True),
    "crossvit_15_dagger_408": _cross_vit(192, 5, 6, 3, 408, dagger=True),
    "crossvit_18_dagger_408": _cross_vit(224, 6, 7, 3, 408, dagger=True),
    "t2t_vit_7": _t2t_vit(256, 7, 4, 2),
    "t2t_vit_10": _t2t_vit(256, 10, 4, 2),
    "t2t_vit_12": _t2t_vit(256, 12, 4, 2),
    "t2t_vit_14": _t2t_vit(384, 14, 6, 3),
    "t2t_vit_14_384": _t2t_vit(384, 14, 6, 3, side=384),
    "t2t_vit_19": _t2t_vit(448, 19, 7, 3),
    "t2t_vit_24": _t2t_vit(512, 24, 8, 3),
    "t2t_vit_t_14": _t2t_vit(384, 14, 6, 3, performer=False),
    "t2t_vit_t_19": _t2t_vit(448, 19, 7, 3, performer=False),
    "t2t_vit_t_24": _t2t_vit(512, 24, 8, 3, performer=False),
    "pit_ti_224": _pit(2, 32),
    "pit_xs_224": _pit(2, 48),
    "pit_s_224": _pit(3, 48),
    "pit_b_224": _pit(4, 64, 14),
    "pit_ti_distilled_224": _pit(2, 32, distilled=True),
    "pit_xs_distilled_224": _pit(2, 48, distilled=True),
    "pit_s_distilled_224": _pit(3, 48, distilled=True),
    "pit_b_distilled_224": _pit(4, 64, 14, distilled=True),
}
