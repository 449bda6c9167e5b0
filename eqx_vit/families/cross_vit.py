import re
from collections.abc import Mapping
from typing import Any

from ..layers import check_multiple, pair, replaced
from ..models.cross_vit import CrossViT, MultiConvEmbedding, other_size
from .configs import Config, pool_of, read_timm, renamed
from .family import Family, Variant
from .formats import (
    Format,
    Names,
    Tensors,
    token,
    torch_block,
    torch_conv,
    torch_cross_attention,
    torch_names,
    torch_patches,
)
from .maps import AttentionMap, Feature, feature, Found, Grid, patch_grid, whole
from .positions import patch_size, resized_patches, Size


def timm(model: CrossViT) -> Names:
    names, block = {}, "transformer.blocks"
    for i, branch in enumerate(("small", "large")):
        embedding = getattr(model, f"{branch}_embedding")
        ours, theirs = f"{branch}_embedding.patch_embedding", f"patch_embed.{i}.proj"
        if isinstance(embedding.patch_embedding, MultiConvEmbedding):
            for j in range(3):  # two ReLUs stand between them
                names |= torch_conv(f"{ours}.convs.{j}", f"{theirs}.{2 * j}")
        else:
            patch_size = embedding.patch_embedding.patch_size
            names |= torch_patches(f"{ours}.linear", theirs, patch_size)
        names[f"{branch}_embedding.class_token"] = token(f"cls_token_{i}")
        names[f"{branch}_embedding.position_embedding"] = token(f"pos_embed_{i}")
        names |= torch_block(f"{block}.{branch}.blocks", f"blocks.{{}}.blocks.{i}.{{}}")

        fusion = f"{block}.{branch}_fusion"
        stack = getattr(model.transformer.blocks, f"{branch}_fusion").cross_attention
        cross = f"{fusion}.cross_attention.blocks"
        once = stack.depth == 1
        theirs = f"blocks.{{}}.fusion.{i}" + ("" if once else ".{}")
        crossing = torch_names(f"{cross}.norm", f"{theirs}.norm1")
        crossing |= torch_cross_attention(
            f"{cross}.attention", f"{theirs}.attn", query="wq", key="wk", value="wv"
        )
        if once:  # there without a sequence around it
            for tensor in crossing.values():
                tensor.ours = f"1 {tensor.ours}"
        names |= crossing
        for ours, theirs in (("project", "projs"), ("project_back", "revert_projs")):
            theirs = f"blocks.{{}}.{theirs}.{i}"
            names |= torch_names(f"{fusion}.{ours}.norm", f"{theirs}.0")
            names |= torch_names(f"{fusion}.{ours}.linear", f"{theirs}.2")
        names |= torch_names(f"{branch}_norm", f"norm.{i}")
        names |= torch_names(f"{branch}_head", f"head.{i}")
    return names


def _flat(tensors: Tensors) -> Tensors:
    """Spell the tables of both branches as timm does, not as a list, and a single
    cross-attention without a sequence around it."""
    table = re.compile(r"(cls_token|pos_embed)\.(\d)")
    sequence = re.compile(r"(\.fusion\.\d)\.0\.")
    return {
        sequence.sub(r"\1.", table.sub(r"\1_\2", name)): tensor
        for name, tensor in tensors.items()
    }


def _once(model: CrossViT) -> str | None:
    depth = model.transformer.blocks.small_fusion.cross_attention.depth
    if depth > 1:
        return (
            f"with `cross_attn_depth={depth}` timm's CrossViT computes another "
            "function, its second cross-attention sees the class token alone; use "
            "`cross_attn_depth=1`"
        )


_FORMATS = (Format("timm", ".safetensors", timm, canonical=_flat, unfit=_once),)


def _cross_vit(
    dim: int, depth: int, heads: int, mlp_mult: int, side: int = 240, dagger=False
) -> Variant:
    """`dim` is the width of the small patches' branch; the other is twice as wide."""
    sizes = dict(image_size=side, lg_image_size=round(side * 224 / 240 / 16) * 16)
    small = dict(sm_dim=dim, sm_patch_size=12, sm_enc_depth=1, sm_enc_heads=heads)
    small |= dict(sm_enc_dim_head=dim // heads, sm_enc_mlp_dim=mlp_mult * dim)
    large = dict(lg_dim=2 * dim, lg_patch_size=16, lg_enc_depth=depth)
    large |= dict(lg_enc_heads=heads, lg_enc_dim_head=2 * dim // heads)
    large |= dict(lg_enc_mlp_dim=2 * mlp_mult * dim)
    cross = dict(depth=3, cross_attn_depth=1, cross_attn_heads=heads)
    cross |= dict(cross_attn_dim_head=(2 * dim // heads, dim // heads))
    further = dict(qkv_bias=True, multi_conv=dagger)
    return Variant(CrossViT, side, sizes | small | large | cross | further)


VARIANTS = {
    "crossvit_tiny_240": _cross_vit(96, 4, 3, 4),
    "crossvit_small_240": _cross_vit(192, 4, 6, 4),
    "crossvit_base_240": _cross_vit(384, 4, 12, 4),
    "crossvit_9_240": _cross_vit(128, 3, 4, 3),
    "crossvit_15_240": _cross_vit(192, 5, 6, 3),
    "crossvit_18_240": _cross_vit(224, 6, 7, 3),
    "crossvit_9_dagger_240": _cross_vit(128, 3, 4, 3, dagger=True),
    "crossvit_15_dagger_240": _cross_vit(192, 5, 6, 3, dagger=True),
    "crossvit_18_dagger_240": _cross_vit(224, 6, 7, 3, dagger=True),
    "crossvit_15_dagger_408": _cross_vit(192, 5, 6, 3, 408, dagger=True),
    "crossvit_18_dagger_408": _cross_vit(224, 6, 7, 3, 408, dagger=True),
}


def _read_timm(settings: Config, model_args: Config) -> dict[str, Any]:
    changes, rest = renamed(
        model_args, {"qkv_bias": "qkv_bias", "multi_conv": "multi_conv"}
    )
    pairs = {"patch_size": "patch_size", "embed_dim": "dim", "num_heads": "enc_heads"}
    for theirs, ours in pairs.items():
        if theirs in rest:
            small, large = rest.pop(theirs)
            changes |= {f"sm_{ours}": small, f"lg_{ours}": large}
    sizes = {**settings, **changes}
    if "depth" in rest:
        blocks = [tuple(block) for block in rest.pop("depth")]
        small, large, crossing = blocks[0]
        if len(set(blocks)) > 1 or crossing > 1:
            raise ValueError(
                "`depth` must be the same for all blocks, with one attention across"
            )
        changes |= dict(depth=len(blocks), sm_enc_depth=small, lg_enc_depth=large)
    ratios = rest.pop("mlp_ratio", None)
    dims = {branch: sizes[f"{branch}_dim"] for branch in ("sm", "lg")}
    heads = {branch: sizes[f"{branch}_enc_heads"] for branch in dims}
    for i, (branch, dim) in enumerate(dims.items()):
        old = settings[f"{branch}_enc_mlp_dim"] / settings[f"{branch}_dim"]
        ratio = old if ratios is None else ratios[i]
        changes[f"{branch}_enc_mlp_dim"] = int(dim * ratio)
        changes[f"{branch}_enc_dim_head"] = dim // heads[branch]
    # The class token of a branch attends at the width of the other.
    changes["cross_attn_heads"] = (heads["lg"], heads["sm"])
    changes["cross_attn_dim_head"] = (
        dims["lg"] // heads["lg"],
        dims["sm"] // heads["sm"],
    )
    if "img_scale" in rest:
        scale, other = rest.pop("img_scale")
        size = pair(settings["image_size"])  # scaled with `img_size`
        if scale != 1:
            raise ValueError("`img_scale` must begin with 1 here")
        changes["lg_image_size"] = (int(other * size[0]), int(other * size[1]))
    changes |= pool_of(rest, {"token": "cls", "avg": "mean"})
    return changes | read_timm(settings, rest)


def _heads(model: CrossViT) -> dict[str, int]:
    return {
        "small_head": model.small_norm.weight.size,
        "large_head": model.large_norm.weight.size,
    }


def _resize(model: CrossViT, image_size: Size) -> CrossViT:
    small, large = model.small_embedding, model.large_embedding
    other = other_size(small.image_size, large.image_size, image_size)
    check_multiple("image_size", image_size, "sm_patch_size", patch_size(small)[0])
    check_multiple("lg_image_size", other, "lg_patch_size", patch_size(large)[0])
    return replaced(
        model,
        small_embedding=resized_patches(small, image_size),
        large_embedding=resized_patches(large, other),
        image_size=image_size,
    )


def _tokens(model: CrossViT, features: list[Feature]) -> Feature:
    last = features[-1]  # of the larger branch
    map = None if last.map is None else model.large_norm(last.map)
    return Feature(map, model.large_norm(last.prefix))


def _size_arguments(settings: Mapping[str, Any], image_size: Size) -> dict[str, Any]:
    arguments: dict[str, Any] = dict(image_size=image_size)
    if "lg_image_size" in settings:
        old = pair(settings["image_size"]), pair(settings["lg_image_size"])
        arguments["lg_image_size"] = other_size(*old, image_size)
    return arguments


def _grids(model: CrossViT) -> tuple[Grid, Grid]:
    return patch_grid(model.small_embedding), patch_grid(model.large_embedding)


def _features(model: CrossViT, found: Found) -> list[Feature]:
    """Two a block, of small and of large patches."""
    # In a multi-scale block those of the two encoders come first.
    per_block = len(found) // model.transformer.depth
    pairs = [found[i : i + 2] for i in range(per_block - 2, len(found), per_block)]
    return [
        feature(tokens, grid)
        for pair in pairs
        for (_, tokens), grid in zip(pair, _grids(model))
    ]


def _attention(model: CrossViT, found: Found) -> list[AttentionMap]:
    (small, large), block = _grids(model), model.transformer.blocks
    depths = [stack.depth for stack in (block.small, block.large)]
    depths += [
        fusion.cross_attention.depth
        for fusion in (block.small_fusion, block.large_fusion)
    ]
    grids = [small] * depths[0] + [large] * depths[1]
    grids += [large] * depths[2] + [small] * depths[3]
    times = len(found) // len(grids)
    return [whole(value, grid, grid) for (_, value), grid in zip(found, times * grids)]


FAMILY = Family(
    model=CrossViT,
    tiny=dict(
        depth=2,
        sm_dim=48,
        sm_patch_size=7,
        sm_enc_depth=1,
        sm_enc_heads=3,
        sm_enc_mlp_dim=96,
        sm_enc_dim_head=16,
        lg_dim=64,
        lg_patch_size=14,
        lg_enc_depth=1,
        lg_enc_heads=4,
        lg_enc_mlp_dim=128,
        lg_enc_dim_head=16,
        cross_attn_depth=1,
        cross_attn_heads=4,
        cross_attn_dim_head=16,
    ),
    variants=VARIANTS,
    formats=_FORMATS,
    read_timm=_read_timm,
    heads=_heads,
    resize=_resize,
    size_arguments=_size_arguments,
    tokens=_tokens,
    features=_features,
    attention=_attention,
    relevance=False,
)
