from .cait import CaiT as CaiT
from .cross_former import CrossFormer as CrossFormer
from .cross_vit import CrossViT as CrossViT
from .cvt import CvT as CvT
from .deep_vit import DeepViT as DeepViT
from .dinov3 import DINOv3 as DINOv3
from .levit import LeViT as LeViT
from .nest import grad_cat as grad_cat, NesT as NesT
from .parallel_vit import ParallelViT as ParallelViT
from .patch_merger_vit import (
    PatchMerger as PatchMerger,
    PatchMergerViT as PatchMergerViT,
)
from .pit import PiT as PiT
from .region_vit import RegionViT as RegionViT
from .scalable_vit import ScalableViT as ScalableViT
from .simple_vit import SimpleViT as SimpleViT
from .small_dataset_vit import SmallDatasetViT as SmallDatasetViT, SPT as SPT
from .t2t_vit import T2TViT as T2TViT
from .twins_svt import TwinsSVT as TwinsSVT
from .vit import ViT as ViT
