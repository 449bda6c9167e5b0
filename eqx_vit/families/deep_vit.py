from ..models.deep_vit import ConvStem, DeepViT
from ..pretrained.names import (
    Format,
    Names,
    numbered,
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
        for i in (1, 2):
            ours = f"{patches}.conv{i}"
            names |= torch_conv(f"{ours}.layer", f"patch_embed.conv{i}")
            names |= torch_batch_norm(f"{ours}.norm", f"patch_embed.bn{i}")
        stem, patches = stem.projection, f"{patches}.projection"
    start = 0
    for i, stack in enumerate(model.stacks):
        ours, theirs = f"stacks.{i}.blocks", "blocks.{}"
        mix, attention = f"{ours}.attention.mix", f"{theirs}.attn"
        blocks = {
            **torch_block(ours, theirs),
            f"{mix}.layer.weight": Tensor(
                f"{attention}.reatten_matrix.weight", theirs="o i 1 1", ours="o i"
            ),
            f"{mix}.layer.bias": Tensor(f"{attention}.reatten_matrix.bias"),
            **torch_batch_norm(f"{mix}.norm", f"{attention}.var_norm"),
        }
        names |= numbered(blocks, start)
        start += len(stack.drop_rates)
    return names | {
        "class_token": token("cls_token"),
        "position_embedding": token("pos_embed"),
        **torch_patches(f"{patches}.linear", "patch_embed.proj", stem.patch_size),
        **torch_names("norm", "norm"),
        **torch_names("head", "head"),
    }


FORMATS = (Format("official", ".safetensors", official),)
