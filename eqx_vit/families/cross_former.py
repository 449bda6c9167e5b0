import math
from typing import Any

import numpy as np
from jaxtyping import Array

from ..models import CrossFormer
from .family import any_size, doubling, Family, no_argument, Variant
from .formats import (
    alternating_names,
    Format,
    Names,
    torch_block,
    torch_conv,
    torch_depthwise,
    torch_names,
)
from .maps import AttentionMap, by_stage, Found, Grid, scattered


def _block(ours: str, theirs: str) -> Names:
    bias, their_bias = f"{ours}.block.attention.position_bias", f"{theirs}.attn.pos"
    names = {
        **torch_block(f"{ours}.block", theirs),
        **torch_names(f"{bias}.project", f"{their_bias}.pos_proj"),
        **torch_depthwise(f"{ours}.cooling.conv", f"{theirs}.ex_conv"),
        **torch_names(f"{ours}.cooling.norm", f"{theirs}.ex_ln"),
    }
    for i in range(3):
        names |= torch_names(f"{bias}.norms.{i}", f"{their_bias}.pos{i + 1}.0")
        names |= torch_names(f"{bias}.linears.{i}", f"{their_bias}.pos{i + 1}.2")
    return names


def official(model: CrossFormer) -> Names:
    names = {**torch_names("norm", "norm"), **torch_names("head", "head")}
    for i, stage in enumerate(model.stages):
        ours = f"stages.{i}"
        embedding = "patch_embed" if i == 0 else f"layers.{i - 1}.downsample"
        convs = "projs" if i == 0 else "reductions"
        for j in range(len(stage.embedding.convs)):
            conv = f"{embedding}.{convs}.{j}"
            names |= torch_conv(f"{ours}.embedding.convs.{j}", conv)
        names |= torch_names(f"{ours}.norm", f"{embedding}.norm")
        blocks = f"layers.{i}.blocks.{{}}"
        names |= alternating_names(f"{ours}.blocks", stage.blocks, blocks, _block)
    return names


_FORMATS = (
    Format(
        "official",
        ".safetensors",
        official,
        ignored=("attn_mask", "biases", "relative_position_index"),
    ),
)


def _cross_former(dim: int, depth: tuple) -> Variant:
    groups = dict(global_window_size=7, local_window_size=7, interval=(8, 4, 2, 1))
    return Variant(CrossFormer, 224, dict(dim=doubling(dim), depth=depth) | groups)


def _cross_former_pp(dim: int, depth: tuple) -> Variant:
    sizes = (4, 4, 14, 7)
    groups = dict(global_window_size=sizes, local_window_size=sizes)
    further = dict(interval=(4, 2, 1, 1), cooling=True)
    sizes = dict(dim=doubling(dim), depth=depth)
    return Variant(CrossFormer, 224, sizes | groups | further)


VARIANTS = {
    "crossformer_tiny": _cross_former(64, (1, 1, 8, 6)),
    "crossformer_small": _cross_former(96, (2, 2, 6, 2)),
    "crossformer_base": _cross_former(96, (2, 2, 18, 2)),
    "crossformer_large": _cross_former(128, (2, 2, 18, 2)),
    "crossformer_pp_small": _cross_former_pp(64, (2, 2, 18, 2)),
    "crossformer_pp_base": _cross_former_pp(96, (2, 2, 18, 2)),
    "crossformer_pp_large": _cross_former_pp(128, (2, 2, 18, 2)),
    "crossformer_pp_huge": _cross_former_pp(128, (6, 6, 18, 2)),
}


def _attention(model: CrossFormer, found: Found) -> list[AttentionMap]:
    """Maps of groups of neighbours, or of embeddings that stand apart."""
    blocks: list[Any] = []
    for stage in model.stages:
        turns = stage.blocks.turns
        if turns is not None:
            blocks += turns.blocks.blocks * turns.depth
        blocks += stage.blocks.remainder.blocks

    def layer(value: Array, grids: list[Grid], stage: int, number: int) -> AttentionMap:
        grid = grids[stage]
        places, tokens = blocks[number].block.attention.places(*grid), math.prod(grid)
        # (Padding goes to one more token, which is not used.)
        on_all = scattered(value, np.where(places < 0, tokens, places), tokens + 1)
        return AttentionMap(on_all[:, :tokens, :tokens], grid, grid)

    return by_stage(found, layer)


FAMILY = Family(
    model=CrossFormer,
    tiny=dict(
        dim=(32, 64),
        depth=(1, 2),
        global_window_size=2,
        local_window_size=4,
        cross_embed_kernel_sizes=((4, 8), (2, 4)),
        cross_embed_strides=(4, 2),
        dim_head=16,
        mlp_mult=2,
    ),
    tiny_side=32,
    variants=VARIANTS,
    formats=_FORMATS,
    resize=any_size,
    size_arguments=no_argument,
    attention=_attention,
)
