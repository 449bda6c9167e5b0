from ..models import CaiT
from ..pretrained.names import (
    Format,
    Names,
    Tensor,
    token,
    torch_block,
    torch_cross_attention,
    torch_names,
    torch_patches,
)


def timm(model: CaiT) -> Names:
    patch, theirs = "patch_transformer.blocks", "blocks.{}"
    attention = f"{theirs}.attn"
    class_, only = "class_transformer.blocks", "blocks_token_only.{}"
    return {
        "class_token": token("cls_token"),
        "position_embedding": token("pos_embed"),
        **torch_patches(
            "patch_embedding.linear",
            "patch_embed.proj",
            model.patch_embedding.patch_size,
        ),
        **torch_block(patch, theirs),
        **torch_names(f"{patch}.attention.mix_logits", f"{attention}.proj_l"),
        **torch_names(f"{patch}.attention.mix_probabilities", f"{attention}.proj_w"),
        **torch_block(class_, only),
        **torch_cross_attention(
            f"{class_}.attention", f"{only}.attn", query="q", key="k", value="v"
        ),
        **{
            f"{ours}.layer_scale{i}.weight": Tensor(f"{block}.gamma_{i}")
            for ours, block in ((patch, theirs), (class_, only))
            for i in (1, 2)
        },
        **torch_names("norm", "norm"),
        **torch_names("head", "head"),
    }


FORMATS = (Format("timm", ".safetensors", timm),)
