import re
from typing import Any

import numpy as np

from ..layers import check_multiple, gelu
from ..models.dinov3 import DINOv3
from .configs import (
    activation_named,
    Config,
    Kind,
    name_of_activation,
    pool_of,
    ratio_of,
    read_timm,
    renamed,
    side,
)
from .family import Family, no_argument, pooled_tokens, Variant
from .formats import (
    Format,
    Names,
    Tensor,
    Tensors,
    token,
    torch_block,
    torch_names,
    torch_patches,
)
from .maps import AttentionMap, Feature, feature, Found, heads_first, whole
from .positions import patch_size, Size


_BLOCK = "transformer.blocks"


def _is_gated(model: DINOv3) -> bool:
    return not hasattr(model.transformer.blocks.feed_forward, "activation")


def _layers(theirs: dict[str, str]) -> Names:
    names = {}
    for layer, name in theirs.items():
        names |= torch_names(f"{_BLOCK}.{layer}", name)
    return names


def _joined(ours: str, *theirs: str) -> Names:
    """A layer of ours that is several in a file."""
    return {
        f"{_BLOCK}.{ours}.{kind}": Tensor(
            *(f"{name}.{kind}" for name in theirs),
            theirs=f"n o{axis}",
            ours=f"(n o){axis}",
            sizes={"n": len(theirs)},
        )
        for kind, axis in (("weight", " i"), ("bias", ""))
    }


def timm(model: DINOv3) -> Names:
    theirs = "blocks.{}"
    names = {
        "class_token": token("cls_token"),
        "register_tokens": token("reg_token"),
        **torch_patches(
            "patch_embedding.linear", "patch_embed.proj", patch_size(model)
        ),
        **torch_block(_BLOCK, theirs),
        f"{_BLOCK}.attention.query_bias": Tensor(f"{theirs}.attn.q_bias"),
        f"{_BLOCK}.attention.value_bias": Tensor(f"{theirs}.attn.v_bias"),
        f"{_BLOCK}.layer_scale1.weight": Tensor(f"{theirs}.gamma_1"),
        f"{_BLOCK}.layer_scale2.weight": Tensor(f"{theirs}.gamma_2"),
        **torch_names("norm", "norm"),
        **torch_names("head", "head"),
    }
    if _is_gated(model):
        gates = (f"{theirs}.mlp.fc1_g", f"{theirs}.mlp.fc1_x")
        names |= _joined("feed_forward.expand", *gates)
    return names


def _transformers(model: DINOv3) -> Names:
    theirs = "layer.{}"
    layers = {
        "norm1": f"{theirs}.norm1",
        "attention.output": f"{theirs}.attention.o_proj",
        "norm2": f"{theirs}.norm2",
        "feed_forward.expand": f"{theirs}.mlp.up_proj",
        "feed_forward.contract": f"{theirs}.mlp.down_proj",
    }
    attention = [f"{theirs}.attention.{x}_proj" for x in "qkv"]
    names = {
        "class_token": token("embeddings.cls_token"),
        "register_tokens": token("embeddings.register_tokens"),
        **torch_patches(
            "patch_embedding.linear", "embeddings.patch_embeddings", patch_size(model)
        ),
        **_layers(layers),
        **_joined("attention.qkv", *attention),
        **torch_names("norm", "norm"),
    }
    for i, kind in ((1, "query"), (2, "key"), (3, "value")):
        names[f"{_BLOCK}.attention.{kind}_bias"] = Tensor(f"{attention[i - 1]}.bias")
    for i in (1, 2):
        scale = Tensor(f"{theirs}.layer_scale{i}.lambda1")
        names[f"{_BLOCK}.layer_scale{i}.weight"] = scale
    if _is_gated(model):
        gates = (f"{theirs}.mlp.gate_proj", f"{theirs}.mlp.up_proj")
        names |= _joined("feed_forward.expand", *gates)
    return names


# The names of the authors' files, as timm's.
_AUTHORS = (
    (r"^storage_tokens$", "reg_token"),
    (r"\.ls([12])\.gamma$", r".gamma_\1"),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)


def _as_timm(tensors: Tensors) -> Tensors:
    if "storage_tokens" not in tensors:
        return tensors
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, new in _AUTHORS:
            name = re.sub(pattern, new, name)
        if name.endswith("attn.qkv.bias"):
            # (That of the keys is masked there.)
            query, _, value = np.split(np.asarray(tensor), 3)
            renamed[name.replace("qkv.bias", "q_bias")] = query
            renamed[name.replace("qkv.bias", "v_bias")] = value
        else:
            renamed[name] = tensor
    return renamed


def _as_files(tensors: Tensors) -> Tensors:
    """Spell names as in files, which transformers 5 changes inside."""
    tensors = {re.sub(r"^model\.layer\.", "layer.", n): t for n, t in tensors.items()}
    registers = tensors.get("embeddings.register_tokens")
    if registers is not None and np.shape(registers)[1] == 0:
        del tensors["embeddings.register_tokens"]
    return tensors


def _live(tensors: Tensors) -> Tensors:
    """Spell names as inside transformers 5."""
    return {re.sub(r"^layer\.", "model.layer.", n): t for n, t in tensors.items()}


def _spell_transformers(model: DINOv3, tensors: Tensors) -> Tensors:
    dim = model.norm.weight.size
    empty = {
        "embeddings.mask_token": np.zeros((1, 1, dim), np.float32),
        "embeddings.register_tokens": np.zeros((1, 0, dim), np.float32),
    }
    return empty | tensors


def _not_plain(model: DINOv3) -> str | None:
    dim = model.norm.weight.size
    if model.transformer.blocks.attention.output.weight.shape[-1] != dim:
        return f"published files have `heads * dim_head` equal to `dim={dim}`"


def _unfit_timm(model: DINOv3) -> str | None:
    attention = model.transformer.blocks.attention
    if attention.key_bias is not None:
        return "timm's DINOv3 has no `key_bias`"
    if (attention.query_bias is None) != (attention.value_bias is None):
        return "timm's DINOv3 has `query_bias` and `value_bias`, or neither"
    return _not_plain(model)


def _unfit_transformers(model: DINOv3) -> str | None:
    if model.head is not None:
        return "transformers' DINOv3 has no classifier"
    if model.pool != "cls":
        return "transformers' DINOv3 has `pool='cls'`"
    if model.transformer.blocks.layer_scale1 is None:
        return "transformers' DINOv3 has LayerScale"
    return _not_plain(model)


_TRANSFORMERS = Format(
    "transformers",
    ".safetensors",
    _transformers,
    canonical=_as_files,
    spell=_spell_transformers,
    live=_live,
    beyond=lambda model: r"embeddings\.mask_token$",
    unfit=_unfit_transformers,
)
_FORMATS = (
    Format(
        "timm",
        ".safetensors",
        timm,
        canonical=_as_timm,
        ignored=("num_batches_tracked", "rope_embed.periods", "bias_mask"),
        beyond=lambda model: r"mask_token$|local_cls_norm\.|projectors\.",
        unfit=_unfit_timm,
    ),
    _TRANSFORMERS,
)


# timm's arguments and ours.
_TIMM_ARGUMENTS = {
    "patch_size": "patch_size",
    "embed_dim": "dim",
    "depth": "depth",
    "num_heads": "heads",
    "init_values": "layer_scale",
    "num_reg_tokens": "register_tokens",
    "rope_temperature": "rope_temperature",
    "rope_shift_coords": "rope_shift",
    "rope_jitter_coords": "rope_jitter",
    "rope_rescale_coords": "rope_rescale",
}
_TIMM_POOLS = {"token": "cls", "avg": "mean"}


def _read_timm(settings: Config, model_args: Config) -> dict[str, Any]:
    changes, rest = renamed(model_args, _TIMM_ARGUMENTS)
    sizes = {**settings, **changes}
    changes["dim_head"] = sizes["dim"] // sizes["heads"]
    ratio = rest.pop("mlp_ratio", settings["mlp_dim"] / settings["dim"])
    multiple = rest.pop("swiglu_align_to", 8) if settings.get("gated") else 1
    width = int(ratio * sizes["dim"])
    changes["mlp_dim"] = width + -width % multiple
    if "qkv_bias" in rest:
        bias = rest.pop("qkv_bias")
        changes |= dict(query_bias=bias, value_bias=bias)
    changes |= pool_of(rest, _TIMM_POOLS)
    return changes | read_timm(settings, rest)


def _write_timm(model: DINOv3) -> tuple[str, dict[str, Any]]:
    block, dim = model.transformer.blocks, model.norm.weight.size
    if reason := _unfit_timm(model):
        raise ValueError(reason)
    if model.pool not in _TIMM_POOLS.values():
        raise ValueError(f"timm's DINOv3 has no `pool={model.pool!r}`")
    if block.norm1.eps != 1e-5:
        raise ValueError(f"`norm_eps={block.norm1.eps}`; timm's DINOv3 has 1e-05")
    if block.layer_scale1 is None:
        raise ValueError("timm's DINOv3 has LayerScale")
    gated, registers = _is_gated(model), model.register_tokens
    if not gated and block.feed_forward.activation is not gelu:
        raise ValueError("timm's DINOv3 has the activation `gelu`")
    positions = model.positions
    hidden = block.feed_forward.contract.weight.shape[-1]
    arguments = dict(
        patch_size=list(patch_size(model)),
        in_chans=model.channels,
        embed_dim=dim,
        depth=model.transformer.depth,
        num_heads=block.attention.heads,
        mlp_ratio=ratio_of(hidden, dim),
        qkv_bias=block.attention.query_bias is not None,
        init_values=1e-5,
        num_reg_tokens=0 if registers is None else registers.shape[0],
        global_pool="token" if model.pool == "cls" else "avg",
        rope_temperature=positions.temperature,
        rope_shift_coords=positions.shift,
        rope_jitter_coords=positions.jitter,
        rope_rescale_coords=positions.rescale,
    )
    if gated:
        arguments["swiglu_align_to"] = 1
    name = f"vit_small{'_plus' if gated else ''}_patch16_dinov3"
    return name, arguments


def _read_transformers(config: Config) -> dict[str, Any]:
    for name in ("proj_bias", "mlp_bias"):
        if not config.get(name, True):
            raise ValueError(f"`{name}=False`; a DINOv3 here has these biases")
    gated, act = config.get("use_gated_mlp", False), config.get("hidden_act", "gelu")
    if gated and act not in ("silu", "swish"):
        raise ValueError(
            f"`hidden_act={act!r}` with `use_gated_mlp=True`; a gated DINOv3 here has "
            "'silu'"
        )
    dim, heads = config.get("hidden_size", 384), config.get("num_attention_heads", 6)
    return dict(
        image_size=side(config.get("image_size", 224)),
        patch_size=side(config.get("patch_size", 16)),
        channels=config.get("num_channels", 3),
        num_classes=0,
        dim=dim,
        depth=config.get("num_hidden_layers", 12),
        heads=heads,
        dim_head=dim // heads,
        mlp_dim=config.get("intermediate_size", 1536),
        query_bias=config.get("query_bias", True),
        key_bias=config.get("key_bias", False),
        value_bias=config.get("value_bias", True),
        norm_eps=config.get("layer_norm_eps", 1e-5),
        layer_scale=config.get("layerscale_value", 1.0),
        register_tokens=config.get("num_register_tokens", 0),
        gated=gated,
        rope_temperature=config.get("rope_theta", 100.0),
        rope_shift=config.get("pos_embed_shift"),
        rope_jitter=config.get("pos_embed_jitter"),
        rope_rescale=config.get("pos_embed_rescale", 2.0),
        **({} if gated else dict(activation=activation_named(act))),
    )


def _write_transformers(model: DINOv3) -> dict[str, Any]:
    block, positions = model.transformer.blocks, model.positions
    gated, registers = _is_gated(model), model.register_tokens
    attention = block.attention
    return dict(
        model_type="dinov3_vit",
        architectures=["DINOv3ViTModel"],
        patch_size=list(patch_size(model)),
        num_channels=model.channels,
        hidden_size=model.norm.weight.size,
        num_hidden_layers=model.transformer.depth,
        num_attention_heads=attention.heads,
        intermediate_size=block.feed_forward.contract.weight.shape[-1],
        hidden_act=(
            "silu" if gated else name_of_activation(block.feed_forward.activation)
        ),
        use_gated_mlp=gated,
        layer_norm_eps=block.norm1.eps,
        query_bias=attention.query_bias is not None,
        key_bias=attention.key_bias is not None,
        value_bias=attention.value_bias is not None,
        num_register_tokens=0 if registers is None else registers.shape[0],
        rope_theta=positions.temperature,
        pos_embed_shift=positions.shift,
        pos_embed_jitter=positions.jitter,
        pos_embed_rescale=positions.rescale,
    )


def _resize(model: DINOv3, image_size: Size) -> DINOv3:
    check_multiple("image_size", image_size, "patch_size", patch_size(model))
    return model


def _heads(model: DINOv3) -> dict[str, int]:
    return {"head": model.norm.weight.size * (2 if model.pool == "cls_mean" else 1)}


def _grid(found: Found) -> tuple[int, int]:
    *_, height, width = (n for name, x in found if name == "stage" for n in x.shape[:2])
    return height, width


def _features(model: DINOv3, found: Found) -> list[Feature]:
    grid = _grid(found)
    return [feature(value, grid) for name, value in found if name == "block"]


def _attention(model: DINOv3, found: Found) -> list[AttentionMap]:
    grid = _grid(found)
    values = (value for name, value in found if name == "attention")
    return [whole(heads_first(value), grid, grid) for value in values]


def _size(dim: int, depth: int, heads: int, mlp_dim: int, gated: bool = False) -> dict:
    size = dict(dim=dim, depth=depth, heads=heads, dim_head=dim // heads)
    return size | dict(mlp_dim=mlp_dim, gated=gated)


_SIZES = {
    "tiny": _size(192, 12, 3, 768),
    "small": _size(384, 12, 6, 1536),
    "small_plus": _size(384, 12, 6, 1536, gated=True),
    "base": _size(768, 12, 12, 3072),
    "large": _size(1024, 24, 16, 4096),
    "huge_plus": _size(1280, 32, 20, 5120, gated=True),
    "7b": _size(4096, 40, 32, 8192, gated=True),
}


def _variant(size: str, has_bias: bool) -> Variant:
    biases = dict(query_bias=has_bias, value_bias=has_bias)
    return Variant(DINOv3, 256, _SIZES[size] | biases | dict(pool="mean"))


# The biases of the distilled models are all zero: timm has most with and without.
VARIANTS = {
    f"vit_{size}_patch16_dinov3{'_qkvb' if has_bias else ''}": _variant(size, has_bias)
    for size in _SIZES
    for has_bias in (False, True)
    if (size, has_bias) not in (("tiny", False), ("7b", True))
}


FAMILY = Family(
    model=DINOv3,
    tiny=dict(
        patch_size=7,
        dim=64,
        depth=4,
        heads=4,
        dim_head=16,
        mlp_dim=128,
        pool="mean",
        layer_scale=0.1,
    ),
    variants=VARIANTS,
    formats=_FORMATS,
    kinds=(
        Kind(
            model_types=("dinov3_vit",),
            format=_TRANSFORMERS,
            read=_read_transformers,
            write=_write_transformers,
            any_size=True,
        ),
    ),
    read_timm=_read_timm,
    write_timm=_write_timm,
    heads=_heads,
    resize=_resize,
    size_arguments=no_argument,
    features=_features,
    attention=_attention,
    head_reads=pooled_tokens,
    rollout=True,
)
