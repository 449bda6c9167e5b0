from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax.random as jr

from ..checkpoints import create_model, zoo
from ..data import Centre, Channels, imagenet_classes
from ..runs import Run


class Loaded(NamedTuple):
    """A trained model, what it knows, and how it wants its images."""

    model: Callable
    state: eqx.nn.State
    classes: tuple[str, ...]
    transform: Channels


def load_run_or_published(name: str, weights: Path | None) -> Loaded:
    """The model of a run folder, or a published one.

    **Arguments:**

    - `name`: Of a folder or of a published model.
    - `weights`: A file with published weights, instead of a download.
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
    if record.num_classes == 0:
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
