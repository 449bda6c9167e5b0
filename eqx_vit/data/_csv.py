"""Tables of image files and their labels."""

import csv
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ._images import ImageFiles, Images
from ._labels import labelled, of_columns
from ._selection import Selection
from ._splits import is_split, no_split, TEST, TRAIN


class Row(NamedTuple):
    """A row of a table: its line, and its cells, of labels one a column. The split is
    empty if it has none."""

    line: int
    image: str
    labels: tuple[Any, ...]
    split: str


class _Columns:
    """The columns of a table: of the images, of the labels, and maybe of the split,
    which the table need not have."""

    def __init__(self, selection: Selection, image: str, split: str | None = None):
        self.selection, self.split = selection, split
        self.image = selection.image_column or image
        self.labels = selection.label_columns or ("label",)

    def check(self, where: str | Path, header: list[str], how: str) -> None:
        """Raise a `ValueError` if a table does not have them.

        **Arguments:**

        - `where`: The table.
        - `header`: Its columns.
        - `how`: How they must be written.
        """
        wanted = (self.image, *self.labels)
        if all(name in header for name in wanted):
            return
        where = where if isinstance(where, str) else f"`{where}`"
        way_out = "`--image-column` and `--label-column` name other columns."
        if self.image == "file_name":
            way_out += (
                " If its sub-folders are the classes, rename the file of metadata."
            )
        names = " and ".join(f"`{name}`" for name in wanted)
        raise ValueError(
            f"{where} must have the columns {names}{how}; it has the columns "
            f"{', '.join(header) or '(none)'}. {way_out}"
        )


def from_csv(
    path: Path, selection: Selection, wanted: Collection[str] = ()
) -> dict[str, Images]:
    """Return the images of a CSV file by the name of their split.

    **Arguments:**

    - `path`, `selection`: The file, and its columns.
    - `wanted`: Further names of splits. Where there are some, rows of others are left
        out.
    """
    selection.refuse(path, "a CSV file", ["config"])
    columns = _Columns(selection, "path", "split")
    rows = list(_csv_rows(path, columns))
    known = [row for row in rows if not row.split or is_split(row.split, wanted)]
    if len(known) < len(rows) and not wanted:
        row = next(row for row in rows if not is_split(row.split))
        raise ValueError(
            f"`{path}`, line {row.line}: the split {row.split!r} is none of "
            f"{', '.join((*TRAIN, *TEST))}; `--train-split` and `--test-split` name "
            "others."
        )
    if rows and not known:
        names = list(dict.fromkeys(row.split for row in rows))
        raise no_split(path, next(iter(wanted)), names)
    _check_repeated(path, known)
    labels, classes = _labelled(path, known, columns)
    by_split: dict[str, list[int]] = {}
    for place, row in enumerate(known):
        by_split.setdefault(row.split or "all", []).append(place)
    return {
        name: ImageFiles(
            [path.parent / known[place].image for place in places],
            labels[places],
            classes,
            path.parent,
        )
        for name, places in by_split.items()
    }


def from_metadata(
    folder: Path,
    files: Mapping[str, Path],
    selection: Selection,
    wanted: Collection[str] = (),
) -> dict[str, Images]:
    """Return the images of a folder with files of metadata, by the name of their split.

    **Arguments:**

    - `folder`: The folder.
    - `files`: Its `metadata.csv` or `metadata.jsonl`, by the name of the split.
    - `selection`: Their columns.
    - `wanted`: Further names of splits.
    """
    selection.refuse(folder, "a folder with a file of metadata", ["config"])
    columns = _Columns(selection, "file_name")
    parts: dict[str, Images] = {}
    for split, path in files.items():
        read = _csv_rows if path.suffix.lower() == ".csv" else _json_rows
        rows = list(read(path, columns))
        if not rows:
            raise ValueError(f"`{path}` has no rows.")
        _check_files(path, rows)
        firsts = [Path(row.image).parts[0] for row in rows]
        # (One file may list the images of several splits.)
        divides = split == "all" and all(is_split(name, wanted) for name in firsts)
        names = firsts if divides else [split] * len(rows)
        for name in dict.fromkeys(names):
            members = [row for row, own in zip(rows, names) if own == name]
            paths = [path.parent / row.image for row in members]
            parts[name] = ImageFiles(paths, *_labelled(path, members, columns), folder)
    return parts


def _labelled(
    path: Path, rows: list[Row], columns: _Columns
) -> tuple[Any, tuple[str, ...]]:
    if not rows:
        raise ValueError(f"`{path}` has no rows.")
    where = lambda place: f"`{path}`, line {rows[place].line}"
    selection, names = columns.selection, columns.labels
    cells = [row.labels for row in rows]
    values = [label for row in cells for label in row]
    # (A column of 0 and 1 that is chosen is a class, not one of the classes 0 and 1.)
    is_chosen = bool(selection.label_columns) and selection.label_kind == "classes"
    is_class = is_chosen and {*map(str, values)} <= {"0", "1", "True", "False"}
    if len(names) > 1 or is_class:
        return of_columns(cells, where, names, selection, "class")
    is_number = selection.label_kind == "numbers" and not isinstance(values[0], list)
    return labelled(values, where, names if is_number else None, selection)


def _check_repeated(path: Path, rows: list[Row]) -> None:
    """Raise if an image has two labels. (One that is repeated counts twice.)"""
    seen: dict[str, Row] = {}
    for row in rows:
        first = seen.setdefault(row.image, row)
        if first.labels != row.labels:
            raise ValueError(
                f"`{path}`, line {row.line}: the image `{row.image}` has another label "
                f"than in line {first.line}; remove one of the lines. Several "
                "classes of an image are in one line, `cat;dog`, with `--label-kind "
                "classes`."
            )


def _check_files(path: Path, rows: list[Row]) -> None:
    """Raise if an image is not there, or is there twice."""
    seen: dict[Path, int] = {}
    inside: dict[Path, set[str]] = {}
    for row in rows:
        image = path.parent / row.image
        if image.parent not in inside:
            is_there = image.parent.is_dir()
            names = {f.name for f in image.parent.iterdir()} if is_there else set()
            inside[image.parent] = names
        if image.name not in inside[image.parent]:
            raise ValueError(
                f"`{path}`, line {row.line}: there is no image `{row.image}` in "
                f"`{path.parent}`; add it, or remove the line."
            )
        if seen.setdefault(image, row.line) != row.line:
            raise ValueError(
                f"`{path}`, line {row.line}: the image `{row.image}` is in line "
                f"{seen[image]} too; remove one of the lines."
            )


def _csv_rows(path: Path, columns: _Columns) -> Iterator[Row]:
    """The rows, checked one by one."""

    def wrong(line: int, what: str) -> ValueError:
        return ValueError(f"`{path}`, line {line}: {what}")

    line = 1
    may_be_empty = columns.labels if columns.selection.label_kind == "classes" else ()
    try:
        # (Spreadsheets begin a file with a byte order mark, which is not in a name.)
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            columns.check(path, header, ", separated by commas")
            wanted = [columns.image, *columns.labels]
            wanted += [columns.split] if columns.split in header else []
            for cells in reader:
                line = reader.line_num
                if not cells:  # an empty line
                    continue
                if len(cells) != len(header):
                    raise wrong(
                        line,
                        f"{len(cells)} value(s) where the header has {len(header)}. "
                        "A comma inside of a value needs quotes around the value.",
                    )
                row = {name: cells[header.index(name)].strip() for name in wanted}
                for name, value in row.items():
                    if (not value and name not in may_be_empty) or "\0" in value:
                        raise wrong(line, f"the column `{name}` is empty.")
                labels = tuple(row[name] for name in columns.labels)
                split = row.get(columns.split or "", "")
                yield Row(line, row[columns.image], labels, split)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"`{path}` is not a text file in UTF-8 ({error.reason}, behind line "
            f"{line}); save it as CSV in UTF-8."
        ) from error
    except csv.Error as error:
        raise wrong(line + 1, f"{error}.") from error


def _json_rows(path: Path, columns: _Columns) -> Iterator[Row]:
    """The rows of a file with a JSON object a line."""
    lines = path.read_bytes().splitlines()
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        where = f"`{path}`, line {line}"
        try:
            row = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{where}: it is not JSON in UTF-8: {error}.") from error
        if not isinstance(row, dict):
            raise ValueError(f"{where}: it must be a JSON object, `{{...}}`.")
        columns.check(where, list(row), "")
        image = row[columns.image]
        if not isinstance(image, str) or not image.strip() or "\0" in image:
            raise ValueError(f"{where}: `{columns.image}` must be a file's name.")
        yield Row(line, image, tuple(row[name] for name in columns.labels), "")
