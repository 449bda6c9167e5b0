"""Reports of any number of classes an image, or of numbers."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ...data import Images, NONE_READABLE
from .._load import Outputs
from ..metrics import each, measures, NAMES, shown, sigmoid
from ..runs import Loaded
from ._report import counts, Report, Table


class RowEvaluation(NamedTuple):
    """The measures of a model of which an image has any number of classes, or numbers.

    - `outputs`: The outputs for the images that can be read.
    - `loaded`: The model.
    - `images`: The images, for their names.
    - `about`: What else `report.json` says.
    - `measured`: The measures, by name.
    """

    outputs: Outputs
    loaded: Loaded
    images: Images
    about: Mapping[str, Any]
    measured: Mapping[str, float]

    @classmethod
    def of(
        cls,
        batches: Iterable[Outputs],
        loaded: Loaded,
        images: Images,
        about: Mapping[str, Any],
    ) -> "RowEvaluation":
        """The evaluation of outputs, see `evaluation`."""
        found = list(batches)
        if not found:
            raise ValueError(NONE_READABLE)
        outputs = Outputs(*map(np.concatenate, zip(*found)))
        measured = measures(*_arguments(loaded, outputs))
        return cls(outputs, loaded, images, about, measured)

    @property
    def _counts(self) -> dict[str, int]:
        return counts(self.images, len(self.outputs.rows))

    @property
    def row(self) -> dict[str, str]:
        """The measures that `eqx-vit evaluate` prints, by name."""
        texts = {n: str(count) for n, count in self._counts.items()}
        return texts | {NAMES[n]: shown(n, v) for n, v in self.measured.items()}

    def measures(self) -> dict[str, Any]:
        """Return the object of `report.json`."""
        known = {**self.about, "label_kind": self.loaded.label_kind, **self._counts}
        by_name = each(*_arguments(self.loaded, self.outputs), self.loaded.classes)
        return known | dict(self.measured) | {self.loaded.label_kind: by_name}

    def report(self, title: str) -> Report:
        """Return the report, with a title. Its table `predictions` has the labels and
        the outputs (probabilities of classes) for every image."""
        rows, labels, index = self.outputs
        classes, is_number = self.loaded.classes, self.loaded.label_kind == "numbers"
        values = rows if is_number else sigmoid(rows)
        word = "value" if is_number else "probability"
        head = ("image", *classes, *(f"{word} of {name}" for name in classes))
        truths = labels if is_number else labels.astype(int)
        cells = [
            (self.images.name(place), *truth, *value)
            for place, truth, value in zip(
                index.tolist(), truths.tolist(), values.tolist()
            )
        ]
        measured, many = self.measures(), self.loaded.label_kind
        by_name = [list(row.values()) for row in measured[many]]
        keys = [key.replace("_", " ") for key in measured[many][0]]
        parts = [
            Table(many, many.capitalize(), keys, by_name),
            Table("predictions", "", head, cells),
        ]
        return Report(title, measured, self.row, parts)


def _arguments(loaded: Loaded, outputs: Outputs) -> tuple[str, Any, Any, Any]:
    """The arguments of `measures`."""
    thresholds = 0.5 if loaded.thresholds is None else loaded.thresholds
    return loaded.label_kind, outputs.rows, outputs.labels, thresholds
