"""A model's outputs for labelled images, measured."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from ...data import Images
from .._load import Outputs
from ..runs import Loaded
from ._classes import ClassEvaluation
from ._report import Report
from ._rows import RowEvaluation


class Evaluation(Protocol):
    """The measures of a model on some images. One class for every kind of labels."""

    @property
    def row(self) -> Mapping[str, str]:
        """The measures that `eqx-vit evaluate` prints, by name."""
        ...

    def measures(self) -> dict[str, Any]:
        """Return the object of `report.json`."""
        ...

    def report(self, title: str) -> Report:
        """Return the report, with a title."""
        ...


def evaluation(
    batches: Iterable[Outputs],
    loaded: Loaded,
    images: Images,
    about: Mapping[str, Any],
) -> Evaluation:
    """Return the evaluation of a model, of which no more than the outputs of a batch
    are in memory for one class an image.

    **Arguments:**

    - `batches`: The outputs of the model for the images.
    - `loaded`, `images`: The model and the images.
    - `about`: What `report.json` says besides the measures: the names of the model and
        the data.

    **Raises:** a `ValueError` if there are no outputs.
    """
    is_one = loaded.label_kind == "class"
    of = ClassEvaluation.of if is_one else RowEvaluation.of
    return of(batches, loaded, images, about)
