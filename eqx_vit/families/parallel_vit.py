from ..models import ParallelViT
from ..pretrained.names import Format, Names, Tensor, token, torch_names, torch_patches


def timm(model: ParallelViT) -> Names:
    attention, mlp = "transformer.blocks.attentions", "transformer.blocks.feed_forwards"
    attns, ffns = "blocks.{}.attns.{}", "blocks.{}.ffns.{}"
    return {
        "class_token": token("cls_token"),
        "position_embedding": token("pos_embed"),
        **torch_patches(
            "patch_embedding.linear",
            "patch_embed.proj",
            model.patch_embedding.patch_size,
        ),
        **torch_names(f"{attention}.norm", f"{attns}.norm"),
        **torch_names(f"{attention}.layer.qkv", f"{attns}.attn.qkv"),
        **torch_names(f"{attention}.layer.output", f"{attns}.attn.proj"),
        f"{attention}.layer_scale.weight": Tensor(f"{attns}.ls.gamma"),
        **torch_names(f"{mlp}.norm", f"{ffns}.norm"),
        **torch_names(f"{mlp}.layer.expand", f"{ffns}.mlp.fc1"),
        **torch_names(f"{mlp}.layer.contract", f"{ffns}.mlp.fc2"),
        f"{mlp}.layer_scale.weight": Tensor(f"{ffns}.ls.gamma"),
        **torch_names("norm", "norm"),
        **torch_names("head", "head"),
    }


FORMATS = (Format("timm", ".safetensors", timm),)
