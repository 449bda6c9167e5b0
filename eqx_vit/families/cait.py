from ..models import CaiT
from .family import Family, pooled_tokens, Variant
from .formats import (
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


_FORMATS = (Format("timm", ".safetensors", timm),)


def _cait(dim: int, depth: int, side: int, layer_scale: float = 1e-5) -> Variant:
    sizes = dict(image_size=side, patch_size=16, qkv_bias=True, dim=dim, depth=depth)
    heads = dict(heads=dim // 48, dim_head=48, mlp_dim=4 * dim)
    return Variant(CaiT, side, sizes | heads | dict(layer_scale=layer_scale))


VARIANTS = {
    "cait_xxs24_224": _cait(192, 24, 224),
    "cait_xxs24_384": _cait(192, 24, 384),
    "cait_xxs36_224": _cait(192, 36, 224),
    "cait_xxs36_384": _cait(192, 36, 384),
    "cait_xs24_384": _cait(288, 24, 384),
    "cait_s24_224": _cait(384, 24, 224),
    "cait_s24_384": _cait(384, 24, 384),
    "cait_s36_384": _cait(384, 36, 384, 1e-6),
    "cait_m36_384": _cait(768, 36, 384, 1e-6),
    "cait_m48_448": _cait(768, 48, 448, 1e-6),
}


FAMILY = Family(
    model=CaiT,
    tiny=dict(
        patch_size=7, dim=64, depth=3, cls_depth=1, heads=4, dim_head=16, mlp_dim=128
    ),
    variants=VARIANTS,
    formats=_FORMATS,
    stochastic_depth="layer_dropout",
    head_reads=pooled_tokens,
    rollout=True,
)
