"""The part of a source of images that is meant."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ._names import listed


_OPTIONS = {
    "config": "--data-config",
    "image_column": "--image-column",
    "label_column": "--label-column",
}


@dataclass(frozen=True)
class Selection:
    """The part of a source of images that is meant; `None` leaves it to the source.

    - `config`: The configuration of a data set that has several.
    - `image_column`, `label_column`: The columns of the images and of the labels.
    """

    config: str | None = None
    image_column: str | None = None
    label_column: str | None = None

    def refuse(
        self, source: str | Path, what: str, names: Sequence[str] = tuple(_OPTIONS)
    ) -> None:
        """Raise a `ValueError` if something is chosen that a source does not have.

        **Arguments:**

        - `source`, `what`: The source, and its kind: `"a CSV file"`.
        - `names`: The fields that must be `None`.
        """
        for name in names:
            value = getattr(self, name)
            if value is not None:
                raise ValueError(
                    f"{option(name, value)} does not go with `{source}`, {what}; leave "
                    "it out."
                )

    def column(
        self, name: str, source: str | Path, columns: Sequence[str]
    ) -> str | None:
        """Return the column that is chosen, if one is.

        **Arguments:**

        - `name`: `"image_column"` or `"label_column"`.
        - `source`, `columns`: The source, and its columns.

        **Raises:**

        A `ValueError` if the source does not have it.
        """
        value = getattr(self, name)
        if value is not None and value not in columns:
            raise ValueError(
                f"{option(name, value)} must be a column of `{source}`; it has "
                f"{listed(columns) or 'none'}."
            )
        return value


def option(name: str, value: str) -> str:
    """Return how a field of a `Selection` is written on the command line and in
    Python."""
    return f"`{_OPTIONS[name]} {value}` (in Python `{name}={value!r}`)"
