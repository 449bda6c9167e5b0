import math

import numpy as np
from einops import rearrange
from jaxtyping import Array

from ..models.region_vit import RegionViT, ThreeConvs
from .family import any_size, doubling, Family, no_argument, Variant
from .formats import (
    Format,
    Names,
    numbered,
    Tensor,
    torch_conv,
    torch_depthwise,
    torch_names,
    torch_patches,
)
from .maps import AttentionMap, by_stage, Found, Grid, scattered


def _channel_norm(ours: str, theirs: str) -> Names:
    return {
        f"{ours}.{kind}": Tensor(f"{theirs}.{kind}", theirs="1 c 1 1", ours="c")
        for kind in ("weight", "bias")
    }


def _twice(names: Names) -> Names:
    """The downsampling, which their files keep a second time as `proj_cls`."""
    for tensor in names.values():
        (name,) = tensor.names
        tensor.names = (name, name.replace(".proj.", ".proj_cls."))
        tensor.split, tensor.join = (lambda x: [x, x]), (lambda parts: parts[0])
    return names


def _block(ours: str, theirs: str) -> Names:
    return {
        **torch_names(f"{ours}.regional_norm", f"{theirs}.norm0"),
        **torch_names(f"{ours}.local_norm", f"{theirs}.norm1"),
        **torch_names(f"{ours}.attention.qkv", f"{theirs}.attn.qkv"),
        f"{ours}.attention.position_bias": Tensor(f"{theirs}.attn.rel_pos"),
        **torch_names(f"{ours}.attention.output", f"{theirs}.attn.proj"),
        **torch_names(f"{ours}.feed_forward_norm", f"{theirs}.norm2"),
        **torch_names(f"{ours}.feed_forward.expand", f"{theirs}.mlp.fc1"),
        **torch_names(f"{ours}.feed_forward.contract", f"{theirs}.mlp.fc2"),
    }


def official(model: RegionViT) -> Names:
    regional = model.regional_embedding
    names = {
        **torch_patches(
            "regional_embedding.linear", "cls_token.proj", regional.patch_size
        ),
        **torch_names("norm", "norm"),
        **torch_names("head", "head"),
    }
    if isinstance(model.local_embedding, ThreeConvs):
        for i in range(3):
            conv = f"patch_embed.proj.{3 * i}"
            names |= torch_conv(f"local_embedding.convs.{i}", conv)
        for i in range(2):
            norm = f"patch_embed.proj.{3 * i + 1}"
            names |= _channel_norm(f"local_embedding.norms.{i}", norm)
    else:
        names |= torch_conv("local_embedding", "patch_embed.proj")
    for i, stage in enumerate(model.stages):
        ours, theirs = f"stages.{i}", f"layers.{i}"
        if stage.downsampling is not None:
            down, proj = f"{ours}.downsampling", f"{theirs}.block.0.proj"
            multiplier = stage.downsampling.conv.weight.shape[-1]
            names |= _twice(_channel_norm(f"{down}.norm", f"{proj}.0"))
            names |= _twice(torch_depthwise(f"{down}.conv", f"{proj}.2", multiplier))
        names |= torch_depthwise(f"{ours}.peg.conv", f"{theirs}.peg")
        start = 1  # block 0 is the downsampling
        for j, stack in enumerate(stage.stacks):
            block = _block(f"{ours}.stacks.{j}.blocks", f"{theirs}.block.{{}}")
            names |= numbered(block, start)
            start += stack.depth
    return names


_FORMATS = (Format("official", ".safetensors", official),)


def _region_vit(dim: int, depth: int, three_convs: bool) -> Variant:
    settings = dict(depth=(2, 2, depth, 2), tokenize_local_3_conv=three_convs)
    return Variant(RegionViT, 224, dict(dim=doubling(dim)) | settings)


VARIANTS = {
    "regionvit_tiny": _region_vit(64, 8, True),
    "regionvit_small": _region_vit(96, 8, True),
    "regionvit_medium": _region_vit(96, 14, False),
    "regionvit_base": _region_vit(128, 14, False),
}


def _attention(model: RegionViT, found: Found) -> list[AttentionMap]:
    """Maps of regional tokens among themselves, or of each with its window."""

    def layer(value: Array, grids: list[Grid], stage: int, number: int) -> AttentionMap:
        grid, window_size = grids[stage], model.stages[stage].window_size
        rows, columns = (side // window_size for side in grid)
        if value.ndim == 3:
            return AttentionMap(value, (rows, columns), (rows, columns))
        places = np.arange(math.prod(grid)).reshape(grid)
        pattern = "(r p) (c q) -> (r c) (p q)"
        places = rearrange(places, pattern, r=rows, c=columns)
        regions = np.arange(rows * columns)[:, None]
        places = np.concatenate([regions, len(regions) + places], axis=1)
        return AttentionMap(scattered(value, places, places.size), grid, grid)

    return by_stage(found, layer)


FAMILY = Family(
    model=RegionViT,
    tiny=dict(dim=(32, 64), depth=(1, 2), window_size=4, heads=2, mlp_mult=2),
    tiny_side=32,
    variants=VARIANTS,
    formats=_FORMATS,
    resize=any_size,
    size_arguments=no_argument,
    attention=_attention,
    head_reads=lambda model: "regions",
)
