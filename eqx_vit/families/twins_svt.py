from ..models import TwinsSVT
from ..pretrained.names import (
    cycle_names,
    Format,
    Names,
    torch_block,
    torch_depthwise,
    torch_names,
    torch_patches,
)


def _block(ours: str, theirs: str) -> Names:
    attention = f"{theirs}.attn"
    # A block has the arrays of one of the two attentions.
    return {
        **torch_block(ours, theirs),
        **torch_names(f"{ours}.attention.attention.qkv", f"{attention}.qkv"),
        **torch_names(f"{ours}.attention.attention.query", f"{attention}.q"),
        **torch_names(f"{ours}.attention.attention.key_value", f"{attention}.kv"),
        **torch_names(f"{ours}.attention.attention.output", f"{attention}.proj"),
        **torch_names(f"{ours}.attention.norm", f"{attention}.norm"),
    }


def timm(model: TwinsSVT) -> Names:
    names = {**torch_names("norm", "norm"), **torch_names("head", "head")}
    for i, stage in enumerate(model.stages):
        ours, patches, factor = f"stages.{i}", stage.patch_embedding, stage.factor

        def block(ours: str, theirs: str) -> Names:
            reduction = f"{ours}.attention.reduction.linear"
            size = (factor, factor)
            return _block(ours, theirs) | torch_patches(
                reduction, f"{theirs}.attn.sr", size
            )

        names |= {
            **torch_patches(
                f"{ours}.patch_embedding.linear",
                f"patch_embeds.{i}.proj",
                patches.patch_size,
            ),
            **torch_names(f"{ours}.norm", f"patch_embeds.{i}.norm"),
            **block(f"{ours}.first", f"blocks.{i}.0"),
            **torch_depthwise(f"{ours}.peg.conv", f"pos_block.{i}.proj.0"),
            **cycle_names(f"{ours}.rest", stage.rest, f"blocks.{i}.{{}}", block, 1),
        }
    return names


FORMATS = (Format("timm", ".safetensors", timm),)
