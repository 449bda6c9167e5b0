import logging
import os
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from ..adaptation import reset_head, resize
from ..layers import pair
from ..models import T2TViT
from ..weights import load_weights
from ._fetch import fetch
from ._record import Record
from ._zoo import zoo


_logger = logging.getLogger("eqx_vit")


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    weights: str | os.PathLike | Mapping | None = None,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    settings: Mapping[str, Any] = {},
    key: PRNGKeyArray,
) -> tuple[Any, eqx.nn.State]:
    """A published model by its name, fresh or with its published weights.

    With weights, what is asked for beyond them is adapted, and said in one line each by
    the logger `"eqx_vit"`: another `num_classes` gives a fresh head
    ([`eqx_vit.reset_head`][]), another `image_size` interpolates the position
    embeddings ([`eqx_vit.resize`][]), and other `channels` sum (1) or repeat the
    weights of the first layer.

    **Arguments:**

    - `name`: One of [`eqx_vit.list_models`][], which has the names of timm where timm
        has the model, else the authors'. Without the tag behind the point it is the
        first checkpoint of that size. (All others are keyword only arguments.)
    - `pretrained`: Whether to load the published weights. They are downloaded at the
        first time and kept.
    - `weights`: The path of a file with the published weights, or a mapping of names to
        arrays, to load instead of a download. See [`eqx_vit.load_weights`][].
    - `num_classes`: The number of classes; by default the published.
    - `image_size`: The side of the image in pixels, or its `(height, width)`; by
        default the published.
    - `channels`: The number of channels of the image; by default 3.
    - `settings`: Further arguments of the model's class, for fine-tuning:
        `dict(stochastic_depth=0.1)`.
    - `key`: A `jax.random.key` used to initialise whatever is not loaded.

    **Returns:**

    The model and its state, as from `equinox.nn.make_with_state`.

    **Raises:**

    A `ValueError` that names the nearest legal value, or lists the tensors of a file
    that do not fit; a `FileNotFoundError`; a `ConnectionError` if the weights can not
    be downloaded.
    """
    if name not in zoo:
        raise ValueError(zoo.unknown(name))
    record = zoo[name]
    make: Any = eqx.nn.make_with_state(record.model)
    # What cannot be raises here, before a download.
    settings = dict(settings)
    wanted = record.arguments(num_classes, image_size, channels) | settings
    abstract, _ = eqx.filter_eval_shape(make, **wanted, key=key)
    if image_size is not None and "image_size" not in wanted:
        resize(abstract, image_size)  # only checks it: such a model takes any size
    if weights is None and not pretrained:
        return make(**wanted, key=key)

    published = record.arguments() | settings
    model, state = eqx.filter_eval_shape(make, **published, key=key)
    source = fetch(record) if weights is None else weights
    model, state = load_weights(model, state, source)
    if channels not in (None, 3):
        wanted = record.arguments(channels=channels) | settings
        target, _ = eqx.filter_eval_shape(make, **wanted, key=key)
        model = _with_channels(model, target, channels)
        _say(record, f"its first layer takes {channels} channels instead of 3")
    if image_size is not None and pair(image_size) != record.image_size:
        model = resize(model, image_size)
        sizes = (" x ".join(map(str, s)) for s in (pair(image_size), record.image_size))
        _say(record, "it takes images of {} pixels instead of {}".format(*sizes))
    if num_classes not in (None, record.num_classes):
        model = reset_head(model, num_classes, key=key)
        old = f"that for {record.num_classes}" if record.num_classes else "none"
        new = f"a fresh head for {num_classes} classes" if num_classes else "no head"
        _say(record, f"{new} instead of {old}")
    return model, state


def _say(record: Record, what: str) -> None:
    _logger.warning(f"{record.name}: {what}.")


def _with_channels(model: Any, target: Any, channels: int) -> Any:
    """`model` with the structure of `target`, which takes other channels."""
    unfolded = isinstance(model, T2TViT)

    def adapt(array, wanted):
        if not eqx.is_array(array) or array.shape == wanted.shape:
            return array
        *leading, size = array.shape
        if array.ndim == 4:  # a convolution
            axis = 2
        elif unfolded:  # a channel's pixels stand together
            array, axis = array.reshape(*leading, 3, size // 3), -2
        else:  # a pixel's channels do
            array, axis = array.reshape(*leading, size // 3, 3), -1
        norm = not leading
        if channels == 1:
            array = (jnp.mean if norm else jnp.sum)(array, axis, keepdims=True)
        else:  # a product, a sum over channels, keeps its size
            array = jnp.take(array, jnp.arange(channels) % 3, axis)
            array = array if norm else array * (3 / channels)
        return array.reshape(wanted.shape)

    leaves, structure = jax.tree.flatten(target)
    return jax.tree.unflatten(structure, map(adapt, jax.tree.leaves(model), leaves))
