import re
from typing import Any

from ..layers import replaced
from ..models.pit import patch_grid, PiT
from .configs import (
    check_timm_block,
    Config,
    one_ratio,
    pool_of,
    read_timm,
    renamed,
    side,
    their_size,
)
from .family import Family, Variant
from .formats import (
    Format,
    Names,
    Tensor,
    Tensors,
    token,
    torch_block,
    torch_conv,
    torch_depthwise,
    torch_names,
)
from .positions import antialiased, Size


def timm(model: PiT) -> Names:
    names = {
        **torch_conv("patch_embedding", "patch_embed.conv"),
        "position_embedding": Tensor("pos_embed", theirs="1 d h w", ours="h w d"),
        "class_tokens": token("cls_token"),
        **torch_names("norm", "norm"),
        **torch_names("head", "head"),
        **torch_names("distillation_head", "head_dist"),
    }
    for i in range(len(model.stages)):
        stage = f"transformers.{i}"
        names |= torch_block(f"stages.{i}.blocks", f"{stage}.blocks.{{}}")
        if i > 0:
            ours = f"poolings.{i - 1}"
            factor = model.poolings[i - 1].conv.weight.shape[-1]
            names |= torch_depthwise(f"{ours}.conv", f"{stage}.pool.conv", factor)
            names |= torch_names(f"{ours}.linear", f"{stage}.pool.fc")
    return names


def _pools(tensors: Tensors) -> Tensors:
    """Put each pooling into the stage that it opens, as timm does, not in a list."""

    def spelt(match):
        return f"transformers.{int(match[1]) + 1}.pool."

    return {re.sub(r"^pools\.(\d+)\.", spelt, name): t for name, t in tensors.items()}


_FORMATS = (Format("timm", ".safetensors", timm, canonical=_pools),)


def _pit(heads: int, dim_head: int, patch_size: int = 16, distilled=False) -> Variant:
    dim = heads * dim_head
    # PiT-B has smaller patches and another depth.
    depth = (2, 6, 4) if patch_size == 16 else (3, 6, 4)
    sizes = dict(image_size=224, patch_size=patch_size, stride=patch_size // 2)
    sizes |= dict(dim=dim, depth=depth, mlp_dim=(4 * dim, 8 * dim, 16 * dim))
    heads_of_stages = dict(heads=(heads, 2 * heads, 4 * heads), dim_head=dim_head)
    further = dict(qkv_bias=True, distilled=distilled)
    return Variant(PiT, 224, sizes | heads_of_stages | further)


VARIANTS = {
    "pit_ti_224": _pit(2, 32),
    "pit_xs_224": _pit(2, 48),
    "pit_s_224": _pit(3, 48),
    "pit_b_224": _pit(4, 64, 14),
    "pit_ti_distilled_224": _pit(2, 32, distilled=True),
    "pit_xs_distilled_224": _pit(2, 48, distilled=True),
    "pit_s_distilled_224": _pit(3, 48, distilled=True),
    "pit_b_distilled_224": _pit(4, 64, 14, distilled=True),
}


_TIMM_ARGUMENTS = {
    name: name for name in ("patch_size", "stride", "depth", "heads", "distilled")
}


def _read_timm(settings: Config, model_args: Config) -> dict[str, Any]:
    changes, rest = renamed(model_args, _TIMM_ARGUMENTS)
    stages = len(settings["heads"])
    heads = changes.get("heads", settings["heads"])
    widths = side(rest.pop("base_dims", stages * [settings["dim_head"]]))
    dims = tuple(h * width for h, width in zip(heads, widths))
    ratio = rest.pop("mlp_ratio", 4)
    changes |= dict(dim=dims, dim_head=widths)
    changes["mlp_dim"] = tuple(int(dim * ratio) for dim in dims)
    pool_of(rest, {"token": "cls"})
    return changes | read_timm(settings, rest)


def _write_timm(model: PiT) -> tuple[str, dict[str, Any]]:
    blocks = [stage.blocks for stage in model.stages]
    heads = [block.attention.heads for block in blocks]
    dims = [block.norm1.weight.shape[-1] for block in blocks]
    widths = [block.attention.output.weight.shape[-1] for block in blocks]
    hidden = [block.feed_forward.expand.weight.shape[-2] for block in blocks]
    if widths != dims:
        raise ValueError("timm's PiT has `heads * dim_head` equal to `dim`")
    if blocks[0].attention.qkv.bias is None:
        raise ValueError("timm's PiT has `qkv_bias=True`")
    check_timm_block(blocks[0])
    height, width = model.patch_embedding.weight.shape[:2]
    name = f"pit_s_{'distilled_' if len(model.class_tokens) == 2 else ''}224"
    return name, dict(
        img_size=their_size(model.image_size),
        patch_size=their_size((height, width)),
        stride=their_size(model.patch_embedding.stride),
        in_chans=model.channels,
        base_dims=[dim // number for dim, number in zip(dims, heads)],
        depth=[stage.depth for stage in model.stages],
        heads=heads,
        mlp_ratio=one_ratio(hidden, dims),
    )


def _heads(model: PiT) -> dict[str, int]:
    heads = ("head", "distillation_head")[: len(model.class_tokens)]
    return dict.fromkeys(heads, model.norm.weight.size)


def _resize(model: PiT, image_size: Size) -> PiT:
    conv = model.patch_embedding
    height, width = conv.weight.shape[:2]
    grid = patch_grid(image_size, (height, width), conv.stride)
    table = antialiased(model.position_embedding, grid)
    return replaced(model, position_embedding=table, image_size=image_size)


FAMILY = Family(
    model=PiT,
    tiny=dict(
        patch_size=7,
        stride=3,
        dim=32,
        depth=(1, 2),
        heads=(2, 4),
        dim_head=16,
        mlp_dim=64,
    ),
    variants=VARIANTS,
    formats=_FORMATS,
    read_timm=_read_timm,
    write_timm=_write_timm,
    heads=_heads,
    resize=_resize,
    between=("poolings",),
)
