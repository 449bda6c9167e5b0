"""Data sets that measure models of ImageNet-1k otherwise than ImageNet itself."""

import argparse
import copy
import re
from pathlib import PurePath
from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Int

from ..data import (
    imagenet,
    imagenet_aliases,
    imagenet_places,
    imagenet_real,
    imagenet_subset,
    Images,
    with_classes,
)
from ._load import Outputs
from .runs import Loaded


# What the data sets are called in messages.
SUBSETS = {
    "imagenet_a": "ImageNet-A",
    "imagenet_r": "ImageNet-R",
    "imagenet_real": "ImageNet-ReaL",
    "imagenet_v2": "ImageNet-V2",
}


def add_subset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--subset",
        choices=(*SUBSETS,),
        default=None,
        help="the data set that a model of ImageNet-1k is measured on: only its "
        "classes compete; in imagenet_real every label of an image is right",
    )


class Task(NamedTuple):
    """A model and the images that it is measured on.

    - `loaded`, `images`: The model and the images, with the same classes.
    - `real`: For every label of `images` the classes that are right, if they are
        several.
    """

    loaded: Loaded
    images: Images
    real: tuple[tuple[int, ...], ...] | None = None

    def labelled(self, batch: Outputs) -> Outputs:
        """Return a batch with one right class an image: of several, the one that the
        model finds most probable, so that a prediction is right if it is among them.

        **Arguments:**

        - `batch`: The outputs, with labels of `images`.
        """
        if self.real is None:
            return batch
        right = [list(self.real[label]) for label in batch.labels]
        best = [legal[row[legal].argmax()] for row, legal in zip(batch.rows, right)]
        return batch._replace(labels=np.array(best, np.int32))


def on_subset(subset: str, loaded: Loaded, images: Images, what: str) -> Task:
    """Return a model and images, with the classes of a data set for both.

    **Arguments:**

    - `subset`: One of `SUBSETS`.
    - `loaded`, `images`: The model and the images, with classes of their own.
    - `what`: What an error calls the images.

    **Raises:**

    A `ValueError` if the classes of the model are not those of ImageNet-1k, or those of
    the images not of the subset; for `"imagenet_real"` if the files have other names
    than those of ImageNet's validation images.
    """
    name = SUBSETS[subset]
    places = imagenet_places(loaded.classes)
    if places is None or loaded.label_kind != "class":
        raise ValueError(
            f"`--subset {subset}` needs a model of ImageNet-1k, and this one has "
            f"{len(loaded.classes)} classes of other names; leave out `--subset` to "
            "match its classes with those of the images."
        )
    kept = imagenet_subset(subset)
    loaded = _of_classes(loaded, np.argsort(places)[list(kept)], kept)
    if subset != "imagenet_real":
        images = with_classes(
            images, loaded.classes, loaded.aliases, what=what, whose=name
        )
        return Task(loaded, images)
    real = imagenet_real()
    numbers = [_number(images, row, len(real)) for row in range(len(images))]
    rows = [row for row, number in enumerate(numbers) if real[number - 1]]
    if not rows:
        raise ValueError(f"{name} has no labels for any of the images of {what}.")
    images = copy.copy(images.subset(np.array(rows)))
    images.labels = np.arange(len(rows), dtype=np.int32)
    images.classes = loaded.classes
    return Task(loaded, images, tuple(real[numbers[row] - 1] for row in rows))


def _of_classes(
    loaded: Loaded, columns: Int[np.ndarray, " kept"], kept: tuple[int, ...]
) -> Loaded:
    """The model with some of its outputs, those of some classes of ImageNet-1k."""
    pick = eqx.nn.Lambda(lambda logits: logits[columns])
    model = eqx.nn.Sequential([loaded.model, pick])  # pyright: ignore
    new = {index: place for place, index in enumerate(kept)}
    aliases = {
        name: new[index] for name, index in imagenet_aliases().items() if index in new
    }
    classes = tuple(imagenet()[index].name for index in kept)
    return loaded._replace(model=model, classes=classes, aliases=aliases)


def _number(images: Images, row: int, most: int) -> int:
    """The number in the name of a validation image, from 1."""
    name = PurePath(images.name(row)).name
    found = re.fullmatch(r"ILSVRC2012_val_(\d{8})\.\w+", name)
    if found is None or not 1 <= int(found[1]) <= most:
        raise ValueError(
            f"`{images.name(row)}` must be named as an image of ImageNet's validation, "
            "`ILSVRC2012_val_00000001.JPEG`: the number tells its labels in "
            "ImageNet-ReaL."
        )
    return int(found[1])
