"""The description of an architecture for the rest of the package."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import equinox as eqx
from jaxtyping import Array, Int

from ..layers import check_multiple, replaced, resize_bicubic
from .configs import Config, Kind, read_timm
from .formats import Format
from .maps import AttentionMap, Feature, fold, Found, split
from .positions import patch_size, resized_patches, Size


@dataclass(frozen=True)
class Variant:
    """A published size of an architecture.

    - `model`: The class.
    - `side`: The side of its images in pixels.
    - `settings`: The arguments of the class that differ from its defaults.
    """

    model: type[eqx.Module]
    side: int
    settings: Mapping[str, Any]


def doubling(dim: int) -> tuple[int, int, int, int]:
    """The channels of four stages, each with twice as many as the one before."""
    return dim, 2 * dim, 4 * dim, 8 * dim


def one_head(model: Any) -> dict[str, int]:
    """The head of a model whose `norm` comes before its `head`."""
    return {"head": model.norm.weight.size}


def resize_patches(model: Any, image_size: Size) -> Any:
    """Resizes a model with a `position_embedding` for every patch, after those for its
    class, distillation and register tokens."""
    check_multiple("image_size", image_size, "patch_size", patch_size(model))
    return resized_patches(model, image_size)


def resize_patches_plain(model: Any, image_size: Size) -> Any:
    """As `resize_patches`, without antialiasing."""
    check_multiple("image_size", image_size, "patch_size", patch_size(model))
    return resized_patches(model, image_size, resize_bicubic)


def any_size(model: Any, image_size: Size) -> Any:
    """Only checks the size, for a model that takes any multiple of its
    `image_multiple`."""
    multiple = model.image_multiple
    check_multiple("image_size", image_size, "model.image_multiple", multiple)
    return model


def replace_size(model: Any, image_size: Size) -> Any:
    """Resizes a model that computes its positions."""
    check_multiple("image_size", image_size, "patch_size", patch_size(model))
    return replaced(model, image_size=image_size)


def size_argument(settings: Mapping[str, Any], image_size: Size) -> dict[str, Any]:
    """The size of the images as one argument of the class."""
    return {"image_size": image_size}


def no_argument(settings: Mapping[str, Any], image_size: Size) -> dict[str, Any]:
    """The class takes images of any size, and has no argument for it."""
    return {}


def normalised(model: Any, features: list[Feature]) -> Feature:
    """The last feature after the normalisation of all tokens, where `norm` is one."""
    norm, last = getattr(model, "norm", None), features[-1]
    if norm is None or getattr(model, "norm_after_pool", False):
        return last
    map = None if last.map is None else norm(last.map)
    return Feature(map, norm(last.prefix))


def class_token(model: Any) -> str:
    """The head sees the first token, or all patches where there is none before them."""
    return "class token"


def pooled_tokens(model: Any) -> str:
    """The tokens that the head reads, by the `pool` of a model."""
    return "patches" if model.pool == "mean" else "class token"


@dataclass(frozen=True, kw_only=True)
class Family:
    """Everything about an architecture apart from its model.

    [`eqx_vit.register`][] makes it known to the whole package.

    The model is an `equinox.Module` whose constructor takes the keywords `num_classes`,
    `channels` and `key` among others, and whose instances take an image `height width
    channels` and `key`. One with running statistics is an `equinox.nn.StatefulLayer`,
    which takes and returns its state too. Blocks in a [`eqx_vit.layers.Stack`][] are
    counted for layer-wise decay; attention by [`eqx_vit.layers.attend`][] can be shown.

    - `model`: The class.
    - `tiny`: The arguments of a tiny size for small images, which `eqx-vit train
        --model Name` trains; but for `num_classes`, `channels`, `key` and the size of
        the images.
    - `tiny_side`: The side of its images in pixels.
    - `variants`: The published sizes, by the names of the checkpoints in the package's
        own table.
    - `formats`: Whose names its files use; the first that can hold a model is written
        by default. A model without any is saved by its own names.
    - `kinds`: How transformers describes the models that it shares, see
        `eqx_vit/families/configs.py`.
    - `read_timm`: From the settings of a variant and timm's `model_args` to the
        settings that these change.
    - `write_timm`: From a model to the name and the `model_args` that timm builds it
        from, or a `ValueError`; `None` where only published sizes can be named.
    - `parts`: As `formats`, for parts of the model that can be used alone, by class.
    - `heads`: From a model to the paths of the last layers, `"head"` or
        `"head.linear"`, and how many numbers each takes.
    - `resize`: From a model and a `(height, width)` to the model for images of that
        size; raises a `ValueError` for a size that it cannot take.
    - `resize_plain`: The same without antialiasing; by default there is none.
    - `size_arguments`: From the arguments of a class and a `(height, width)` to the
        arguments that change for images of that size.
    - `between`: The fields of the modules between stages: tuples that are
        one shorter than the tuple of stages.
    - `stochastic_depth`: The constructor's name for the rate of stochastic depth.
    - `planar_patches`: Whether the first linear layer takes patches with the pixels of
        a channel, not the channels of a pixel, side by side.
    - `features`: From a model and the values named `"block"` and `"stage"` inside it,
        in order, to the outputs of its blocks or stages.
    - `tokens`: From a model and its `features` to the tokens that are pooled.
    - `attention`: From a model and the values named `"attention"` and `"stage"` to the
        attention of every layer.
    - `head_reads`: From a model to the tokens that its head reads: `"class token"`,
        `"patches"`, or `"regions"`, which lie on a coarser grid and come before the
        patches.
    - `rollout`: Whether all tokens attend to each other in every layer, on one grid.
    - `relevance`: Whether the patches of the last grid can be followed to the logits.
    - `picks`: The name of the paper's own method of explaining, and a function from a
        model, an image and a class to the `(top, left, height, width)` of the blocks
        that it picks.
    """

    model: type[eqx.Module]
    tiny: Mapping[str, Any]
    tiny_side: int = 28
    variants: Mapping[str, Variant] = field(default_factory=dict, repr=False)
    formats: tuple[Format, ...] = ()
    kinds: tuple[Kind, ...] = ()
    read_timm: Callable[[Config, Config], dict[str, Any]] = read_timm
    write_timm: Callable[[Any], tuple[str, dict[str, Any]]] | None = None
    parts: Mapping[type[eqx.Module], tuple[Format, ...]] = field(default_factory=dict)
    heads: Callable[[Any], dict[str, int]] = one_head
    resize: Callable[[Any, Size], Any] = resize_patches
    resize_plain: Callable[[Any, Size], Any] | None = None
    size_arguments: Callable[[Mapping[str, Any], Size], dict[str, Any]] = size_argument
    between: tuple[str, ...] = ()
    stochastic_depth: str = "stochastic_depth"
    planar_patches: bool = False
    features: Callable[[Any, Found], list[Feature]] = split
    tokens: Callable[[Any, list[Feature]], Feature] = normalised
    attention: Callable[[Any, Found], list[AttentionMap]] = fold
    head_reads: Callable[[Any], str] = class_token
    rollout: bool = False
    relevance: bool = True
    picks: tuple[str, Callable[..., Int[Array, "picks 4"]]] | None = None


def headless(model: Any) -> Any:
    """The model without its heads, which returns the features that would enter them."""
    for path in family_of(model).heads(model):
        where = attrgetter(path.partition(".")[0])
        model = eqx.tree_at(where, model, None, is_leaf=lambda x: x is None)
    return model


_FAMILIES: dict[type[eqx.Module], Family] = {}


def register(family: Family) -> None:
    """Makes an architecture known to the package: to [`eqx_vit.save_weights`][] and
    [`eqx_vit.load_weights`][], [`eqx_vit.resize`][], [`eqx_vit.reset_head`][],
    [`eqx_vit.attention_maps`][] and its relatives, and to `eqx-vit train --model`, as
    `Name` or by the path `package.module:Name`, which imports the module first.

    **Arguments:**

    - `family`: What is known of it.

    **Raises:**

    A `ValueError` if another class of this name, or a variant of one of these names, is
    registered.
    """
    known = {kind.__name__: kind for kind in _FAMILIES}
    name = family.model.__name__
    # (The same module can be run twice, as in a notebook; the last is right.)
    if name in known and known[name].__module__ != family.model.__module__:
        raise ValueError(
            f"`family.model` is called {name!r}, as `{known[name].__module__}.{name}` "
            "is, which is registered; give it a name of its own."
        )
    for other in _FAMILIES.values():
        twice = sorted(set(other.variants) & set(family.variants))
        if twice and other.model.__name__ != name:
            raise ValueError(
                f"`family.variants` has {twice[0]!r}, a published size of "
                f"{other.model.__name__}; give it another name."
            )
    _FAMILIES.pop(known.get(name, family.model), None)
    _FAMILIES[family.model] = family


def families() -> dict[str, Family]:
    """All architectures that are known, by the name of their class."""
    return {kind.__name__: family for kind, family in _FAMILIES.items()}


def family_of(model: Any) -> Family:
    """Return the family of a model, or of its class.

    **Arguments:**

    - `model`: An instance of a class that is registered, or of a subclass; or a class.

    **Raises:**

    A `ValueError` if nothing is known.
    """
    family = find_family(model)
    if family is not None:
        return family
    kind = model if isinstance(model, type) else type(model)
    raise ValueError(
        f"`model` is a `{kind.__name__}`, which is not registered; it must be one of "
        f"{', '.join(families())}, or known by `eqx_vit.register(Family(...))`."
    )


def find_family(model: Any) -> Family | None:
    """As `family_of`, or `None` if nothing is known."""
    kind = model if isinstance(model, type) else type(model)
    return next((_FAMILIES[base] for base in kind.__mro__ if base in _FAMILIES), None)
