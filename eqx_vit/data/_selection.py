"""The part of a source of images that is meant."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ._names import listed


_OPTIONS = {
    "config": "--data-config",
    "image_column": "--image-column",
    "label_column": "--label-column",
    "label_kind": "--label-kind",
    "label_separator": "--label-separator",
}
# One of several classes; any number of classes; numbers.
LABEL_KINDS = ("class", "classes", "numbers")


@dataclass(frozen=True)
class Selection:
    """The part of a source of images that is meant; `None` leaves it to the source.

    - `config`: The configuration of a data set that has several.
    - `image_column`: The column of the images.
    - `label_columns`: The columns of the labels; none leaves it to the source.
    - `label_kind`: One of `LABEL_KINDS`.
    - `label_separator`: The text between the names of several classes.
    """

    config: str | None = None
    image_column: str | None = None
    label_columns: tuple[str, ...] = ()
    label_kind: str | None = None
    label_separator: str | None = None

    def __post_init__(self):
        if self.label_kind not in (None, *LABEL_KINDS):
            raise ValueError(
                f"{option('label_kind', self.label_kind)} must be one of "
                f"{listed(LABEL_KINDS)}."
            )
        if len(set(self.label_columns)) < len(self.label_columns):
            raise ValueError(
                f"`--label-column` names {listed(self.label_columns)}, one of them "
                "twice; name each once."
            )
        if self.label_separator == "":
            raise ValueError(
                "`--label-separator` is empty; give the text between the classes of an "
                "image, or leave it out for `;` and `|`."
            )
        if self.label_separator is not None and self.label_kind != "classes":
            raise ValueError(
                f"{option('label_separator', self.label_separator)} goes with "
                f"{option('label_kind', 'classes')}."
            )

    @property
    def label_column(self) -> str | None:
        """The column of the labels, in a source whose labels are one column.

        **Raises:**

        A `ValueError` if there are several.
        """
        if len(self.label_columns) > 1:
            shown = " ".join(self.label_columns)
            raise ValueError(
                f"`--label-column {shown}` names several columns, which go with CSV "
                "files, `metadata.csv` or `.jsonl`, and data sets of the Hugging Face "
                "Hub; name one."
            )
        return self.label_columns[0] if self.label_columns else None

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
            is_usual = name == "label_kind" and value == "class"
            if value is not None and not is_usual:
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
        if value is not None:
            _check_column(name, value, source, columns)
        return value

    def check_label_columns(self, source: str | Path, columns: Sequence[str]) -> None:
        """Raise a `ValueError` for a column of labels that a source does not have.

        **Arguments:**

        - `source`, `columns`: The source, and its columns.
        """
        for column in self.label_columns:
            _check_column("label_column", column, source, columns)


def _check_column(
    name: str, value: str, source: str | Path, columns: Sequence[str]
) -> None:
    if value not in columns:
        raise ValueError(
            f"{option(name, value)} must be a column of `{source}`; it has "
            f"{listed(columns) or 'none'}."
        )


def option(name: str, value: str) -> str:
    """Return how a field of a `Selection` is written on the command line and in
    Python."""
    return f"`{_OPTIONS[name]} {value}` (in Python `{name}={value!r}`)"
