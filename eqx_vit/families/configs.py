"""How the `config.json` of other libraries describes a model."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from ..layers import gelu, gelu_tanh, quick_gelu
from .formats import Format


# What a `config.json` holds.
Config = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of `config.json` of transformers, in both directions.

    - `model_types`: The values of its `model_type`.
    - `format`: Whose names its weights have.
    - `read`: From a config to the arguments of our class, `num_classes`, `image_size`
        and `channels` among them. Raises a `ValueError` for what the class cannot be.
    - `write`: From a model that the format can hold to the config, `architectures`
        among its entries, without labels. Raises a `ValueError` for what the library
        cannot be.
    - `any_size`: Whether the library interpolates positions without being asked, so
        that images need not be of the size in the config.
    - `antialias`: Whether the library antialiases positions for images of another size.
    """

    model_types: tuple[str, ...]
    format: Format
    read: Callable[[Config], dict[str, Any]]
    write: Callable[[Any], dict[str, Any]]
    any_size: bool = False
    antialias: bool = False


def read_timm(settings: Config, model_args: Config) -> dict[str, Any]:
    """The settings that timm's `model_args` change, of those that all its models have.

    **Arguments:**

    - `settings`: The settings of the variant that the config calls `architecture`.
    - `model_args`: The arguments that the config has for it.

    **Raises:**

    A `ValueError` that names an argument that is not known.
    """
    changes = {}
    for name, value in model_args.items():
        if name in _TIMM_WITHOUT_EFFECT or value is None:
            continue
        if name not in _TIMM_ARGUMENTS:
            raise ValueError(
                f"its `model_args` have `{name}={value!r}`, which is not known here"
            )
        changes[_TIMM_ARGUMENTS[name]] = side(value)
    return changes


def renamed(
    model_args: Config, names: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """timm's arguments that are one of ours, by our names; and the others."""
    ours, others = {}, {}
    for name, value in model_args.items():
        if value is None:
            continue
        if name in names:
            ours[names[name]] = side(value)
        else:
            others[name] = value
    return ours, others


def pool_of(model_args: dict[str, Any], pools: Mapping[str, str]) -> dict[str, str]:
    """Take `global_pool` out of timm's arguments, as our `pool`.

    **Raises:**

    A `ValueError` that lists the known ones.
    """
    theirs = model_args.pop("global_pool", None)
    if theirs is None:
        return {}
    if theirs not in pools:
        legal = ", ".join(map(repr, pools))
        raise ValueError(f"`global_pool={theirs!r}`; it must be one of {legal} here")
    return {"pool": pools[theirs]}


_TIMM_ARGUMENTS = {
    "num_classes": "num_classes",
    "in_chans": "channels",
    "img_size": "image_size",
}
# In inference they change nothing: rates, and how timm takes images of other sizes.
_TIMM_WITHOUT_EFFECT = (
    "drop_rate",
    "pos_drop_rate",
    "patch_drop_rate",
    "proj_drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
    "dynamic_img_size",
    "dynamic_img_pad",
    "strict_img_size",
    "fix_init",
    "weight_init",
)


_ACTIVATIONS = {
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}


def activation_named(name: str) -> Callable:
    """The function that transformers calls so.

    **Raises:**

    A `ValueError` that lists the names that are known.
    """
    if name not in _ACTIVATIONS:
        known = ", ".join(map(repr, _ACTIVATIONS))
        raise ValueError(f"`hidden_act={name!r}` is not known; it must be of {known}")
    return _ACTIVATIONS[name]


def name_of_activation(function: Callable) -> str:
    """What transformers calls a function; the reverse of `activation_named`.

    **Raises:**

    A `ValueError` if it has no name.
    """
    spelt = getattr(function, "__name__", str(function))
    for name, known in _ACTIVATIONS.items():
        # (Models keep functions of `jax.nn` by their name.)
        if function is known or (known.__module__ != gelu.__module__ and spelt == name):
            return name
    raise ValueError(f"transformers has no activation `{spelt}`")


def num_labels(config: Config) -> int:
    """The number of classes: 0 for a model that its `architectures` say has no
    classifier."""
    architectures = config.get("architectures") or []
    is_classifier = any("ForImageClassification" in name for name in architectures)
    if not is_classifier and (architectures or "id2label" not in config):
        return 0
    return len(config.get("id2label") or {}) or config.get("num_labels", 2)


def side(size: Any) -> Any:
    """A size as our classes take it, from one that JSON keeps as a list."""
    return tuple(size) if isinstance(size, list) else size


def their_size(size: tuple[int, int]) -> int | list[int]:
    """The reverse of `side`: one number for a square."""
    return size[0] if size[0] == size[1] else list(size)


def ratio_of(size: int, dim: int) -> float:
    """The ratio with which `int(dim * ratio)` is the size of a hidden layer."""
    ratio = size / dim
    while int(dim * ratio) < size:
        ratio = math.nextafter(ratio, math.inf)
    return ratio


def one_ratio(sizes: Sequence[int], dims: Sequence[int]) -> float:
    """The one ratio of all stages, see `ratio_of`.

    **Raises:**

    A `ValueError` if there is none.
    """
    for ratio in map(ratio_of, sizes, dims):
        if [int(dim * ratio) for dim in dims] == list(sizes):
            return ratio
    raise ValueError("timm has one ratio of hidden layers for all stages here")


def check_timm_block(block: Any, norm_eps: float = 1e-6) -> None:
    """Raise a `ValueError` if a block has another `eps` or activation than timm's."""
    if block.norm1.eps != norm_eps:
        raise ValueError(f"`norm_eps={block.norm1.eps}`; timm has {norm_eps} here")
    if block.feed_forward.activation is not gelu:
        raise ValueError("timm has the activation `gelu` here")
