from ..layers import Buffer, replaced
from ..models.t2t_vit import T2TViT, token_grid, TokenPerformer
from .family import Family, pooled_tokens, Variant
from .formats import (
    buffer,
    Format,
    Names,
    token,
    torch_block,
    torch_names,
)
from .maps import AttentionMap, Feature, feature, Found, Grid, whole
from .positions import resized_table, Size


def official(model: T2TViT) -> Names:
    names = {}
    for i, attention in enumerate(model.token_attentions):
        ours, theirs = f"token_attentions.{i}", f"tokens_to_token.attention{i + 1}"
        if isinstance(attention, TokenPerformer):
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


_FORMATS = (Format("official", ".safetensors", official),)


def _t2t_vit(
    dim: int, depth: int, heads: int, mlp_mult: int, performer=True, side: int = 224
) -> Variant:
    sizes = dict(image_size=side, dim=dim, depth=depth, heads=heads)
    further = dict(mlp_dim=mlp_mult * dim, performer=performer)
    return Variant(T2TViT, side, sizes | dict(dim_head=dim // heads) | further)


VARIANTS = {
    "t2t_vit_7": _t2t_vit(256, 7, 4, 2),
    "t2t_vit_10": _t2t_vit(256, 10, 4, 2),
    "t2t_vit_12": _t2t_vit(256, 12, 4, 2),
    "t2t_vit_14": _t2t_vit(384, 14, 6, 3),
    "t2t_vit_14_384": _t2t_vit(384, 14, 6, 3, side=384),
    "t2t_vit_19": _t2t_vit(448, 19, 7, 3),
    "t2t_vit_24": _t2t_vit(512, 24, 8, 3),
    "t2t_vit_t_14": _t2t_vit(384, 14, 6, 3, performer=False),
    "t2t_vit_t_19": _t2t_vit(448, 19, 7, 3, performer=False),
    "t2t_vit_t_24": _t2t_vit(512, 24, 8, 3, performer=False),
}


def _grid(model: T2TViT) -> Grid:
    return token_grid(model.image_size, model.t2t_layers)


def _resize(model: T2TViT, image_size: Size) -> T2TViT:
    new = token_grid(image_size, model.t2t_layers)
    table = resized_table(model.position_embedding.value, _grid(model), new)
    return replaced(model, position_embedding=Buffer(table), image_size=image_size)


def _features(model: T2TViT, found: Found) -> list[Feature]:
    return [feature(tokens, _grid(model)) for _, tokens in found]


def _attention(model: T2TViT, found: Found) -> list[AttentionMap]:
    splits = range(1, 1 + len(model.token_attentions))
    grids = [token_grid(model.image_size, model.t2t_layers[:i]) for i in splits]
    depth = model.transformer.depth
    # (Performers have no maps.)
    grids = grids[: len(found) - depth] + [_grid(model)] * depth
    return [whole(value, grid, grid) for (_, value), grid in zip(found, grids)]


FAMILY = Family(
    model=T2TViT,
    tiny=dict(
        dim=64,
        depth=3,
        heads=4,
        dim_head=16,
        mlp_dim=128,
        token_dim=16,
        t2t_layers=((7, 4), (3, 2)),
    ),
    tiny_side=32,
    variants=VARIANTS,
    formats=_FORMATS,
    head_reads=pooled_tokens,
    resize=_resize,
    planar_patches=True,
    features=_features,
    attention=_attention,
    rollout=True,
)
