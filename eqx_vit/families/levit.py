from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import rearrange

from ..layers import check_multiple, replaced, resize_bicubic
from ..models import LeViT
from .configs import (
    Config,
    Kind,
    num_labels,
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
    numbered,
    prefixed,
    Tensor,
    Tensors,
    torch_batch_norm,
    torch_conv,
    torch_names,
    with_counters,
)
from .positions import grid, Size


def _linear(ours: str, theirs: str, axes: str) -> Names:
    weight = Tensor(f"{theirs}.linear.weight", theirs=f"o i{axes}", ours="o i")
    return {
        f"{ours}.layer.weight": weight,
        **torch_batch_norm(f"{ours}.norm", f"{theirs}.bn"),
    }


def _feed_forward(ours: str, theirs: str, axes: str) -> Names:
    return {
        **_linear(f"{ours}.expand", f"{theirs}.ln1", axes),
        **_linear(f"{ours}.contract", f"{theirs}.ln2", axes),
    }


def timm(model: LeViT, axes: str = "") -> Names:
    """`axes` are those that a linear layer has besides where it is a convolution."""
    names = {}
    for i in range(4):
        ours, theirs = f"stem.convs.{i}", f"stem.conv{i + 1}"
        names |= torch_conv(f"{ours}.layer", f"{theirs}.linear")
        names |= torch_batch_norm(f"{ours}.norm", f"{theirs}.bn")
    for i in range(len(model.stages)):
        ours, theirs = f"stages.{i}.blocks", f"stages.{i}.blocks.{{}}"
        names |= {
            f"{ours}.attention.biases": Tensor(f"{theirs}.attn.attention_biases"),
            **_linear(f"{ours}.attention.qkv", f"{theirs}.attn.qkv", axes),
            **_linear(f"{ours}.attention.output", f"{theirs}.attn.proj.ln", axes),
            **_feed_forward(f"{ours}.feed_forward", f"{theirs}.mlp", axes),
        }
    for i in range(len(model.shrinkings)):
        ours, theirs = f"shrinkings.{i}", f"stages.{i + 1}.downsample"
        attention = f"{theirs}.attn_downsample"
        names |= {
            f"{ours}.attention.biases": Tensor(f"{attention}.attention_biases"),
            **_linear(f"{ours}.attention.query", f"{attention}.q.ln", axes),
            **_linear(f"{ours}.attention.key_value", f"{attention}.kv", axes),
            **_linear(f"{ours}.attention.output", f"{attention}.proj.ln", axes),
            **_feed_forward(f"{ours}.feed_forward", f"{theirs}.mlp", axes),
        }
    for ours, theirs in (("head", "head"), ("distillation_head", "head_dist")):
        names |= torch_batch_norm(f"{ours}.norm", f"{theirs}.bn")
        names |= torch_names(f"{ours}.linear", f"{theirs}.linear")
    return names


def timm_conv(model: LeViT) -> Names:
    """Names of timm's `levit_conv_*`, whose linear layers are convolutions."""
    return timm(model, " 1 1")


def _linear_spelling(tensors: Tensors) -> Tensors:
    pointwise = (1, 1)
    return {
        name: np.asarray(t)[:, :, 0, 0] if tuple(t.shape[2:]) == pointwise else t
        for name, t in tensors.items()
    }


def _their_linear(ours: str, theirs: str) -> Names:
    return {
        f"{ours}.layer.weight": Tensor(f"{theirs}.linear.weight"),
        **torch_batch_norm(f"{ours}.norm", f"{theirs}.batch_norm"),
    }


def transformers(model: LeViT) -> Names:
    names = {}
    for i in range(4):
        ours = f"stem.convs.{i}"
        theirs = f"patch_embeddings.embedding_layer_{i + 1}"
        names |= torch_conv(f"{ours}.layer", f"{theirs}.convolution")
        names |= torch_batch_norm(f"{ours}.norm", f"{theirs}.batch_norm")
    for i, stage in enumerate(model.stages):
        # Attention and feed-forward networks take turns in one list.
        ours, layers = f"stages.{i}.blocks", f"encoder.stages.{i}.layers"
        attention, mlp = f"{layers}.{{}}.module", f"{layers}.{{}}.module"
        kind = f"{ours}.attention"
        names |= numbered(
            {
                f"{kind}.biases": Tensor(f"{attention}.attention_biases"),
                **_their_linear(f"{kind}.qkv", f"{attention}.queries_keys_values"),
                **_their_linear(f"{kind}.output", f"{attention}.projection"),
            },
            0,
            2,
        )
        names |= numbered(_their_feed_forward(f"{ours}.feed_forward", mlp), 1, 2)
        if i < len(model.shrinkings):
            ours, number = f"shrinkings.{i}", 2 * stage.depth
            attention, kind = f"{layers}.{number}", f"{ours}.attention"
            mlp = f"{layers}.{number + 1}.module"
            names |= {
                f"{kind}.biases": Tensor(f"{attention}.attention_biases"),
                **_their_linear(f"{kind}.query", f"{attention}.queries"),
                **_their_linear(f"{kind}.key_value", f"{attention}.keys_values"),
                **_their_linear(f"{kind}.output", f"{attention}.projection"),
                **_their_feed_forward(f"{ours}.feed_forward", mlp),
            }
    heads = (("head", "classifier"), ("distillation_head", "classifier_distill"))
    for ours, theirs in heads:
        names |= torch_batch_norm(f"{ours}.norm", f"{theirs}.batch_norm")
        names |= torch_names(f"{ours}.linear", f"{theirs}.linear")
    return names


def _their_feed_forward(ours: str, theirs: str) -> Names:
    return {
        **_their_linear(f"{ours}.expand", f"{theirs}.linear_up"),
        **_their_linear(f"{ours}.contract", f"{theirs}.linear_down"),
    }


def _plain(tensors: Tensors) -> Tensors:
    return {name.removeprefix("levit."): tensor for name, tensor in tensors.items()}


def _spell(model: LeViT, tensors: Tensors) -> Tensors:
    prefix = "" if model.head is None else "levit."
    return prefixed(with_counters(tensors), prefix, ("classifier",))


def _read(config: Config) -> dict[str, Any]:
    fixed = dict(kernel_size=3, stride=2, padding=1, patch_size=16)
    for name, value in fixed.items():
        if config.get(name, value) != value:
            raise ValueError(f"`{name}={config[name]!r}`; a LeViT here has {value}")
    dim = tuple(config.get("hidden_sizes", (128, 256, 384)))
    keys = set(config.get("key_dim", (16, 16, 16)))
    ratios = set(config.get("attention_ratio", (2, 2, 2)))
    if len(keys) > 1 or ratios != {2}:
        raise ValueError("`key_dim` differs between its stages, or `attention_ratio`")
    (dim_key,) = keys
    return dict(
        image_size=side(config.get("image_size", 224)),
        channels=config.get("num_channels", 3),
        num_classes=num_labels(config),
        stages=len(dim),
        dim=dim,
        depth=tuple(config.get("depths", (4, 4, 4))),
        heads=tuple(config.get("num_attention_heads", (4, 8, 12))),
        mlp_mult=tuple(config.get("mlp_ratio", (2, 2, 2))),
        dim_key=dim_key,
        dim_value=2 * dim_key,
        distilled=any(
            name.endswith("WithTeacher") for name in config.get("architectures") or []
        ),
    )


def _write(model: LeViT) -> dict[str, Any]:
    blocks = [stage.blocks for stage in model.stages]
    attention = blocks[0].attention
    widths = [b.attention.output.layer.weight.shape[-2] for b in blocks]
    hidden = [b.feed_forward.expand.layer.weight.shape[-2] for b in blocks]
    heads = [b.attention.biases.shape[-2] for b in blocks]
    name = getattr(attention.activation, "__name__", "")
    if name not in ("hard_silu", "hard_swish"):  # one function
        raise ValueError("transformers' LeViT has `activation=jax.nn.hard_swish`")
    if len(blocks) != 3:
        raise ValueError(f"transformers' LeViT has 3 stages, not {len(blocks)}")
    if model.image_size[0] != model.image_size[1]:
        raise ValueError("transformers' LeViT takes square images")
    if any(h % width for h, width in zip(hidden, widths)):
        raise ValueError("transformers' LeViT has a whole `mlp_mult`")
    if attention.output.layer.weight.shape[-1] != 2 * heads[0] * attention.dim_key:
        raise ValueError("transformers' LeViT has `dim_value` equal to `2 * dim_key`")
    kind = "Model" if model.head is None else "ForImageClassification"
    if model.distillation_head is not None:
        kind += "WithTeacher"
    stages = len(blocks)
    return dict(
        model_type="levit",
        architectures=[f"Levit{kind}"],
        image_size=their_size(model.image_size),
        num_channels=model.stem.convs[0].layer.weight.shape[2],
        hidden_sizes=widths,
        num_attention_heads=heads,
        depths=[stage.depth for stage in model.stages],
        key_dim=stages * [attention.dim_key],
        attention_ratio=stages * [2],
        mlp_ratio=[h // width for h, width in zip(hidden, widths)],
    )


_IGNORED = ("num_batches_tracked", "attention_bias_idxs")

_TRANSFORMERS = Format(
    "transformers",
    ".safetensors",
    transformers,
    canonical=_plain,
    spell=_spell,
    ignored=_IGNORED,
)

# Files of either of timm's are read by the first, since they have the same names.
_FORMATS = (
    Format("timm", ".safetensors", timm, canonical=_linear_spelling, ignored=_IGNORED),
    Format("timm_conv", ".safetensors", timm_conv, ignored=_IGNORED),
    _TRANSFORMERS,
)

_KIND = Kind(model_types=("levit",), format=_TRANSFORMERS, read=_read, write=_write)


def _levit(dim: tuple, heads: tuple, depth: tuple, dim_key: int) -> Variant:
    sizes = dict(image_size=224, dim=dim, heads=heads, depth=depth)
    keys = dict(dim_key=dim_key, dim_value=2 * dim_key)
    return Variant(LeViT, 224, sizes | keys)


_LEVITS = {
    "128s": _levit((128, 256, 384), (4, 6, 8), (2, 3, 4), 16),
    "128": _levit((128, 256, 384), (4, 8, 12), (4, 4, 4), 16),
    "192": _levit((192, 288, 384), (3, 5, 6), (4, 4, 4), 32),
    "256": _levit((256, 384, 512), (4, 6, 8), (4, 4, 4), 32),
    "384": _levit((384, 512, 768), (6, 9, 12), (4, 4, 4), 32),
}

VARIANTS = {
    **{f"levit_{name}": levit for name, levit in _LEVITS.items()},
    # The same weights, written as convolutions.
    **{f"levit_conv_{name}": levit for name, levit in _LEVITS.items()},
}


_TIMM_ARGUMENTS = {
    "embed_dim": "dim",
    "key_dim": "dim_key",
    "depth": "depth",
    "num_heads": "heads",
    "mlp_ratio": "mlp_mult",
    "distilled": "distilled",
}


def _read_timm(settings: Config, model_args: Config) -> dict[str, Any]:
    changes, rest = renamed(model_args, _TIMM_ARGUMENTS)
    sizes = {**settings, **changes}
    if (ratio := rest.pop("attn_ratio", 2)) != 2:
        raise ValueError(f"`attn_ratio={ratio}`; it must be 2 here")
    changes["stages"] = len(sizes["dim"])
    changes["dim_value"] = 2 * sizes["dim_key"]
    if rest.pop("act_layer", "hard_swish") != "hard_swish":
        raise ValueError("`act_layer` must be 'hard_swish' here")
    pool_of(rest, {"avg": "mean"})
    return changes | read_timm(settings, rest)


def _heads(model: LeViT) -> dict[str, int]:
    # (Without a head its state has no statistics for one.)
    heads = dict(head=model.head, distillation_head=model.distillation_head)
    return {
        f"{name}.linear": head.linear.weight.shape[1]
        for name, head in heads.items()
        if head is not None
    }


def _resize(model: LeViT, image_size: Size) -> LeViT:
    """timm has nothing for the biases. They are mirrored to a table of signed
    distances, interpolated about its centre, and cut again."""
    check_multiple("image_size", image_size, "the stride of the stem", 16)
    size = grid(image_size, (16, 16))
    stages, shrinkings = [], []
    for i, stage in enumerate(model.stages):
        if i > 0:
            shrinking = model.shrinkings[i - 1]
            attention = _resized_biases(shrinking.attention, size)
            shrinkings.append(replaced(shrinking, attention=attention))
            size = (size[0] + 1) // 2, (size[1] + 1) // 2
        attention = _resized_biases(stage.blocks.attention, size)
        blocks = replaced(stage.blocks, attention=attention)
        stages.append(replaced(stage, blocks=blocks))
    return replaced(
        model,
        stages=tuple(stages),
        shrinkings=tuple(shrinkings),
        image_size=image_size,
    )


def _resized_biases(attention: Any, size: Size) -> Any:
    """Attention whose table of a bias per distance spans a map of another size."""
    shape = attention.biases.shape  # of a stack, or of a single layer
    height, width = attention.size
    table = rearrange(attention.biases.reshape(-1, height, width), "h y x -> y x h")
    # Distances are symmetric, and 0 must stay where it is.
    table = jnp.pad(table, ((height - 1, 0), (width - 1, 0), (0, 0)), "reflect")
    table = resize_bicubic(table, (2 * size[0] - 1, 2 * size[1] - 1))
    table = rearrange(table[size[0] - 1 :, size[1] - 1 :], "y x h -> h (y x)")
    return replaced(attention, biases=table.reshape(*shape[:-1], -1), size=size)


FAMILY = Family(
    model=LeViT,
    tiny=dict(stages=2, dim=(32, 64), depth=1, heads=(2, 4), mlp_mult=2),
    tiny_side=64,
    variants=VARIANTS,
    formats=_FORMATS,
    kinds=(_KIND,),
    read_timm=_read_timm,
    heads=_heads,
    resize=_resize,
    between=("shrinkings",),
)
