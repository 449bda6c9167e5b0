"""A trained model for another task: other classes, other sizes of the image."""

from operator import attrgetter
from typing import TypeVar

import equinox as eqx
import jax.random as jr
from jaxtyping import PRNGKeyArray

from ..families import family_of, headless
from ..layers import check_at_least, Linear, pair


Model = TypeVar("Model", bound=eqx.Module)


def reset_head(model: Model, num_classes: int, *, key: PRNGKeyArray) -> Model:
    """The model with a fresh last layer, for other classes.

    Everything else is shared with `model`, also a batch normalisation or a hidden layer
    between pooling and the last layer. A model with two heads gets two fresh ones.

    **Arguments:**

    - `model`: A model of a registered class, see [`eqx_vit.register`][].
    - `num_classes`: The new number of classes; 0 takes the head away, so that the model
        returns the features that would enter it.
    - `key`: A `jax.random.key` used to initialise the head. (Keyword only argument.)

    **Raises:**

    A `ValueError` that names the argument and the legal values.
    """
    check_at_least(0, num_classes=num_classes)
    heads = family_of(model).heads(model)
    if num_classes and not heads:
        raise ValueError(
            f"`model` is a {type(model).__name__} without a head, and its state has no "
            "statistics for one; build it with the number of classes instead."
        )
    if not num_classes:
        return headless(model)
    for (path, dim), key in zip(heads.items(), jr.split(key)):
        fresh, where = Linear(dim, num_classes, key=key), attrgetter(path)
        model = eqx.tree_at(where, model, fresh, is_leaf=lambda x: x is None)
    return model


def resize(
    model: Model, image_size: int | tuple[int, int], *, antialias: bool = True
) -> Model:
    """The model for images of another size.

    Position embeddings are interpolated bicubically; those of class and register tokens
    stay as they are. (NesT's are interpolated without antialiasing, LeViT's biases as a
    table of signed distances.) A model that takes images of many sizes is returned as
    it is.

    **Arguments:**

    - `model`: A model of a registered class, see [`eqx_vit.register`][].
    - `image_size`: The new side of the image in pixels, or its `(height, width)`.
    - `antialias`: Whether position embeddings are interpolated with antialiasing, as by
        timm, or without, as by transformers. (Keyword only argument.)

    **Raises:**

    A `ValueError` that names the nearest legal size.
    """
    check_at_least(1, image_size=image_size)
    family, size = family_of(model), pair(image_size)
    if antialias or family.resize_plain is None:
        return family.resize(model, size)
    return family.resize_plain(model, size)
