import re

from ..models import PiT
from ..pretrained.names import (
    Format,
    Names,
    Tensor,
    Tensors,
    token,
    torch_block,
    torch_conv,
    torch_depthwise,
    torch_names,
)


def timm(model: PiT) -> Names:
    names = {
        **torch_conv("patch_embedding", "patch_embed.conv"),
        "position_embedding": Tensor("pos_embed", theirs="1 d h w", ours="h w d"),
        "class_tokens": token("cls_token"),
        **torch_names("norm", "norm"),
        **torch_names("head", "head"),
        **torch_names("distillation_head", "head_dist"),
    }
    for i in range(len(model.stages)):
        stage = f"transformers.{i}"
        names |= torch_block(f"stages.{i}.blocks", f"{stage}.blocks.{{}}")
        if i > 0:
            ours = f"poolings.{i - 1}"
            names |= torch_depthwise(f"{ours}.conv", f"{stage}.pool.conv", multiplier=2)
            names |= torch_names(f"{ours}.linear", f"{stage}.pool.fc")
    return names


def _pools(tensors: Tensors) -> Tensors:
    """With each pooling in the stage that it opens, as timm has it, not in a list."""

    def spelt(match):
        return f"transformers.{int(match[1]) + 1}.pool."

    return {re.sub(r"^pools\.(\d+)\.", spelt, name): t for name, t in tensors.items()}


FORMATS = (Format("timm", ".safetensors", timm, canonical=_pools),)
