from typing import Any

from ..models import CaiT
from .configs import (
    check_timm_block,
    Config,
    pool_of,
    ratio_of,
    read_timm,
    renamed,
    their_size,
)
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


_TIMM_ARGUMENTS = {
    "patch_size": "patch_size",
    "embed_dim": "dim",
    "depth": "depth",
    "num_heads": "heads",
    "qkv_bias": "qkv_bias",
    "init_values": "layer_scale",
    "depth_token_only": "cls_depth",
}
_TIMM_POOLS = {"token": "cls", "avg": "mean"}


def _read_timm(settings: Config, model_args: Config) -> dict[str, Any]:
    changes, rest = renamed(model_args, _TIMM_ARGUMENTS)
    sizes = {**settings, **changes}
    ratio = rest.pop("mlp_ratio", 4.0)
    if rest.pop("mlp_ratio_token_only", 4.0) != ratio:
        raise ValueError("`mlp_ratio_token_only` must be equal to `mlp_ratio` here")
    changes["dim_head"] = sizes["dim"] // sizes["heads"]
    changes["mlp_dim"] = int(sizes["dim"] * ratio)
    changes |= pool_of(rest, _TIMM_POOLS)
    return changes | read_timm(settings, rest)


def _write_timm(model: CaiT) -> tuple[str, dict[str, Any]]:
    block, dim = model.patch_transformer.blocks, model.norm.weight.size
    if block.attention.output.weight.shape[-1] != dim:
        raise ValueError("timm's CaiT has `heads * dim_head` equal to `dim`")
    check_timm_block(block)
    ratio = ratio_of(block.feed_forward.expand.weight.shape[-2], dim)
    return "cait_xxs24_224", dict(
        img_size=their_size(model.image_size),
        patch_size=their_size(model.patch_embedding.patch_size),
        in_chans=model.channels,
        embed_dim=dim,
        depth=model.patch_transformer.depth,
        num_heads=block.attention.heads,
        mlp_ratio=ratio,
        mlp_ratio_token_only=ratio,
        qkv_bias=block.attention.qkv.bias is not None,
        depth_token_only=model.class_transformer.depth,
        global_pool="token" if model.pool == "cls" else "avg",
    )


FAMILY = Family(
    model=CaiT,
    tiny=dict(
        patch_size=7, dim=64, depth=3, cls_depth=1, heads=4, dim_head=16, mlp_dim=128
    ),
    variants=VARIANTS,
    formats=_FORMATS,
    read_timm=_read_timm,
    write_timm=_write_timm,
    stochastic_depth="layer_dropout",
    head_reads=pooled_tokens,
    rollout=True,
)
