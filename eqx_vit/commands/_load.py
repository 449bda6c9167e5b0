import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax.random as jr
import numpy as np

from ..checkpoints import Architecture, create_model, Record, run_config, zoo
from ..data import Centre, Channels, classes_of, listed
from ..runs import Run
from ..weights import WeightFile
from ._options import integer, text


def add_load_arguments(parser: argparse.ArgumentParser) -> None:
    """What says which model to load."""
    parser.add_argument(
        "model",
        type=text,
        metavar="MODEL",
        help="name of a published model, or a run folder",
    )
    parser.add_argument(
        "--weights",
        type=text,
        metavar="FILE",
        default=None,
        help="file with weights of the published model, instead of a download: the "
        "published ones, or a fine-tune with other classes",
    )
    parser.add_argument(
        "--image-size",
        type=integer(1, 8192),
        default=None,
        metavar="PIXELS",
        help="side that images are resized to (default: the model's)",
    )
    parser.add_argument(
        "--channels",
        type=int,
        choices=(1, 3),
        default=None,
        help="1 for a model of grey images (default: the model's)",
    )


class Loaded(NamedTuple):
    """A trained model, what it knows, and how it wants its images.

    - `model`, `state`: The model.
    - `classes`: The names of its classes.
    - `aliases`: What else they are called, with their places.
    - `transform`: From the pixels of an image to what the model takes.
    """

    model: Callable
    state: eqx.nn.State
    classes: tuple[str, ...]
    aliases: Mapping[str, int]
    transform: Channels

    @property
    def arguments(self) -> tuple[eqx.nn.State, ...]:
        """What the model takes besides an image."""
        stateful = isinstance(self.model, eqx.nn.StatefulLayer)
        return (self.state,) if stateful else ()


def load(options: argparse.Namespace, headless: bool = False) -> Loaded:
    """The model of the options.

    **Arguments:**

    - `options`: With those of `add_load_arguments`.
    - `headless`: Whether a model that knows no classes will do.
    """
    return load_run_or_published(
        options.model,
        options.weights,
        headless,
        image_size=options.image_size,
        channels=options.channels,
    )


def load_run_or_published(
    name: str,
    weights: str | None = None,
    headless: bool = False,
    *,
    image_size: int | None = None,
    channels: int | None = None,
) -> Loaded:
    """The model of a run folder, or a published one.

    **Arguments:**

    - `name`: Of a folder or of a published model.
    - `weights`: A file or run folder with weights, instead of a download.
    - `headless`: Whether a model that knows no classes will do.
    - `image_size`, `channels`: Other than the published model has. (Keyword only
        arguments.)
    """
    run = _run_of(weights)
    if Path(name).is_dir() or run is not None:
        wishes = dict(image_size=image_size, channels=channels)
        wishes |= {} if run is not None else dict(weights=weights)
        for option, value in wishes.items():
            if value is not None:
                raise ValueError(
                    f"`--{option.replace('_', '-')}` goes with the name of a published "
                    "model; a run folder has its own."
                )
    if Path(name).is_dir():
        if run is not None:
            raise ValueError("`--weights` does not go with a run folder as the model.")
        return _of_run(Path(name))
    if name not in zoo:
        raise ValueError(f"There is no folder {name!r}, and {zoo.unknown(name)}")
    record = zoo[name]
    if run is not None:
        if run.architecture.record != record:
            raise ValueError(
                f"`--weights {weights}` holds a {run.architecture.name}, not a "
                f"{record.name}; give the run folder alone."
            )
        return _of_run(run.folder)
    num_classes = _num_classes(record, weights)
    if num_classes == record.num_classes and record.label_set is None and not headless:
        reason = (
            "has no head"
            if record.num_classes == 0
            else f"returns an embedding of {record.num_classes} numbers"
        )
        raise ValueError(
            f"{record.name!r} {reason}, so it knows no classes; choose a model that "
            "has some (`print(eqx_vit.zoo)` shows them)."
        )
    made = create_model(
        name,
        pretrained=weights is None,
        weights=weights,
        num_classes=num_classes,
        image_size=image_size,
        channels=channels,
        key=jr.key(0),
    )
    transform = Centre.of(record, image_size)
    channels = channels or 3
    if channels == 1:
        transform = transform.grey()
    classes, aliases = classes_of(record, num_classes)
    return Loaded(*made, classes, aliases, Channels(transform, channels))


def _of_run(folder: Path) -> Loaded:
    run = Run.open(folder)
    return Loaded(*run.load_model(), tuple(run.config["classes"]), {}, run.centre)


def _run_of(weights: str | None) -> Run | None:
    """The run whose folder or file of weights it is, if it is one's."""
    if weights is None or run_config(weights) is None:
        return None
    path = Path(weights)
    return Run.open(path if path.is_dir() else path.parent)


def _num_classes(record: Record, weights: str | None) -> int:
    """How many classes a file has, which may be a fine-tune."""
    if weights is None:
        return record.num_classes
    # (Of a model with a head, whatever its size.)
    classes = record.num_classes or 2
    shapes = Architecture.named(record.name).changed(classes, None, None, {}).shapes()
    found = WeightFile(weights).num_classes(*shapes)
    return record.num_classes if found is None else found


def check_finite(logits: np.ndarray, names: Sequence[str]) -> None:
    """Raise if a model's answers for some images are not numbers.

    **Arguments:**

    - `logits`: A row for every image.
    - `names`: The names of the images.

    **Raises:**

    A `ValueError` that names the images.
    """
    wrong = [name for name, row in zip(names, logits) if not np.isfinite(row).all()]
    if wrong:
        raise ValueError(
            f"The outputs of the model are NaN or infinite for {listed(wrong)}: its "
            "weights are not usable, or the images are not prepared as they were in "
            "training."
        )
