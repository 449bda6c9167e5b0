"""Tables of image files and their labels."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ._images import ImageFiles, Images
from ._names import sorted_classes
from ._splits import split_kind, TEST, TRAIN


def from_csv(path: Path) -> dict[str, Images]:
    rows = list(_csv_rows(path))
    if not rows:
        raise ValueError(f"`{path}` has no row under its header.")
    by_split: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_split.setdefault(row.get("split", "all"), []).append(row)
    classes = sorted_classes({row["label"] for row in rows})
    places = {name: place for place, name in enumerate(classes)}
    return {
        name: ImageFiles(
            [path.parent / row["path"] for row in rows],
            np.array([places[row["label"]] for row in rows], np.int32),
            classes,
            path.parent,
        )
        for name, rows in by_split.items()
    }


def _csv_rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows, with `path`, `label` and maybe `split`, checked one by one."""

    def wrong(line: int, what: str) -> ValueError:
        return ValueError(f"`{path}`, line {line}: {what}")

    line = 1
    try:
        # (Spreadsheets begin a file with a byte order mark, which is not in a name.)
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            columns = [name.strip() for name in next(reader, [])]
            wanted = [n for n in ("path", "label", "split") if n in columns]
            if wanted[:2] != ["path", "label"]:
                raise ValueError(
                    f"`{path}` must have the columns `path` and `label`, separated by "
                    f"commas; it has the columns {', '.join(columns) or '(none)'}."
                )
            for cells in reader:
                line = reader.line_num
                if not cells:  # an empty line
                    continue
                if len(cells) != len(columns):
                    raise wrong(
                        line,
                        f"{len(cells)} value(s) where the header has {len(columns)}. "
                        "A comma inside of a value needs quotes around the value.",
                    )
                row = {n: cells[columns.index(n)].strip() for n in wanted}
                for name, value in row.items():
                    if not value or "\0" in value:
                        raise wrong(line, f"the column `{name}` is empty.")
                if "split" in row and split_kind(row["split"]) is None:
                    raise wrong(
                        line,
                        f"the split {row['split']!r} is none of "
                        f"{', '.join((*TRAIN, *TEST))}.",
                    )
                yield row
    except UnicodeDecodeError as error:
        raise ValueError(
            f"`{path}` is not a text file in UTF-8 ({error.reason}, behind line "
            f"{line}); save it as CSV in UTF-8."
        ) from error
    except csv.Error as error:
        raise wrong(line + 1, f"{error}.") from error
