import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax.random as jr

from ..checkpoints import create_model, zoo
from ..data import Centre, Channels, imagenet_classes
from ..runs import Run


def add_load_arguments(parser: argparse.ArgumentParser) -> None:
    """What says which model to load."""
    parser.add_argument(
        "model", metavar="MODEL", help="name of a published model, or a run folder"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        default=None,
        help="file with the published weights, instead of a download",
    )


class Loaded(NamedTuple):
    """A trained model, what it knows, and how it wants its images."""

    model: Callable
    state: eqx.nn.State
    classes: tuple[str, ...]
    transform: Channels

    @property
    def arguments(self) -> tuple[eqx.nn.State, ...]:
        """What the model takes besides an image."""
        stateful = isinstance(self.model, eqx.nn.StatefulLayer)
        return (self.state,) if stateful else ()


def load_run_or_published(
    name: str, weights: Path | None, headless: bool = False
) -> Loaded:
    """The model of a run folder, or a published one.

    **Arguments:**

    - `name`: Of a folder or of a published model.
    - `weights`: A file with published weights, instead of a download.
    - `headless`: Whether a model that knows no classes will do.
    """
    if Path(name).is_dir():
        if weights is not None:
            raise ValueError(
                "`--weights` goes with the name of a published model; a run folder has "
                "its own."
            )
        run = Run.open(Path(name))
        return Loaded(*run.load_model(), tuple(run.config["classes"]), run.centre)
    if name not in zoo:
        raise ValueError(f"There is no folder {name!r}, and {zoo.unknown(name)}")
    record = zoo[name]
    if record.num_classes == 0 and not headless:
        raise ValueError(
            f"{record.name!r} has no head, so it knows no classes; choose a model that "
            "has some (`print(eqx_vit.zoo)` shows them)."
        )
    made = create_model(
        name, pretrained=weights is None, weights=weights, key=jr.key(0)
    )
    if record.num_classes == 1000:
        classes = imagenet_classes()
    else:
        classes = tuple(f"class {i}" for i in range(record.num_classes))
    return Loaded(*made, classes, Channels(Centre.of(record), 3))
