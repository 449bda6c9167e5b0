import re

from ..models import CrossViT
from ..pretrained.names import (
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


def timm(model: CrossViT) -> Names:
    names, block = {}, "transformer.blocks"
    for i, branch in enumerate(("small", "large")):
        embedding = getattr(model, f"{branch}_embedding")
        ours, theirs = f"{branch}_embedding.patch_embedding", f"patch_embed.{i}.proj"
        if hasattr(embedding.patch_embedding, "convs"):
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
        once = len(stack.drop_rates) == 1
        theirs = f"blocks.{{}}.fusion.{i}" + ("" if once else ".{}")
        crossing = torch_names(f"{cross}.norm", f"{theirs}.norm1")
        crossing |= torch_cross_attention(
            f"{cross}.attention", f"{theirs}.attn", query="wq", key="wk", value="wv"
        )
        if once:  # which is no sequence there
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
    """With the tables of both branches as timm spells them, not as a list."""
    spelling = re.compile(r"(cls_token|pos_embed)\.(\d)")
    return {spelling.sub(r"\1_\2", name): t for name, t in tensors.items()}


def _once(model: CrossViT) -> str | None:
    depth = len(model.transformer.blocks.small_fusion.cross_attention.drop_rates)
    if depth > 1:
        return (
            f"with `cross_attn_depth={depth}` timm's CrossViT computes another "
            "function, its second cross-attention sees the class token alone; use "
            "`cross_attn_depth=1`"
        )


FORMATS = (Format("timm", ".safetensors", timm, canonical=_flat, unfit=_once),)
