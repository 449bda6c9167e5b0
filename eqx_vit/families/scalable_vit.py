from functools import partial

import numpy as np

from ..models.scalable_vit import MLPHead, ScalableAttention, ScalableViT
from .family import any_size, doubling, Family, no_argument, one_head, Variant
from .formats import (
    alternating_names,
    first_of,
    Format,
    Names,
    Tensor,
    torch_block,
    torch_conv,
    torch_depthwise,
    torch_names,
)


def _block(ours: str, theirs: str, ssa: ScalableAttention | None) -> Names:
    """`ssa` is the scalable attention of the stage, if it has any."""
    attention, their_attention = f"{ours}.attention", f"{theirs}.attn"
    names = {
        **torch_block(ours, theirs),
        **torch_depthwise(f"{attention}.interaction", f"{their_attention}.lim_func"),
        **torch_names(f"{attention}.query", f"{their_attention}.q"),
    }
    if ssa is None or ssa.reduction is None:
        return names | torch_names(f"{attention}.key_value", f"{their_attention}.kv")
    reduction, their_reduction = (
        f"{attention}.reduction",
        f"{their_attention}.reduction",
    )
    names |= {
        **torch_depthwise(f"{reduction}.conv", f"{their_reduction}.0"),
        f"{reduction}.linear.weight": Tensor(
            f"{their_reduction}.1.weight", theirs="o i 1 1", ours="o i"
        ),
        f"{reduction}.linear.bias": Tensor(f"{their_reduction}.1.bias"),
        **torch_names(f"{reduction}.norm", f"{their_attention}.norm_act.0"),
    }
    num_keys = ssa.heads * ssa.dim_key
    for kind in ("weight", "bias"):
        names[f"{attention}.key_value.{kind}"] = Tensor(
            f"{their_attention}.k.{kind}",
            f"{their_attention}.v.{kind}",
            join=np.concatenate,
            split=lambda x: [x[:num_keys], x[num_keys:]],
        )
    return names


def official(model: ScalableViT) -> Names:
    names = torch_names("norm", "norm")
    if isinstance(model.head, MLPHead):
        for layer, i in (("expand", 0), ("norm", 1), ("output", 3)):
            names |= torch_names(f"head.{layer}", f"head.{i}")
    else:
        names |= torch_names("head", "head")
    for i, stage in enumerate(model.stages):
        ours, theirs = f"stages.{i}", f"stages.{i}"
        block = partial(_block, ssa=first_of(ScalableAttention, stage))
        names |= {
            **torch_conv(f"{ours}.conv", f"patch_embeds.{i}.proj"),
            **torch_names(f"{ours}.norm", f"patch_embeds.{i}.norm"),
            **block(f"{ours}.first", f"{theirs}.0"),
            **torch_depthwise(f"{ours}.peg.conv", f"pos_block.{i}.proj.0"),
            **alternating_names(f"{ours}.rest", stage.rest, f"{theirs}.{{}}", block, 1),
        }
    return names


_FORMATS = (Format("official", ".safetensors", official),)


def _scalable_vit(dim: int, heads: int, depth: tuple, keys: tuple) -> Variant:
    settings = dict(dim=dim, heads=doubling(heads), depth=depth, ssa_dim_key=keys)
    return Variant(ScalableViT, 224, settings | dict(window_size=7, head_dim=4096))


VARIANTS = {
    "scalablevit_s": _scalable_vit(64, 2, (2, 2, 20, 2), (40, 40, 40, 32)),
    "scalablevit_b": _scalable_vit(96, 3, (2, 2, 14, 6), (64, 40, 40, 32)),
    "scalablevit_l": _scalable_vit(128, 4, (2, 6, 12, 4), (8, 16, 32, 32)),
}


def _heads(model: ScalableViT) -> dict[str, int]:
    if isinstance(model.head, MLPHead):
        return {"head.output": model.head.expand.weight.shape[0]}
    return one_head(model)


FAMILY = Family(
    model=ScalableViT,
    tiny=dict(
        dim=32,
        heads=(2, 4),
        depth=(1, 1),
        ssa_dim_key=16,
        ssa_dim_value=16,
        iwsa_dim_key=16,
        iwsa_dim_value=16,
        reduction_factor=(4, 1),
        window_size=(4, None),
        ff_expansion_factor=2,
    ),
    tiny_side=32,
    variants=VARIANTS,
    formats=_FORMATS,
    heads=_heads,
    resize=any_size,
    size_arguments=no_argument,
)
