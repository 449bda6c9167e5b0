from ..models.deep_vit import ConvStem, DeepViT
from .family import Family, pooled_tokens, Variant
from .formats import (
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
        start += stack.depth
    return names | {
        "class_token": token("cls_token"),
        "position_embedding": token("pos_embed"),
        **torch_patches(f"{patches}.linear", "patch_embed.proj", stem.patch_size),
        **torch_names("norm", "norm"),
        **torch_names("head", "head"),
    }


_FORMATS = (Format("official", ".safetensors", official),)


def _deep_vit(dim: int, depth: int, changes: dict = {}) -> Variant:
    sizes = dict(image_size=224, patch_size=16, qkv_bias=True, dim=dim, depth=depth)
    heads = dict(heads=12, dim_head=dim // 12, mlp_dim=3 * dim)
    return Variant(DeepViT, 224, sizes | heads | changes)


def _conv_deep_vit(dim: int, depth: int, last: int, changes: dict = {}) -> Variant:
    """A variant with a convolutional stem, and re-attention in the `last` blocks."""
    reattention = (False,) * (depth - last) + (True,) * last
    stem = dict(conv_stem=True, residual_scale=0.5, reattention=reattention)
    return _deep_vit(dim, depth, stem | changes)


VARIANTS = {
    "deepvit_24": _deep_vit(384, 24),
    "deepvit_32": _deep_vit(384, 32),
    "deepvit_s": _conv_deep_vit(396, 16, 5, dict(scale_reattention=True)),
    "deepvit_l": _conv_deep_vit(420, 32, 12),
}


FAMILY = Family(
    model=DeepViT,
    tiny=dict(patch_size=7, dim=64, depth=4, heads=4, dim_head=16, mlp_dim=128),
    variants=VARIANTS,
    formats=_FORMATS,
    head_reads=pooled_tokens,
    rollout=True,
)
