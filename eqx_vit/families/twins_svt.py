from typing import Any

from ..models.twins_svt import GlobalAttention, TwinsSVT
from .configs import Config, pool_of, read_timm, renamed
from .family import any_size, doubling, Family, no_argument, Variant
from .formats import (
    alternating_names,
    first_of,
    Format,
    Names,
    torch_block,
    torch_depthwise,
    torch_names,
    torch_patches,
)


def _block(ours: str, theirs: str) -> Names:
    attention = f"{theirs}.attn"
    # A block has the arrays of one of the two attentions.
    return {
        **torch_block(ours, theirs),
        **torch_names(f"{ours}.attention.attention.qkv", f"{attention}.qkv"),
        **torch_names(f"{ours}.attention.attention.query", f"{attention}.q"),
        **torch_names(f"{ours}.attention.attention.key_value", f"{attention}.kv"),
        **torch_names(f"{ours}.attention.attention.output", f"{attention}.proj"),
        **torch_names(f"{ours}.attention.norm", f"{attention}.norm"),
    }


def timm(model: TwinsSVT) -> Names:
    names = {**torch_names("norm", "norm"), **torch_names("head", "head")}
    for i, stage in enumerate(model.stages):
        ours, patches = f"stages.{i}", stage.patch_embedding
        attention = first_of(GlobalAttention, stage)
        reduction = None if attention is None else attention.reduction

        def block(ours: str, theirs: str) -> Names:
            names = _block(ours, theirs)
            if reduction is None:
                return names
            linear, conv = f"{ours}.attention.reduction.linear", f"{theirs}.attn.sr"
            return names | torch_patches(linear, conv, reduction.patch_size)

        names |= {
            **torch_patches(
                f"{ours}.patch_embedding.linear",
                f"patch_embeds.{i}.proj",
                patches.patch_size,
            ),
            **torch_names(f"{ours}.norm", f"patch_embeds.{i}.norm"),
            **block(f"{ours}.first", f"blocks.{i}.0"),
            **torch_depthwise(f"{ours}.peg.conv", f"pos_block.{i}.proj.0"),
            **alternating_names(
                f"{ours}.rest", stage.rest, f"blocks.{i}.{{}}", block, 1
            ),
        }
    return names


_FORMATS = (Format("timm", ".safetensors", timm),)


def _twins_svt(dim: int, heads: int, depths: tuple) -> Variant:
    settings = dict(s1_global_k=8, s2_global_k=4, s3_global_k=2, s4_global_k=1)
    for i, (stage_dim, depth) in enumerate(zip(doubling(dim), depths), 1):
        settings |= {f"s{i}_emb_dim": stage_dim, f"s{i}_depth": depth}
    return Variant(TwinsSVT, 224, settings | dict(heads=doubling(heads)))


VARIANTS = {
    "twins_svt_small": _twins_svt(64, 2, (1, 1, 5, 2)),
    "twins_svt_base": _twins_svt(96, 3, (1, 1, 9, 1)),
    "twins_svt_large": _twins_svt(128, 4, (1, 1, 9, 1)),
}


_PER_STAGE = {"embed_dims": "emb_dim", "sr_ratios": "global_k"}
_PER_STAGE |= {"wss": "local_patch_size"}
_TIMM_ARGUMENTS = {
    "patch_size": "s1_patch_size",
    "depths": "num_blocks",
    "num_heads": "heads",
    "mlp_ratios": "mlp_mult",
}


def _read_timm(settings: Config, model_args: Config) -> dict[str, Any]:
    changes, rest = renamed(model_args, _TIMM_ARGUMENTS)
    for theirs, ours in _PER_STAGE.items():
        values = rest.pop(theirs, ())
        changes |= {f"s{i}_{ours}": value for i, value in enumerate(values, 1)}
    pool_of(rest, {"avg": "mean"})
    return changes | read_timm(settings, rest)


FAMILY = Family(
    model=TwinsSVT,
    tiny=dict(
        s1_emb_dim=16,
        s1_local_patch_size=4,
        s1_global_k=4,
        s2_emb_dim=32,
        s2_local_patch_size=4,
        s2_global_k=2,
        s2_depth=1,
        s3_emb_dim=48,
        s3_patch_size=2,
        s3_local_patch_size=2,
        s3_global_k=1,
        s3_depth=1,
        s4_emb_dim=48,
        s4_patch_size=1,
        s4_local_patch_size=2,
        s4_global_k=1,
        s4_depth=1,
        heads=2,
        mlp_mult=2,
    ),
    tiny_side=32,
    variants=VARIANTS,
    formats=_FORMATS,
    read_timm=_read_timm,
    resize=any_size,
    size_arguments=no_argument,
)
