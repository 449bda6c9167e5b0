from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..layers import (
    check_multiple,
    join_windows,
    replaced,
    resize_bicubic,
    split_windows,
)
from ..models import grad_cat, NesT
from .configs import Config, pool_of, read_timm, renamed
from .family import Family, Variant
from .formats import (
    flax_dense,
    flax_norm,
    Format,
    Names,
    numbered,
    Tensor,
    torch_block,
    torch_conv,
    torch_names,
    torch_patches,
)
from .maps import AttentionMap, by_stage, Found, Grid, of_windows
from .positions import grid, patch_size, Size


def timm(model: NesT) -> Names:
    names = {
        **torch_patches(
            "patch_embedding.linear",
            "patch_embed.proj",
            model.patch_embedding.patch_size,
        ),
        **torch_names("norm", "norm"),
        **torch_names("head", "head"),
    }
    for i, level in enumerate(model.levels):
        ours, theirs = f"levels.{i}", f"levels.{i}"
        blocks, layers = f"{ours}.transformer.blocks", f"{theirs}.transformer_encoder"
        names |= {
            f"{ours}.position_embedding": Tensor(
                f"{theirs}.pos_embed", theirs="1 b n d", ours="b n d"
            ),
            **torch_conv(f"aggregations.{i - 1}.conv", f"{theirs}.pool.conv"),
            **torch_names(f"aggregations.{i - 1}.norm", f"{theirs}.pool.norm"),
            **torch_block(blocks, f"{layers}.{{}}"),
            # They join the heads with the head as the fast axis.
            f"{blocks}.attention.output.weight": Tensor(
                f"{layers}.{{}}.attn.proj.weight",
                theirs="o (d h)",
                ours="o (h d)",
                sizes={"h": level.transformer.blocks.attention.heads},
            ),
        }
    return names


def official(model: NesT) -> Names:
    height, width = model.patch_embedding.patch_size
    names = {
        "patch_embedding.linear.weight": Tensor(
            "PatchEmbedding_0/Conv_0/kernel",
            theirs="p q c o",
            ours="o (p q c)",
            sizes={"p": height, "q": width},
        ),
        "patch_embedding.linear.bias": Tensor("PatchEmbedding_0/Conv_0/bias"),
        **flax_norm("norm", "LayerNorm_0"),
        **flax_dense("head", "Dense_0"),
    }
    start = 0
    for i, level in enumerate(model.levels):
        ours, pool = f"levels.{i}", f"ConvPool_{i - 1}"
        names |= {
            f"{ours}.position_embedding": Tensor(
                f"PositionEmbedding_{i}/pos_embedding", theirs="1 b n d", ours="b n d"
            ),
            f"aggregations.{i - 1}.conv.weight": Tensor(f"{pool}/Conv_0/kernel"),
            f"aggregations.{i - 1}.conv.bias": Tensor(f"{pool}/Conv_0/bias"),
            **flax_norm(f"aggregations.{i - 1}.norm", f"{pool}/LayerNorm_0"),
        }
        heads = level.transformer.blocks.attention.heads
        blocks = _official_block(f"{ours}.transformer.blocks", heads)
        names |= numbered(blocks, start)
        start += level.transformer.depth
    return names


def _official_block(ours: str, heads: int) -> Names:
    theirs = "EncoderNDBlock_{}"
    attention = f"{theirs}/MultiHeadAttention_0"
    queries, keys_values = (f"{attention}/DenseGeneral_{i}" for i in (0, 1))

    def join(parts):
        return np.stack([parts[0], *np.split(parts[1], 2, axis=-1)])

    def split(qkv):
        return [qkv[0], jnp.concatenate([qkv[1], qkv[2]], axis=-1)]

    fused: Any = dict(join=join, split=split, sizes={"n": 3, "h": heads})
    return {
        **flax_norm(f"{ours}.norm1", f"{theirs}/LayerNorm_0"),
        f"{ours}.attention.qkv.weight": Tensor(
            f"{queries}/kernel",
            f"{keys_values}/kernel",
            theirs="n i h d",
            ours="(n h d) i",
            **fused,
        ),
        f"{ours}.attention.qkv.bias": Tensor(
            f"{queries}/bias",
            f"{keys_values}/bias",
            theirs="n h d",
            ours="(n h d)",
            **fused,
        ),
        f"{ours}.attention.output.weight": Tensor(
            f"{attention}/proj_kernel",
            theirs="h d o",
            ours="o (h d)",
            sizes={"h": heads},
        ),
        f"{ours}.attention.output.bias": Tensor(f"{attention}/bias"),
        **flax_norm(f"{ours}.norm2", f"{theirs}/LayerNorm_1"),
        **flax_dense(f"{ours}.feed_forward.expand", f"{theirs}/MlpBlock_0/Dense_0"),
        **flax_dense(f"{ours}.feed_forward.contract", f"{theirs}/MlpBlock_0/Dense_1"),
    }


_FORMATS = (
    Format("timm", ".safetensors", timm),
    Format("official", ".npz", official),
)


def _nest(dim: int, heads: int, last: int) -> Variant:
    settings = dict(dim=dim, heads=heads, block_repeats=(2, 2, last))
    return Variant(NesT, 224, dict(image_size=224) | settings)


VARIANTS = {
    "nest_tiny_jx": _nest(96, 3, 8),
    "nest_small_jx": _nest(96, 3, 20),
    "nest_base_jx": _nest(128, 4, 20),
}


# (timm's functions take no other width, depth or heads.)
_TIMM_ARGUMENTS = {
    "patch_size": "patch_size",
    "mlp_ratio": "mlp_mult",
    "qkv_bias": "qkv_bias",
}


def _read_timm(settings: Config, model_args: Config) -> dict[str, Any]:
    changes, rest = renamed(model_args, _TIMM_ARGUMENTS)
    pool_of(rest, {"avg": "mean"})
    return changes | read_timm(settings, rest)


def _resize(model: NesT, image_size: Size) -> NesT:
    finest = patch_size(model)
    side = 2 ** (len(model.levels) - 1)
    smallest = (side * finest[0], side * finest[1])
    check_multiple("image_size", image_size, "patch_size * blocks a side", smallest)
    block_size = grid(image_size, smallest)
    levels = []
    for i, level in enumerate(model.levels):
        blocks = side // 2**i  # a side
        old, new = level.block_size, block_size
        table = join_windows(level.position_embedding, old, blocks * old[1])
        # (Without antialiasing, as in timm.)
        table = resize_bicubic(table, (blocks * new[0], blocks * new[1]))
        table = split_windows(table, new)
        levels.append(replaced(level, position_embedding=table, block_size=new))
    return replaced(model, levels=tuple(levels), image_size=image_size)


def _attention(model: NesT, found: Found) -> list[AttentionMap]:
    def layer(value: Array, grids: list[Grid], stage: int, number: int) -> AttentionMap:
        return of_windows(value, grids[stage], model.levels[stage].block_size)

    return by_stage(found, layer)


FAMILY = Family(
    model=NesT,
    tiny=dict(
        patch_size=7,
        dim=48,
        heads=3,
        num_hierarchies=2,
        block_repeats=(1, 2),
        mlp_mult=2,
    ),
    variants=VARIANTS,
    formats=_FORMATS,
    read_timm=_read_timm,
    resize=_resize,
    between=("aggregations",),
    attention=_attention,
    picks=("GradCAT", grad_cat),
)
