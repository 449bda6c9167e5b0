from ..models import SimpleViT
from .family import Family, one_head, replace_size, Variant
from .formats import Format
from .vit import (
    big_vision,
    old_numbers,
    plain,
    SMALL,
    timm,
    vision_transformer,
    VIT_JAX_POSITIONS,
    vit_pytorch,
)


def _heads(model: SimpleViT) -> dict[str, int]:
    hidden = model.pre_logits
    return one_head(model) if hidden is None else {"head": hidden.weight.shape[0]}


def _constant(name: str):
    # SimpleViT computes its positions; other implementations keep them as a parameter.
    return lambda model: {name: model.position_embedding[None]}


_FORMATS = (
    Format("big_vision", ".npz", big_vision, canonical=plain),
    Format("timm", ".safetensors", timm, _constant("pos_embed")),
    Format("vit_pytorch", ".safetensors", vit_pytorch),
    Format(
        "vision_transformer",
        ".npz",
        vision_transformer,
        _constant(VIT_JAX_POSITIONS),
        canonical=old_numbers,
    ),
)

_SIZE = SMALL | dict(qkv_bias=True, output_bias=True, pre_logits_dim=384)

VARIANTS = {
    f"simple_vit_small_patch16_{epochs}ep": Variant(
        SimpleViT, 224, dict(image_size=224, patch_size=16) | _SIZE
    )
    for epochs in (90, 150, 300)
}


FAMILY = Family(
    model=SimpleViT,
    tiny=dict(patch_size=7, dim=64, depth=4, heads=4, dim_head=16, mlp_dim=128),
    variants=VARIANTS,
    formats=_FORMATS,
    heads=_heads,
    resize=replace_size,
    rollout=True,
)
