"""The names of the ViT and of its descendants in transformers."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ..layers import gelu_tanh
from ..models import ViT
from .formats import (
    Format,
    Names,
    prefixed,
    Tensor,
    Tensors,
    token,
    torch_names,
    torch_patches,
)


_BLOCK = "transformer.blocks"


def _layers(ours: str, theirs: dict[str, str]) -> Names:
    names = {}
    for layer, name in theirs.items():
        names |= torch_names(f"{ours}.{layer}" if ours else layer, name)
    return names


def _qkv(theirs: str, query: str, key: str, value: str) -> Names:
    """One layer of ours that is three there."""
    return {
        f"{_BLOCK}.attention.qkv.{kind}": Tensor(
            *(f"{theirs}.{name}.{kind}" for name in (query, key, value)),
            theirs=f"n o{axis}",
            ours=f"(n o){axis}",
            sizes={"n": 3},
        )
        for kind, axis in (("weight", " i"), ("bias", ""))
    }


def _patches(model: ViT, theirs: str) -> Names:
    size = model.patch_embedding.patch_size
    return torch_patches("patch_embedding.linear", theirs, size)


def _embeddings(model: ViT) -> Names:
    """Names of the classes that spell `embeddings` as the ViT does."""
    return {
        "class_token": token("embeddings.cls_token"),
        "position_embedding": token("embeddings.position_embeddings"),
        **_patches(model, "embeddings.patch_embeddings.projection"),
    }


def _vit(model: ViT) -> Names:
    layer = "encoder.layer.{}"
    head = "classifier" if model.distillation_token is None else "cls_classifier"
    distillation = token("embeddings.distillation_token")
    return {
        **_embeddings(model),
        # The DeiT without a second head uses its distillation token as a register.
        "distillation_token": distillation,
        "register_tokens": distillation,
        **_qkv(f"{layer}.attention.attention", "query", "key", "value"),
        **_layers(
            _BLOCK,
            {
                "norm1": f"{layer}.layernorm_before",
                "attention.output": f"{layer}.attention.output.dense",
                "norm2": f"{layer}.layernorm_after",
                "feed_forward.expand": f"{layer}.intermediate.dense",
                "feed_forward.contract": f"{layer}.output.dense",
            },
        ),
        **torch_names("norm", "layernorm"),
        **torch_names("head", head),
        **torch_names("distillation_head", "distillation_classifier"),
    }


def _dinov2(model: ViT) -> Names:
    layer = "encoder.layer.{}"
    is_gated = not hasattr(model.transformer.blocks.feed_forward, "activation")
    expand, contract = ("weights_in", "weights_out") if is_gated else ("fc1", "fc2")
    scale = f"{_BLOCK}.layer_scale{{}}.weight"
    return {
        **_embeddings(model),
        "register_tokens": token("embeddings.register_tokens"),
        **_qkv(f"{layer}.attention.attention", "query", "key", "value"),
        **_layers(
            _BLOCK,
            {
                "norm1": f"{layer}.norm1",
                "attention.output": f"{layer}.attention.output.dense",
                "norm2": f"{layer}.norm2",
                "feed_forward.expand": f"{layer}.mlp.{expand}",
                "feed_forward.contract": f"{layer}.mlp.{contract}",
            },
        ),
        scale.format(1): Tensor(f"{layer}.layer_scale1.lambda1"),
        scale.format(2): Tensor(f"{layer}.layer_scale2.lambda1"),
        **torch_names("norm", "layernorm"),
        **torch_names("head", "classifier"),
    }


def _tower(model: ViT) -> Names:
    """What CLIP and SigLIP share."""
    layer = "encoder.layers.{}"
    return {
        "position_embedding": Tensor("embeddings.position_embedding.weight"),
        **_patches(model, "embeddings.patch_embedding"),
        **_qkv(f"{layer}.self_attn", "q_proj", "k_proj", "v_proj"),
        **_layers(
            _BLOCK,
            {
                "norm1": f"{layer}.layer_norm1",
                "attention.output": f"{layer}.self_attn.out_proj",
                "norm2": f"{layer}.layer_norm2",
                "feed_forward.expand": f"{layer}.mlp.fc1",
                "feed_forward.contract": f"{layer}.mlp.fc2",
            },
        ),
        **torch_names("norm", "post_layernorm"),
    }


def _clip(model: ViT) -> Names:
    projection = model.head is not None and model.head.bias is None
    return {
        "class_token": Tensor("embeddings.class_embedding", theirs="d", ours="1 d"),
        **_tower(model),
        # (Their spelling.)
        **torch_names("pre_norm", "pre_layrnorm"),
        **torch_names("head", "visual_projection" if projection else "classifier"),
    }


def _siglip(model: ViT) -> Names:
    attention = "attention_pool.attention"
    return {
        **_tower(model),
        "attention_pool.probe": token("head.probe"),
        **_layers(
            "",
            {
                # Together `in_proj` in the file, see `_joined`.
                f"{attention}.query": "head.attention.query",
                f"{attention}.key_value": "head.attention.key_value",
                f"{attention}.output": "head.attention.out_proj",
                "attention_pool.norm": "head.layernorm",
                "attention_pool.feed_forward.expand": "head.mlp.fc1",
                "attention_pool.feed_forward.contract": "head.mlp.fc2",
                "head": "classifier",
            },
        ),
    }


def _siglip2(model: ViT) -> Names:
    # Patches come cut and flattened there.
    names = _siglip(model)
    theirs = "embeddings.patch_embedding"
    return names | torch_names("patch_embedding.linear", theirs)


# The spellings that are found, and what is done to a name for each.
_Renames = tuple[tuple[str, str], ...]

# Inside transformers 5, whose files have the names of version 4.
_LIVE: _Renames = (
    (r"\.attention\.([qkv])_proj\.", r".attention.attention.\1."),
    (r"\.attention\.attention\.q\.", ".attention.attention.query."),
    (r"\.attention\.attention\.k\.", ".attention.attention.key."),
    (r"\.attention\.attention\.v\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
)
_VIT_RENAMES: _Renames = (
    (r"^(vit|deit|ijepa|vit_msn|vit_mae)\.", ""),
    (r"^layers\.", "encoder.layer."),
    *_LIVE,
    (r"^(encoder\.layer\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"^(encoder\.layer\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
)
_DINOV2_RENAMES: _Renames = (
    (r"^(dinov2|dinov2_with_registers)\.", ""),
    *_LIVE,
    (r"\.mlp\.down_proj\.", ".mlp.weights_out."),
)
# From the names of files to those inside transformers 5.
_TO_LIVE: _Renames = (
    (r"\.attention\.attention\.(q)uery\.", r".attention.\1_proj."),
    (r"\.attention\.attention\.(k)ey\.", r".attention.\1_proj."),
    (r"\.attention\.attention\.(v)alue\.", r".attention.\1_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
)
_VIT_TO_LIVE: _Renames = (
    *_TO_LIVE,
    (r"\b(encoder\.layer\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."),
    (r"\b(encoder\.layer\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\bencoder\.layer\.", "layers."),
)
_DINOV2_TO_LIVE: _Renames = (
    *_TO_LIVE,
    (r"\.mlp\.weights_out\.", ".mlp.down_proj."),
)
_TOWER_RENAMES: _Renames = ((r"^vision_model\.", ""),)


def _renamed(tensors: Tensors, renames: _Renames) -> Tensors:
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, new in renames:
            name = re.sub(pattern, new, name)
        renamed[name] = tensor
    return renamed


def _plain_vit(tensors: Tensors) -> Tensors:
    return _renamed(tensors, _VIT_RENAMES)


def _live_vit(tensors: Tensors) -> Tensors:
    return _renamed(tensors, _VIT_TO_LIVE)


def _live_dinov2(tensors: Tensors) -> Tensors:
    live = {}
    for name, tensor in _renamed(tensors, _DINOV2_TO_LIVE).items():
        if ".mlp.weights_in." in name:
            names = (name.replace("weights_in", n) for n in ("gate_proj", "up_proj"))
            live |= zip(names, np.split(np.asarray(tensor), 2))
        else:
            live[name] = tensor
    return live


def _plain_dinov2(tensors: Tensors) -> Tensors:
    tensors = _renamed(tensors, _DINOV2_RENAMES)
    for name in [name for name in tensors if ".mlp.gate_proj." in name]:
        up = name.replace("gate_proj", "up_proj")
        if up in tensors:
            parts = [np.asarray(tensors.pop(part)) for part in (name, up)]
            joined = name.replace("gate_proj", "weights_in")
            tensors[joined] = np.concatenate(parts)
    return tensors


def _plain_registers(tensors: Tensors) -> Tensors:
    """Add the position of the class token to that token: registers have none, and our
    model gives all of them one or none."""
    tensors = _plain_dinov2(tensors)
    positions = tensors.get("embeddings.position_embeddings")
    class_token = tensors.get("embeddings.cls_token")
    if positions is not None and class_token is not None:
        positions = np.asarray(positions, np.float32)
        class_token = np.asarray(class_token, np.float32)
        tensors["embeddings.cls_token"] = class_token + positions[:, :1]
        tensors["embeddings.position_embeddings"] = positions[:, 1:]
    return tensors


def _plain_clip(tensors: Tensors) -> Tensors:
    return _renamed(tensors, _TOWER_RENAMES)


_IN_PROJ = "head.attention.in_proj_{}"


def _plain_siglip(tensors: Tensors) -> Tensors:
    tensors = _renamed(tensors, _TOWER_RENAMES)
    for kind in ("weight", "bias"):
        joined = tensors.pop(_IN_PROJ.format(kind), None)
        if joined is not None:
            query, key, value = np.split(np.asarray(joined), 3)
            tensors[f"head.attention.query.{kind}"] = query
            tensors[f"head.attention.key_value.{kind}"] = np.concatenate([key, value])
    return tensors


_HEADS = ("classifier.", "cls_classifier.", "distillation_classifier.")


def _spell_vit(model: ViT, tensors: Tensors) -> Tensors:
    return prefixed(tensors, _prefix(model), _HEADS)


def _prefix(model: ViT) -> str:
    return "" if model.head is None else f"{vit_kind(model)}."


def vit_kind(model: ViT) -> str:
    """The `model_type` of a ViT that is none of the others."""
    if model.class_token is None:
        return "ijepa"
    has_token = (model.distillation_token, model.register_tokens) != (None, None)
    return "deit" if has_token else "vit"


def _spell_dinov2(model: ViT, tensors: Tensors) -> Tensors:
    dim = model.position_embedding.shape[1]
    tensors = tensors | {"embeddings.mask_token": np.zeros((1, dim), np.float32)}
    prefix = "" if model.head is None else "dinov2."
    return prefixed(tensors, prefix, _HEADS)


def _spell_registers(model: ViT, tensors: Tensors) -> Tensors:
    positions = tensors["embeddings.position_embeddings"]
    positions = np.pad(positions, ((0, 0), (1, 0), (0, 0)))
    tensors = tensors | {"embeddings.position_embeddings": positions}
    tensors = _spell_dinov2(model, tensors)
    return {
        re.sub(r"^dinov2\.", "dinov2_with_registers.", name): tensor
        for name, tensor in tensors.items()
    }


def _unused_norm(model: ViT, tensors: Tensors) -> Tensors:
    # CLIP's classifier has a last normalisation that it does not use.
    if model.norm is not None:
        return {}
    dim = model.position_embedding.shape[1]
    weight, bias = np.ones(dim, np.float32), np.zeros(dim, np.float32)
    return {"post_layernorm.weight": weight, "post_layernorm.bias": bias}


def _spell_clip(model: ViT, tensors: Tensors) -> Tensors:
    tensors = tensors | _unused_norm(model, tensors)
    prefix = "" if model.head is None else "vision_model."
    return prefixed(tensors, prefix, (*_HEADS, "visual_projection."))


def _spell_siglip(model: ViT, tensors: Tensors) -> Tensors:
    tensors = dict(tensors)
    if model.attention_pool is not None:
        for kind in ("weight", "bias"):
            names = (f"head.attention.{name}.{kind}" for name in ("query", "key_value"))
            parts = [np.asarray(tensors.pop(name)) for name in names]
            tensors[_IN_PROJ.format(kind)] = np.concatenate(parts)
    prefix = "" if model.head is None else "vision_model."
    return prefixed(tensors, prefix, _HEADS)


# Tensors of other tasks in the same files.
_OTHER_HEADS = r"pooler\.|decoder\.|embeddings\.mask_token$"
_TEXT = r"text_model\.|text_projection\.|logit_(scale|bias)$"


def _beyond_vit(model: ViT) -> str:
    return _OTHER_HEADS


def _beyond_clip(model: ViT) -> str:
    beyond = _TEXT
    if model.norm is None:
        beyond += r"|post_layernorm\."
    if model.head is None:
        beyond += r"|visual_projection\."
    return beyond


def _beyond_siglip(model: ViT) -> str:
    pool = r"|head\." if model.attention_pool is None else ""
    return _TEXT + pool


def _checked(*checks: Callable[[ViT], str | None]) -> Callable[[Any], str | None]:
    """The first reason of several for which a model does not fit."""

    def unfit(model: ViT) -> str | None:
        return next((reason for check in checks if (reason := check(model))), None)

    return unfit


def _not_plain(model: ViT) -> str | None:
    dim = model.position_embedding.shape[1]
    attention = model.transformer.blocks.attention
    is_clip = model.pre_norm is not None
    reasons = {
        "a head without a bias": (
            model.head is not None and model.head.bias is None and not is_clip
        ),
        "a patch normalisation": model.patch_embedding.patch_norm is not None,
        "a normalisation after pooling": model.norm_after_pool,
        "a layer before its head": model.pre_logits is not None,
        f"`heads * dim_head` other than `dim={dim}`": (
            attention.output.weight.shape[-1] != dim
        ),
    }
    found = next((what for what, holds in reasons.items() if holds), None)
    return found and f"transformers has no ViT with {found}"


def _needs(**wanted: bool) -> Callable[[ViT], str | None]:
    """A check for parts of a model, by the names of its fields."""

    def check(model: ViT) -> str | None:
        block = model.transformer.blocks
        parts = {
            "class_token": model.class_token,
            "layer_scale": block.layer_scale1,
            "register_tokens": model.register_tokens,
            "distillation_token": model.distillation_token,
            "pre_norm": model.pre_norm,
            "norm": model.norm,
            "qkv_bias": block.attention.qkv.bias,
            "gated": None if hasattr(block.feed_forward, "activation") else block,
        }
        for name, is_wanted in wanted.items():
            if (parts[name] is not None) != is_wanted:
                return f"it is with{'out' if is_wanted else ''} `{name}`"
        return None

    return check


def _unfit_vit(model: ViT) -> str | None:
    registers = model.register_tokens
    tokens = 0 if registers is None else registers.shape[0]
    tokens += model.distillation_token is not None
    if tokens > 1 or (tokens and model.class_token is None):
        return "transformers' ViT has no register tokens"
    if model.class_token is not None and not model.embed_prefix:
        return "transformers' ViT has a position for its class token"
    wanted = "mean" if model.class_token is None else "cls"
    if model.pool != wanted:
        return f"transformers' ViT with these tokens has `pool={wanted!r}`"


def _unfit_dinov2(model: ViT) -> str | None:
    if model.register_tokens is None and not model.embed_prefix:
        return "transformers' DINOv2 has a position for its class token"
    if model.register_tokens is not None and model.embed_prefix:
        return "transformers' DINOv2 has no positions for its registers"
    wanted = "cls" if model.head is None else "cls_mean"
    if model.pool != wanted:
        return f"transformers' DINOv2 has `pool={wanted!r}`"


def _unfit_clip(model: ViT) -> str | None:
    if not model.embed_prefix:
        return "transformers' CLIP has a position for its class token"
    is_classifier = model.head is not None and model.head.bias is not None
    wanted = ("mean", False) if is_classifier else ("cls", True)
    if (model.pool, model.norm is not None) != wanted:
        pool, norm = wanted
        return f"transformers' CLIP has `pool={pool!r}, final_norm={norm}` here"


def _unfit_siglip(model: ViT) -> str | None:
    wanted = "map" if model.head is None else "mean"
    if model.pool != wanted:
        return f"transformers' SigLIP has `pool={wanted!r}` here"


VIT = Format(
    "transformers",
    ".safetensors",
    _vit,
    canonical=_plain_vit,
    beyond=_beyond_vit,
    spell=_spell_vit,
    live=_live_vit,
    unfit=_checked(
        _not_plain,
        _needs(layer_scale=False, pre_norm=False, norm=True, gated=False),
        _unfit_vit,
    ),
)
DINOV2 = Format(
    "transformers",
    ".safetensors",
    _dinov2,
    canonical=_plain_dinov2,
    beyond=_beyond_vit,
    spell=_spell_dinov2,
    live=_live_dinov2,
    unfit=_checked(
        _not_plain,
        _needs(
            class_token=True,
            layer_scale=True,
            pre_norm=False,
            norm=True,
            register_tokens=False,
            distillation_token=False,
        ),
        _unfit_dinov2,
    ),
)
REGISTERS = Format(
    "transformers",
    ".safetensors",
    _dinov2,
    canonical=_plain_registers,
    beyond=_beyond_vit,
    spell=_spell_registers,
    live=_live_dinov2,
    unfit=_checked(
        _not_plain,
        _needs(
            class_token=True,
            layer_scale=True,
            pre_norm=False,
            norm=True,
            register_tokens=True,
            distillation_token=False,
        ),
        _unfit_dinov2,
    ),
)
_TOWER_PARTS = dict(
    layer_scale=False,
    register_tokens=False,
    distillation_token=False,
    gated=False,
    qkv_bias=True,
)
CLIP = Format(
    "transformers",
    ".safetensors",
    _clip,
    canonical=_plain_clip,
    ignored=("position_ids",),
    beyond=_beyond_clip,
    spell=_spell_clip,
    unfit=_checked(
        _not_plain, _needs(class_token=True, pre_norm=True, **_TOWER_PARTS), _unfit_clip
    ),
)


def _siglip_format(names: Callable[[ViT], Names]) -> Format:
    return Format(
        "transformers",
        ".safetensors",
        names,
        canonical=_plain_siglip,
        ignored=("position_ids",),
        beyond=_beyond_siglip,
        spell=_spell_siglip,
        unfit=_checked(
            _not_plain,
            _needs(class_token=False, pre_norm=False, norm=True, **_TOWER_PARTS),
            _unfit_siglip,
        ),
        # (An I-JEPA with a classifier computes the same but for its activation.)
        prefers=lambda model: (
            getattr(model.transformer.blocks.feed_forward, "activation", 0) is gelu_tanh
        ),
    )


SIGLIP, SIGLIP2 = _siglip_format(_siglip), _siglip_format(_siglip2)

FORMATS = (VIT, DINOV2, REGISTERS, CLIP, SIGLIP, SIGLIP2)
