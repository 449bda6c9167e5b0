from ..models import T2TViT
from ..pretrained.names import (
    buffer,
    Format,
    Names,
    token,
    torch_block,
    torch_names,
)


def official(model: T2TViT) -> Names:
    names = {}
    for i, attention in enumerate(model.token_attentions):
        ours, theirs = f"token_attentions.{i}", f"tokens_to_token.attention{i + 1}"
        if hasattr(attention, "features"):
            layers = {
                "kqv": "kqv",
                "output": "proj",
                "feed_forward.expand": "mlp.0",
                "feed_forward.contract": "mlp.2",
            }
            names[f"{ours}.features.bits"] = buffer(f"{theirs}.w")
        else:
            layers = {
                "qkv": "attn.qkv",
                "output": "attn.proj",
                "feed_forward.expand": "mlp.fc1",
                "feed_forward.contract": "mlp.fc2",
            }
        for layer in ("norm1", "norm2"):
            names |= torch_names(f"{ours}.{layer}", f"{theirs}.{layer}")
        for our_layer, their_layer in layers.items():
            names |= torch_names(f"{ours}.{our_layer}", f"{theirs}.{their_layer}")
    positions = {"theirs": "1 n d", "ours": "n d"}
    return names | {
        **torch_names("projection", "tokens_to_token.project"),
        "class_token": token("cls_token"),
        "position_embedding.bits": buffer("pos_embed", **positions),
        **torch_block("transformer.blocks", "blocks.{}"),
        **torch_names("norm", "norm"),
        **torch_names("head", "head"),
    }


FORMATS = (Format("official", ".safetensors", official),)
