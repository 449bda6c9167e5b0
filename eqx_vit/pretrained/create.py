import os
from collections.abc import Mapping
from typing import Any

import equinox as eqx
from jaxtyping import PRNGKeyArray

from .architecture import Architecture, run_record
from .record import Record
from .repository import at_revision, is_repository
from .run_folder import run_config


def create_model(
    name: str,
    *,
    pretrained: bool | None = None,
    revision: str | None = None,
    weights: str | os.PathLike | Mapping | None = None,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    settings: Mapping[str, Any] = {},
    key: PRNGKeyArray,
) -> tuple[Any, eqx.nn.State]:
    """Create a published model by its name, fresh or with weights; or the model of a
    repository of the Hugging Face hub, of a folder, or of a run.

    A file whose shapes are those asked for, such as a fine-tune with `num_classes=5`,
    is loaded whole. What is asked for beyond a published file is adapted, and said in
    one line each by the logger `"eqx_vit"`: another `num_classes` gives a fresh head
    ([`eqx_vit.reset_head`][]), another `image_size` interpolates the position
    embeddings ([`eqx_vit.resize`][]), and other `channels` sum (1) or repeat the
    weights of the first layer.

    **Arguments:**

    - `name`: One of [`eqx_vit.list_models`][], which has the names of timm where timm
        has the model, else the authors'; without the tag behind the point it is the
        first checkpoint of that size. Or what comes with its weights: a repository,
        `"hf-hub:user/name"`, or a folder, `"local-dir:PATH"` or its path, with the
        `config.json` of timm or transformers; or a run folder of `eqx-vit train`. (All
        others are keyword only arguments.)
    - `pretrained`: Whether to load the weights: by default those of repositories and
        folders, and not those of the other names. They are downloaded on first use and
        cached.
    - `revision`: A branch, a tag or a commit of a repository; `"hf-hub:user/name@tag"`
        is the same.
    - `weights`: What to load instead: the path of a file, a run folder, or a mapping of
        names to arrays, see [`eqx_vit.load_weights`][].
    - `num_classes`: The number of classes; by default the published; 0 for a
        model without a head.
    - `image_size`: The side of the image in pixels, or its `(height, width)`; by
        default the published.
    - `channels`: The number of channels of the image; by default 3.
    - `settings`: Further arguments of the model's class, for fine-tuning:
        `dict(stochastic_depth=0.1)`; not those that are arguments here.
    - `key`: A `jax.random.key` used to initialise whatever is not loaded.

    **Returns:**

    The model and its state, as from `equinox.nn.make_with_state`.

    **Raises:**

    A `ValueError` that names the nearest legal value, or lists the tensors of a file
    that do not fit; a `FileNotFoundError`; a `ConnectionError` if the weights can not
    be downloaded.
    """
    name = at_revision(name, revision)
    architecture = Architecture.named(name)
    wanted = architecture.changed(num_classes, image_size, channels, settings)
    if weights is None and run_config(name) is not None:
        weights = name
    if pretrained is None:
        pretrained = weights is None and is_repository(name)
    return wanted.make(key, pretrained, weights)


def record(name: str, *, revision: str | None = None) -> Record:
    """Return the record of a published model, a repository, a folder or a run: its
    classes, how it wants its images, where its weights are.

    **Arguments:**

    - `name`: As in [`eqx_vit.create_model`][].
    - `revision`: A branch, a tag or a commit of a repository. (Keyword only argument.)

    **Returns:**

    The record, which [`eqx_vit.preprocess`][] takes.

    **Raises:** as [`eqx_vit.create_model`][].
    """
    name = at_revision(name, revision)
    if (config := run_config(name)) is not None:
        return run_record(name, config)
    found = Architecture.named(name).record
    if found is None:
        raise ValueError(
            f"`name={name!r}` is a class, of which nothing is published; give the name "
            "of a model (`eqx_vit.list_models()`), a repository or a folder."
        )
    return found
