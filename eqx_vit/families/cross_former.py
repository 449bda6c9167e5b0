from ..models import CrossFormer
from ..pretrained.names import (
    cycle_names,
    Format,
    Names,
    torch_block,
    torch_conv,
    torch_depthwise,
    torch_names,
)


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
        names |= cycle_names(f"{ours}.blocks", stage.blocks, blocks, _block)
    return names


FORMATS = (
    Format(
        "official",
        ".safetensors",
        official,
        ignored=("attn_mask", "biases", "relative_position_index"),
    ),
)
