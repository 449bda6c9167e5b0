"""The same model twice: here and in PyTorch, at a published small size."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import eqx_vit
import jax.random as jr
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from transformers import CvtConfig, CvtForImageClassification
from vit_pytorch import deepvit, simple_vit
from vit_pytorch.crossformer import CrossFormer
from vit_pytorch.regionvit import RegionViT
from vit_pytorch.scalable_vit import ScalableViT
from vit_pytorch.t2t import T2TViT
from vit_pytorch.vit_for_small_dataset import ViT as SmallDatasetViT
from vit_pytorch.vit_with_patch_merger import ViT as PatchMergerViT


class Pair(NamedTuple):
    """A published size, and who else builds it.

    - `size`: Its name in `create_model`, or in words.
    - `ours`, `theirs`: Make it.
    - `package`: Where theirs is from.
    - `shares_weights`: Whether theirs is the same function, so that ours can take its
        weights. (vit-pytorch builds some papers in another way.)
    - `trains_alone`: Whether it can be trained on one image: LeViT's last BatchNorm has
        then one number a channel.
    """

    size: str
    ours: Callable[[], tuple[Any, eqx.nn.State]]
    theirs: Callable[[], torch.nn.Module]
    package: str
    shares_weights: bool = True
    image_size: int = 224
    trains_alone: bool = True


def _timm(name: str, image_size: int = 224) -> Pair:
    return Pair(
        name,
        lambda: eqx_vit.create_model(name, key=jr.key(0)),
        lambda: timm.create_model(name),
        "timm",
        image_size=image_size,
    )


def _vit_pytorch(name: str, theirs: Callable[..., torch.nn.Module], **sizes) -> Pair:
    return Pair(
        name,
        lambda: eqx_vit.create_model(name, key=jr.key(0)),
        lambda: theirs(num_classes=1000, **sizes),
        "vit-pytorch",
        shares_weights=False,
    )


_SIZES = dict(image_size=224, patch_size=16, num_classes=1000, dim=384, depth=12)
_SIZES |= dict(heads=6, dim_head=64, mlp_dim=1536)


def _small(ours: Callable, theirs: Callable[..., torch.nn.Module], **both) -> Pair:
    """In the size of a ViT-S/16, with vit-pytorch's structure."""
    settings: dict[str, Any] = {
        eqx_vit.SimpleViT: dict(patch_norm=True),
        eqx_vit.PatchMergerViT: dict(patch_norm=True),
        eqx_vit.SmallDatasetViT: dict(cardinal_shifts=True),
    }.get(ours, {})
    make = eqx.nn.make_with_state(ours)
    return Pair(
        "S/16",
        lambda: make(**_SIZES, **both, **settings, key=jr.key(0)),
        lambda: theirs(**_SIZES, **both),
        "vit-pytorch",
    )


class Cvt(CvtForImageClassification):
    """transformers' CvT-13, called as timm's models are."""

    def __init__(self):
        super().__init__(CvtConfig(num_labels=1000))

    def forward(self, images):
        return super().forward(images).logits


PAIRS = {
    "ViT": _timm("vit_small_patch16_224"),
    "ViT-B": _timm("vit_base_patch16_224"),
    "SimpleViT": _small(eqx_vit.SimpleViT, simple_vit.SimpleViT),
    "ParallelViT": _timm("vit_small_patch16_18x2_224"),
    "PatchMergerViT": _small(
        eqx_vit.PatchMergerViT,
        PatchMergerViT,
        patch_merge_layer=6,
        patch_merge_num_tokens=8,
    ),
    "SmallDatasetViT": _small(eqx_vit.SmallDatasetViT, SmallDatasetViT),
    "DeepViT": _vit_pytorch(
        "deepvit_24",
        deepvit.DeepViT,
        image_size=224,
        patch_size=16,
        dim=384,
        depth=24,
        heads=12,
        dim_head=32,
        mlp_dim=1152,
    ),
    "CaiT": _timm("cait_xxs24_224"),
    "CrossViT": _timm("crossvit_small_240", 240),
    "T2TViT": _vit_pytorch(
        "t2t_vit_t_14",
        T2TViT,
        image_size=224,
        dim=384,
        depth=14,
        heads=6,
        mlp_dim=1152,
        t2t_layers=((7, 4), (3, 2), (3, 2)),
    ),
    "PiT": _timm("pit_s_224"),
    "CvT": Pair(
        "cvt_13",
        # (transformers' has no other activation.)
        lambda: eqx.nn.make_with_state(eqx_vit.CvT)(
            s3_heads=6, activation=eqx_vit.layers.gelu, key=jr.key(0)
        ),
        Cvt,
        "transformers",
    ),
    "LeViT": _timm("levit_256")._replace(trains_alone=False),
    "CrossFormer": _vit_pytorch(
        "crossformer_small",
        CrossFormer,
        dim=(96, 192, 384, 768),
        depth=(1, 1, 3, 1),  # of pairs
        global_window_size=(8, 4, 2, 1),
        local_window_size=7,
    ),
    "NesT": _timm("nest_tiny_jx"),
    "RegionViT": _vit_pytorch(
        "regionvit_small",
        RegionViT,
        dim=(96, 192, 384, 768),
        depth=(2, 2, 8, 2),
        tokenize_local_3_conv=True,
    ),
    "ScalableViT": _vit_pytorch(
        "scalablevit_s",
        ScalableViT,
        dim=64,
        depth=(2, 2, 20, 2),
        heads=(2, 4, 8, 16),
        ssa_dim_key=(40, 40, 40, 32),
        reduction_factor=(8, 4, 2, 1),
        window_size=(7, 7, 7, 7),
    ),
    "TwinsSVT": _timm("twins_svt_small"),
}


def vit(depth: int = 12, image_size: int = 224) -> Pair:
    """A ViT-S/16 of another depth or for other images."""
    sizes = _SIZES | dict(depth=depth, image_size=image_size, qkv_bias=True)
    make = eqx.nn.make_with_state(eqx_vit.ViT)
    theirs = dict(img_size=image_size, patch_size=16, embed_dim=384, depth=depth)
    return Pair(
        f"S/16, {depth} blocks, {image_size} x {image_size}",
        lambda: make(**sizes, key=jr.key(0)),
        lambda: VisionTransformer(**theirs, num_heads=6),
        "timm",
        image_size=image_size,
    )
