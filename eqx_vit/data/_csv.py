"""Tables of image files and their labels."""

import csv
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ._images import ImageFiles, Images
from ._labels import labelled
from ._selection import Selection
from ._splits import is_split, no_split, TEST, TRAIN


class Row(NamedTuple):
    """A row of a table: its line, and its cells. The split is empty if it has none."""

    line: int
    image: str
    label: Any
    split: str


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
    columns = {
        "image": selection.image_column or "path",
        "label": selection.label_column or "label",
    }
    rows = list(_csv_rows(path, columns | {"split": "split"}))
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
    labels, classes = _labelled(path, known)
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
    image = selection.image_column or "file_name"
    columns = {"image": image, "label": selection.label_column or "label"}
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
            parts[name] = ImageFiles(paths, *_labelled(path, members), folder)
    return parts


def _labelled(path: Path, rows: list[Row]) -> tuple[Any, tuple[str, ...]]:
    if not rows:
        raise ValueError(f"`{path}` has no rows.")
    where = lambda place: f"`{path}`, line {rows[place].line}"
    return labelled([row.label for row in rows], where, None)


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


def _csv_rows(path: Path, columns: Mapping[str, str]) -> Iterator[Row]:
    """The rows, checked one by one.

    **Arguments:**

    - `path`: The file.
    - `columns`: Of the `image`, of the `label`, and maybe of the `split`, which the
        file need not have.
    """

    def wrong(line: int, what: str) -> ValueError:
        return ValueError(f"`{path}`, line {line}: {what}")

    line = 1
    try:
        # (Spreadsheets begin a file with a byte order mark, which is not in a name.)
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_columns(path, columns, header, ", separated by commas")
            wanted = {role: n for role, n in columns.items() if n in header}
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
                row = {r: cells[header.index(n)].strip() for r, n in wanted.items()}
                for role, value in row.items():
                    if not value or "\0" in value:
                        raise wrong(line, f"the column `{wanted[role]}` is empty.")
                yield Row(line, row["image"], row["label"], row.get("split", ""))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"`{path}` is not a text file in UTF-8 ({error.reason}, behind line "
            f"{line}); save it as CSV in UTF-8."
        ) from error
    except csv.Error as error:
        raise wrong(line + 1, f"{error}.") from error


def _json_rows(path: Path, columns: Mapping[str, str]) -> Iterator[Row]:
    """The rows of a file with a JSON object a line. The arguments are those of
    `_csv_rows`."""
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
        _check_columns(where, columns, list(row), "")
        image = row[columns["image"]]
        if not isinstance(image, str) or not image.strip() or "\0" in image:
            raise ValueError(f"{where}: `{columns['image']}` must be a file's name.")
        yield Row(line, image, row[columns["label"]], "")


def _check_columns(
    where: str | Path, columns: Mapping[str, str], header: list[str], how: str
) -> None:
    image, label = columns["image"], columns["label"]
    if image in header and label in header:
        return
    where = where if isinstance(where, str) else f"`{where}`"
    way_out = "`--image-column` and `--label-column` name other columns."
    if image == "file_name":
        way_out += " If its sub-folders are the classes, rename the file of metadata."
    raise ValueError(
        f"{where} must have the columns `{image}` and `{label}`{how}; it has the "
        f"columns {', '.join(header) or '(none)'}. {way_out}"
    )
