"""The published variants of the seven pyramids."""

from ..models import CrossFormer, CvT, LeViT, NesT, RegionViT, ScalableViT, TwinsSVT
from .record import Variant


def _doubling(dim: int) -> tuple[int, ...]:
    return (dim, 2 * dim, 4 * dim, 8 * dim)


def _cvt(depth: int, side: int) -> Variant:
    depths = dict(s1_depth=1, s2_depth=2 if depth == 13 else 4)
    depths |= dict(s3_depth=depth - sum(depths.values()))
    return Variant(CvT, side, depths | dict(s3_heads=6))


# The largest is no multiple of the others.
_CVT_W24 = dict(s1_emb_dim=192, s1_depth=2, s1_heads=3)
_CVT_W24 |= dict(s2_emb_dim=768, s2_depth=2, s2_heads=12)
_CVT_W24 |= dict(s3_emb_dim=1024, s3_depth=20, s3_heads=16)


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


def _cross_former(dim: int, depth: tuple) -> Variant:
    groups = dict(global_window_size=7, local_window_size=7, interval=(8, 4, 2, 1))
    return Variant(CrossFormer, 224, dict(dim=_doubling(dim), depth=depth) | groups)


def _cross_former_pp(dim: int, depth: tuple) -> Variant:
    sizes = (4, 4, 14, 7)
    groups = dict(global_window_size=sizes, local_window_size=sizes)
    further = dict(interval=(4, 2, 1, 1), cooling=True)
    sizes = dict(dim=_doubling(dim), depth=depth)
    return Variant(CrossFormer, 224, sizes | groups | further)


def _nest(dim: int, heads: int, last: int) -> Variant:
    settings = dict(dim=dim, heads=heads, block_repeats=(2, 2, last))
    return Variant(NesT, 224, dict(image_size=224) | settings)


def _region_vit(dim: int, depth: int, three_convs: bool) -> Variant:
    settings = dict(depth=(2, 2, depth, 2), tokenize_local_3_conv=three_convs)
    return Variant(RegionViT, 224, dict(dim=_doubling(dim)) | settings)


def _scalable_vit(dim: int, heads: int, depth: tuple, keys: tuple) -> Variant:
    settings = dict(dim=dim, heads=_doubling(heads), depth=depth, ssa_dim_key=keys)
    return Variant(ScalableViT, 224, settings | dict(window_size=7, head_dim=4096))


def _twins_svt(dim: int, heads: int, depths: tuple) -> Variant:
    settings = dict(s1_global_k=8, s2_global_k=4, s3_global_k=2, s4_global_k=1)
    for i, (stage_dim, depth) in enumerate(zip(_doubling(dim), depths), 1):
        settings |= {f"s{i}_emb_dim": stage_dim, f"s{i}_depth": depth}
    return Variant(TwinsSVT, 224, settings | dict(heads=_doubling(heads)))


VARIANTS = {
    "cvt_13": _cvt(13, 224),
    "cvt_21": _cvt(21, 224),
    "cvt_13_384": _cvt(13, 384),
    "cvt_21_384": _cvt(21, 384),
    "cvt_w24_384": Variant(CvT, 384, _CVT_W24),
    **{f"levit_{name}": levit for name, levit in _LEVITS.items()},
    # The same weights, written as convolutions.
    **{f"levit_conv_{name}": levit for name, levit in _LEVITS.items()},
    "crossformer_tiny": _cross_former(64, (1, 1, 8, 6)),
    "crossformer_small": _cross_former(96, (2, 2, 6, 2)),
    "crossformer_base": _cross_former(96, (2, 2, 18, 2)),
    "crossformer_large": _cross_former(128, (2, 2, 18, 2)),
    "crossformer_pp_small": _cross_former_pp(64, (2, 2, 18, 2)),
    "crossformer_pp_base": _cross_former_pp(96, (2, 2, 18, 2)),
    "crossformer_pp_large": _cross_former_pp(128, (2, 2, 18, 2)),
    "crossformer_pp_huge": _cross_former_pp(128, (6, 6, 18, 2)),
    "nest_tiny_jx": _nest(96, 3, 8),
    "nest_small_jx": _nest(96, 3, 20),
    "nest_base_jx": _nest(128, 4, 20),
    "regionvit_tiny": _region_vit(64, 8, True),
    "regionvit_small": _region_vit(96, 8, True),
    "regionvit_medium": _region_vit(96, 14, False),
    "regionvit_base": _region_vit(128, 14, False),
    "scalablevit_s": _scalable_vit(64, 2, (2, 2, 20, 2), (40, 40, 40, 32)),
    "scalablevit_b": _scalable_vit(96, 3, (2, 2, 14, 6), (64, 40, 40, 32)),
    "scalablevit_l": _scalable_vit(128, 4, (2, 6, 12, 4), (8, 16, 32, 32)),
    "twins_svt_small": _twins_svt(64, 2, (1, 1, 5, 2)),
    "twins_svt_base": _twins_svt(96, 3, (1, 1, 9, 1)),
    "twins_svt_large": _twins_svt(128, 4, (1, 1, 9, 1)),
}
