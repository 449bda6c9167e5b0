"""A model by the name that people type: a run folder or a published model."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax.random as jr
import numpy as np
from jaxtyping import Float

from ...data import Centre, Channels, classes_of
from ...pretrained import Architecture, Record, run_config
from ...pretrained.create import record as record_of
from ...pretrained.repository import is_repository
from ...pretrained.weights import WeightFile
from ...pretrained.zoo import zoo
from ._run import Run


class Loaded(NamedTuple):
    """A trained model, what it knows, and how it wants its images.

    - `model`, `state`: The model.
    - `classes`: The names of its classes.
    - `aliases`: What else they are called, with their places.
    - `transform`: From the pixels of an image to what the model takes.
    - `label_kind`: What its outputs are of, as `eqx_vit.data.Images` has it.
    - `thresholds`: The probability of every class from which on an image is of it, for
        the kind `"classes"`.
    """

    model: Callable
    state: eqx.nn.State
    classes: tuple[str, ...]
    aliases: Mapping[str, int]
    transform: Channels
    label_kind: str = "class"
    thresholds: Float[np.ndarray, " classes"] | None = None


def load_run_or_published(
    name: str,
    weights: str | None = None,
    headless: bool = False,
    *,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    best: bool = False,
) -> Loaded:
    """The model of a run folder, a published one, or one of a repository or a folder.

    **Arguments:**

    - `name`: As `eqx_vit.create_model` takes it.
    - `weights`: A file or run folder with weights, instead of a download.
    - `headless`: Whether a model that knows no classes will do.
    - `image_size`, `channels`: Other than the published model has. (Keyword only
        arguments.)
    - `best`: Whether to take the weights of a run's best epoch. (Keyword only
        argument.)
    """
    is_repo = is_repository(name)
    is_run = Path(name).is_dir() and not is_repo
    if not is_run and not is_repo and name not in zoo:
        raise ValueError(f"There is no folder {name!r}, and {zoo.unknown(name)}")
    run = Run.open(Path(name)) if is_run else _run_of(weights)
    if run is not None:
        wishes = dict(image_size=image_size, channels=channels)
        wishes |= dict(weights=weights) if is_run else {}
        for option, value in wishes.items():
            if value is not None:
                raise ValueError(
                    f"`--{option.replace('_', '-')}` goes with the name of a published "
                    "model; a run folder has its own."
                )
        published = None if is_run else record_of(name)
        if published is not None and run.architecture.record != published:
            raise ValueError(
                f"`--weights {weights}` holds a {run.architecture.name}, not a "
                f"{published.name}; give the run folder alone."
            )
        classes = tuple(run.config["classes"])
        made, kind = run.load_model(best), run.label_kind
        return Loaded(*made, classes, {}, run.centre, kind, run.thresholds(best))
    if best:
        raise ValueError(f"`--best` goes with a run folder, which {name!r} is not.")
    record = record_of(name)
    file = None if weights is None else WeightFile(weights)
    num_classes = _num_classes(record, file)
    knows_none = record.label_set is None and record.classes is None
    if num_classes == record.num_classes and knows_none and not headless:
        reason = (
            "has no head"
            if record.num_classes == 0
            else f"returns an embedding of {record.num_classes} numbers"
        )
        raise ValueError(
            f"{record.name!r} {reason}, so it knows no classes; choose a model that "
            "has some (`print(eqx_vit.zoo)` shows them)."
        )
    wanted = Architecture.named(name).changed(num_classes, image_size, channels, {})
    made = wanted.make(jr.key(0), pretrained=file is None, weights=file)
    transform = Centre.of(record, image_size)
    channels = channels or 3
    if channels == 1:
        transform = transform.grey()
    classes, aliases = classes_of(record, num_classes)
    return Loaded(*made, classes, aliases, Channels(transform, channels))


def run_named(name: str) -> Run | None:
    """The run of a folder; `None` if the name is one of a published model, or of a
    repository or a folder of another library."""
    is_run = Path(name).is_dir() and not is_repository(name)
    return Run.open(Path(name)) if is_run else None


def _run_of(weights: str | None) -> Run | None:
    """The run whose folder or file of weights it is, if it is one's."""
    if weights is None or run_config(weights) is None:
        return None
    path = Path(weights)
    return Run.open(path if path.is_dir() else path.parent)


def _num_classes(record: Record, file: WeightFile | None) -> int:
    """How many classes a file has, which may be a fine-tune."""
    if file is None:
        return record.num_classes
    # (Of a model with a head, whatever its size.)
    classes = record.num_classes or 2
    shapes = Architecture.named(record.name).changed(classes, None, None, {}).shapes()
    found = file.num_classes(*shapes)
    return record.num_classes if found is None else found
