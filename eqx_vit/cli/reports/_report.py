"""A report of any kind of labels: JSON, CSV files, pictures and one page."""

import base64
import csv
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...data import Images
from ...pretrained.files import whole_file
from .._output import plain


class Table(NamedTuple):
    """A table of a report.

    - `file`: The name of its CSV file, without `.csv`; empty for one on the page only.
    - `title`: Its heading on the page; empty for a table that is a file only.
    - `head`, `rows`: Its cells: text, numbers, or `None` for an empty one.
    - `note`: A sentence below the heading.
    - `is_folded`: Whether the page shows it when its heading is clicked.
    """

    file: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    is_folded: bool = False


class Picture(NamedTuple):
    """A picture of a report.

    - `file`: The name of its file, without `.png`; empty for one on the page only.
    - `title`, `note`: Its heading on the page, and a sentence below.
    - `png`: The bytes of the file.
    """

    file: str
    title: str
    png: bytes
    note: str = ""


def counts(images: Images, number: int) -> dict[str, int]:
    """Return how many of some images were measured, and how many could not be read.

    **Arguments:**

    - `images`, `number`: All images, and the number of those that could be read.
    """
    return {"images": number, "unreadable": len(images) - number}


class Report(NamedTuple):
    """A report of a model on labelled images.

    - `title`: The heading of the page.
    - `measures`: The object of `report.json`.
    - `shown`: The measures at the top of the page, by name, as text.
    - `parts`: Tables and pictures, in the order of the page.
    - `note`: A sentence below the heading.
    """

    title: str
    measures: Mapping[str, Any]
    shown: Mapping[str, str]
    parts: Sequence[Table | Picture]
    note: str = ""


def write_report(report: Report, folder: Path) -> None:
    """Write `report.json`, a file of every table and picture, and `report.html`.

    **Arguments:**

    - `report`: The report.
    - `folder`: Where to write; files of these names are replaced.

    **Raises:** an `OSError` that names the file that cannot be written.
    """
    with whole_file(folder / "report.json") as new:
        new.write_text(json.dumps(report.measures, indent=2) + "\n", encoding="utf-8")
    for part in report.parts:
        if isinstance(part, Picture) and part.file:
            with whole_file(folder / f"{part.file}.png") as new:
                new.write_bytes(part.png)
        elif isinstance(part, Table) and part.file:
            whole = whole_file(folder / f"{part.file}.csv")
            with whole as new, new.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerows([part.head, *map(_csv_row, part.rows)])
    write_page(report, folder / "report.html")


def _csv_row(row: Sequence[Any]) -> list[Any]:
    return [plain(cell) if isinstance(cell, str) else cell for cell in row]


def write_page(report: Report, path: Path) -> None:
    """Write a report as one HTML page, which contains its pictures.

    **Arguments:**

    - `report`, `path`: The report, and the file to write.

    **Raises:** an `OSError` that names the file.
    """
    with whole_file(path) as new:
        new.write_text(page(report), encoding="utf-8")


def page(report: Report) -> str:
    """Return a report as one HTML page."""
    title = _text(report.title)
    shown = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>"
        for name, value in report.shown.items()
    )
    parts = "\n".join(_section(part) for part in report.parts if part.title)
    note = _text(report.note)
    return _PAGE.format(title=title, note=note, style=_STYLE, shown=shown, parts=parts)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p>{note}</p>
<dl>{shown}</dl>
{parts}
</body>
</html>
"""

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
summary h2 { display: inline; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr));
  gap: .5rem; }
dl div { background: #f3f4f6; border-radius: .4rem; padding: .5rem .8rem; }
dt { font-size: .85rem; color: #555; }
dd { margin: 0; font-size: 1.2rem; font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; }
.table { overflow: auto; max-height: 30rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: .9rem; overflow-wrap: normal; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0;
  border-bottom: 1px solid #ddd; }
th { position: sticky; top: 0; background: #fff; }
td.number { text-align: right; }
"""


def _section(part: Table | Picture) -> str:
    heading = f"<h2>{_text(part.title)}</h2>"
    note = f"<p>{_text(part.note)}</p>" if part.note else ""
    if isinstance(part, Picture):
        data = base64.b64encode(part.png).decode()
        source = f"data:image/png;base64,{data}"
        image = f'<img alt="{_text(part.title)}" src="{source}">'
        return f"<section>{heading}{note}{image}</section>"
    body = f'{note}<div class="table">{_table(part)}</div>'
    if part.is_folded:
        return f"<details><summary>{heading}</summary>{body}</details>"
    return f"<section>{heading}{body}</section>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in table.head)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in table.rows)
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table>"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f'<td class="number">{value:.4f}</td>'
    if isinstance(value, int) and not isinstance(value, bool):
        return f'<td class="number">{value}</td>'
    return f"<td>{'' if value is None else _text(value)}</td>"


def _text(value: object) -> str:
    return html.escape(plain(value))
