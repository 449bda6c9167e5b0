from ..models.deep_vit import ConvStem, DeepViT
from ._names import (
    Format,
    Names,
    Tensor,
    token,
    torch_batch_norm,
    torch_block,
    torch_conv,
    torch_names,
    torch_patches,
)


def official(model: DeepViT) -> Names:
    stem, patches, names = model.patch_embedding, "patch_embedding", {}
    if isinstance(stem, ConvStem):
        names = {
            **torch_conv(f"{patches}.conv1", "patch_embed.conv1"),
            **torch_batch_norm(f"{patches}.norm1", "patch_embed.bn1"),
            **torch_conv(f"{patches}.conv2", "patch_embed.conv2"),
            **torch_batch_norm(f"{patches}.norm2", "patch_embed.bn2"),
        }
        stem, patches = stem.projection, f"{patches}.projection"
    start = 0
    for i, stack in enumerate(model.stacks):
        ours, theirs = f"stacks.{i}.blocks", "blocks.{}"
        names |= torch_block(ours, theirs, start)
        names[f"{ours}.attention.mix.weight"] = Tensor(
            f"{theirs}.attn.reatten_matrix.weight",
            theirs="o i 1 1",
            ours="o i",
            start=start,
        )
        names[f"{ours}.attention.mix.bias"] = Tensor(
            f"{theirs}.attn.reatten_matrix.bias", start=start
        )
        norm = torch_batch_norm(f"{ours}.attention.norm", f"{theirs}.attn.var_norm")
        for tensor in norm.values():
            tensor.start = start
        names |= norm
        start += len(stack.drop_rates)
    return names | {
        "class_token": token("cls_token"),
        "position_embedding": token("pos_embed"),
        **torch_patches(f"{patches}.linear", "patch_embed.proj", stem.patch_size),
        **torch_names("norm", "norm"),
        **torch_names("head", "head"),
    }


FORMATS = (Format("official", ".safetensors", official),)
