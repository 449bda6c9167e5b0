from functools import partial

import numpy as np

from ..models import ScalableViT
from ..models.scalable_vit import MLPHead
from ..pretrained.names import (
    cycle_names,
    Format,
    Names,
    Tensor,
    torch_block,
    torch_conv,
    torch_depthwise,
    torch_names,
)


def _block(ours: str, theirs: str, num_keys: int, reduces: bool) -> Names:
    """`num_keys` are the rows of keys in what keys and values share."""
    attention, their_attention = f"{ours}.attention", f"{theirs}.attn"
    names = {
        **torch_block(ours, theirs),
        **torch_depthwise(f"{attention}.interaction", f"{their_attention}.lim_func"),
        **torch_names(f"{attention}.query", f"{their_attention}.q"),
    }
    if not reduces:
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
        block = partial(_block, num_keys=stage.num_keys, reduces=stage.reduces)
        names |= {
            **torch_conv(f"{ours}.conv", f"patch_embeds.{i}.proj"),
            **torch_names(f"{ours}.norm", f"patch_embeds.{i}.norm"),
            **block(f"{ours}.first", f"{theirs}.0"),
            **torch_depthwise(f"{ours}.peg.conv", f"pos_block.{i}.proj.0"),
            **cycle_names(f"{ours}.rest", stage.rest, f"{theirs}.{{}}", block, 1),
        }
    return names


FORMATS = (Format("official", ".safetensors", official),)
