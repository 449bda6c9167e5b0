"""A trained model for another task: other classes, other sizes of the image."""

from functools import singledispatch
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from jaxtyping import Array, Float, PRNGKeyArray

from ..layers import (
    Buffer,
    check_at_least,
    check_multiple,
    join_windows,
    Linear,
    pair,
    replaced,
    resize_bicubic,
    split_windows,
)
from ..models import (
    CaiT,
    CrossFormer,
    CrossViT,
    CvT,
    DeepViT,
    LeViT,
    NesT,
    ParallelViT,
    PatchMergerViT,
    PiT,
    RegionViT,
    ScalableViT,
    SimpleViT,
    SmallDatasetViT,
    T2TViT,
    TwinsSVT,
    ViT,
)
from ..models.cross_vit import other_size
from ..models.pit import patch_grid
from ..models.t2t_vit import token_grid


Model = TypeVar("Model", bound=eqx.Module)
Module = TypeVar("Module", bound=eqx.Module)
Size = tuple[int, int]


def reset_head(model: Model, num_classes: int, *, key: PRNGKeyArray) -> Model:
    """The model with a fresh last layer, for other classes.

    All else is shared with `model`, also what stands between pooling and the last layer
    (the batch normalisation of LeViT, the hidden layer of ScalableViT). A model with
    two heads gets two fresh ones.

    **Arguments:**

    - `model`: One of the seventeen.
    - `num_classes`: The new number of classes; 0 takes the head away, so that the model
        returns the features that would enter it.
    - `key`: A `jax.random.key` used to initialise the head. (Keyword only argument.)

    **Raises:**

    A `ValueError` that names what is not legal.
    """
    check_at_least(0, num_classes=num_classes)
    if not hasattr(model, "head") and not hasattr(model, "small_head"):
        raise ValueError(
            f"`model` is a `{type(model).__name__}`, which has no head that is known; "
            "it must be one of the seventeen models."
        )
    dims = _head_dims(model)
    if num_classes and not dims:
        raise ValueError(
            "`model` is a LeViT without a head, and its state has no statistics for "
            "one; build it with the number of classes instead."
        )
    for (name, dim), key in zip(dims.items(), jr.split(key)):
        head = getattr(model, name)
        fresh = Linear(dim, num_classes, key=key) if num_classes else None
        if fresh is not None and not isinstance(head, Linear | None):
            # What comes before the last layer stays.
            last = "linear" if hasattr(head, "linear") else "output"
            fresh = replaced(head, **{last: fresh})
        model = replaced(model, **{name: fresh})
    return model


def _head_dims(model: Any) -> dict[str, int]:
    """What each head that the model has, or could have, sees."""
    if isinstance(model, CrossViT):
        return {
            "small_head": model.small_norm.weight.size,
            "large_head": model.large_norm.weight.size,
        }
    if isinstance(model, LeViT):
        heads = dict(head=model.head, distillation_head=model.distillation_head)
        return {n: h.linear.weight.shape[1] for n, h in heads.items() if h is not None}
    if isinstance(model, ScalableViT) and not isinstance(model.head, Linear | None):
        return {"head": model.head.expand.weight.shape[0]}
    if isinstance(model, ViT | SimpleViT) and model.pre_logits is not None:
        dim = model.pre_logits.weight.shape[0]
    elif isinstance(model, ViT):
        dim = model.position_embedding.shape[1]
    else:
        dim = model.norm.weight.size
    distilled = isinstance(model, ViT) and model.distillation_token is not None
    distilled |= isinstance(model, PiT) and len(model.class_tokens) == 2
    return {"head": dim} | ({"distillation_head": dim} if distilled else {})


def resize(model: Model, image_size: int | tuple[int, int]) -> Model:
    """The model for images of another size.

    Position embeddings are interpolated as timm does: bicubically, with antialiasing,
    the class and register tokens' left as they are (in NesT without antialiasing, as
    there). LeViT's position biases, for which timm has nothing, are mirrored to a table
    of signed distances, interpolated about its centre, and cut again. SimpleViT's
    positions are computed anew. CvT, CrossFormer, RegionViT, ScalableViT and Twins-SVT
    take images of many sizes as they are, and are returned so.

    **Arguments:**

    - `model`: One of the seventeen.
    - `image_size`: The new side of the image in pixels, or its `(height, width)`.

    **Raises:**

    A `ValueError` that names the nearest legal size.
    """
    check_at_least(1, image_size=image_size)
    return _resize(model, image_size)


@singledispatch
def _resize(model: Any, image_size: int | tuple[int, int]) -> Any:
    raise ValueError(
        f"`model` is a `{type(model).__name__}`, whose position embeddings are not "
        "known; it must be one of the seventeen models."
    )


@_resize.register(CvT | CrossFormer | RegionViT | ScalableViT | TwinsSVT)
def _(model, image_size):
    multiple = model.image_multiple
    check_multiple("image_size", image_size, "model.image_multiple", multiple)
    return model


@_resize.register(SimpleViT)
def _(model, image_size):
    check_multiple("image_size", image_size, "patch_size", _patch_size(model))
    return replaced(model, image_size=pair(image_size))


@_resize.register(CaiT | DeepViT | ParallelViT | PatchMergerViT | SmallDatasetViT | ViT)
def _(model, image_size):
    check_multiple("image_size", image_size, "patch_size", _patch_size(model))
    return _resized_patches(model, pair(image_size))


@_resize.register(CrossViT)
def _(model, image_size):
    small, large = model.small_embedding, model.large_embedding
    other = other_size(small.image_size, large.image_size, pair(image_size))
    check_multiple("image_size", image_size, "sm_patch_size", _patch_size(small)[0])
    check_multiple("lg_image_size", other, "lg_patch_size", _patch_size(large)[0])
    return replaced(
        model,
        small_embedding=_resized_patches(small, pair(image_size)),
        large_embedding=_resized_patches(large, other),
        image_size=pair(image_size),
    )


@_resize.register(T2TViT)
def _(model, image_size):
    table = model.position_embedding.value
    old, new = (
        token_grid(size, model.t2t_layers) for size in (model.image_size, image_size)
    )
    table = Buffer(_table(table, old, new))
    return replaced(model, position_embedding=table, image_size=pair(image_size))


@_resize.register(PiT)
def _(model, image_size):
    conv = model.patch_embedding
    grid = patch_grid(image_size, conv.weight.shape[:2], conv.stride)
    table = _antialiased(model.position_embedding, grid)
    return replaced(model, position_embedding=table, image_size=pair(image_size))


@_resize.register(NesT)
def _(model, image_size):
    finest = _patch_size(model)
    side = 2 ** (len(model.levels) - 1)
    smallest = (side * finest[0], side * finest[1])
    check_multiple("image_size", image_size, "patch_size * blocks a side", smallest)
    block_size = _grid(pair(image_size), smallest)
    levels = []
    for i, level in enumerate(model.levels):
        blocks = side // 2**i  # a side
        old, new = level.block_size, block_size
        table = join_windows(level.position_embedding, old, blocks * old[1])
        table = resize_bicubic(table, (blocks * new[0], blocks * new[1]))
        table = split_windows(table, new)
        levels.append(replaced(level, position_embedding=table, block_size=new))
    return replaced(model, levels=tuple(levels), image_size=pair(image_size))


@_resize.register(LeViT)
def _(model, image_size):
    check_multiple("image_size", image_size, "the stride of the stem", 16)
    size = _grid(pair(image_size), (16, 16))
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
        image_size=pair(image_size),
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


def _resized_patches(module: Any, image_size: Size) -> Any:
    """A model, or a branch of one, with a position per patch."""
    patch_size = _patch_size(module)
    old, new = (_grid(size, patch_size) for size in (module.image_size, image_size))
    table = _table(module.position_embedding, old, new)
    return replaced(module, position_embedding=table, image_size=image_size)


def _patch_size(module: Any) -> Size:
    return module.patch_embedding.patch_size


def _grid(image_size: Size, patch_size: Size) -> Size:
    return image_size[0] // patch_size[0], image_size[1] // patch_size[1]


def _table(
    table: Float[Array, "positions dim"], old: Size, new: Size
) -> Float[Array, "new_positions dim"]:
    """A table for another grid, whose first rows may belong to other tokens."""
    prefix = len(table) - old[0] * old[1]
    positions = rearrange(table[prefix:], "(h w) d -> h w d", h=old[0])
    positions = rearrange(_antialiased(positions, new), "h w d -> (h w) d")
    return jnp.concatenate([table[:prefix], positions])


def _antialiased(
    table: Float[Array, "height width dim"], size: Size
) -> Float[Array, "new_height new_width dim"]:
    # JAX's cubic kernel is the one that PyTorch has where it antialiases.
    return jax.image.resize(table, (*size, table.shape[-1]), "cubic")
