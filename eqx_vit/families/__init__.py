"""Everything about an architecture apart from its model, one file a paper."""

from . import (
    cait,
    cross_former,
    cross_vit,
    cvt,
    deep_vit,
    dinov3,
    levit,
    nest,
    parallel_vit,
    patch_merger_vit,
    pit,
    region_vit,
    scalable_vit,
    simple_vit,
    small_dataset_vit,
    t2t_vit,
    twins_svt,
    vit,
)
from .family import (
    families as families,
    Family as Family,
    family_of as family_of,
    find_family as find_family,
    headless as headless,
    register as register,
    Variant as Variant,
)


for _paper in (
    vit,
    simple_vit,
    parallel_vit,
    patch_merger_vit,
    small_dataset_vit,
    deep_vit,
    cait,
    cross_vit,
    t2t_vit,
    pit,
    cvt,
    levit,
    cross_former,
    nest,
    region_vit,
    scalable_vit,
    twins_svt,
    dinov3,
):
    register(_paper.FAMILY)
