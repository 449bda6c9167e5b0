"""Parts of pages that are made when the site is built: tables of the zoo, options of
the command line, fields of recipes, speeds. A page has them where it has a comment
such as `make: models` or `make: options train`."""

import csv
import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import eqx_vit
from eqx_vit.cli import parser


DOCS = Path(__file__).parent


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fills in what is made. The README, which is the first page, names pages by their
    paths in the repository."""
    if page.file.src_uri == "index.md":
        markdown = re.sub(r"\]\(docs/", "](", README.read_text())
    return re.sub(r"<!-- make: (\w+) ?([\w ]*) -->", _made, markdown)


README = DOCS.parent / "README.md"


def _made(match: re.Match) -> str:
    return PARTS[match[1]](*match[2].split())


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _csv(name: str) -> list[dict[str, str]]:
    with (DOCS / "benchmarks" / name).open() as file:
        return list(csv.DictReader(file))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _weights(record: Any) -> tuple[str, str]:
    """Where the weights are, and whether they are downloaded without a browser."""
    source = record.source
    if source is None:
        return "none", "no"
    if not source.startswith("https://"):
        return f"[hub](https://huggingface.co/{source})", "yes"
    if record.direct:
        return f"[file]({source})", "yes"
    return f"[page]({source})", "by hand"


def models() -> str:
    """All published checkpoints, in a table that is sorted and filtered in the page."""
    sizes = {row["name"]: row for row in _csv("sizes.csv")}
    speeds = {
        row["size"]: f"{_rate(row, 'ours'):.1f}"
        for row in _csv("speed.csv")
        if row["mode"] == "inference"
    }
    rows = []
    for name, record in eqx_vit.zoo.items():
        size = name.partition(".")[0]
        source, automatic = _weights(record)
        label = f"[`{name}`]({record.paper})" if record.paper else f"`{name}`"
        model = record.model
        rows.append(
            [
                label,
                _number(record.top1),
                sizes[size]["parameters_m"],
                sizes[size]["gflops"],
                speeds.get(size, ""),
                f"{record.image_size[0]}",
                f"{record.num_classes}",
                record.licence or "",
                automatic,
                source,
                f"[{model.__name__}](api/models/{_page(model)}.md)",
            ]
        )
    head = ["name", "top-1", "M parameters", "GFLOP", "images/s", "image", "classes"]
    head += ["licence", "downloads itself", "weights", "class"]
    table = _table(head, rows)
    return f'<div class="models" markdown>\n\n{table}\n\n</div>'


def published(name: str) -> str:
    """The published names of one architecture."""
    model = getattr(eqx_vit, name)
    rows = []
    for record in eqx_vit.zoo.values():
        if record.model is model:
            source, automatic = _weights(record)
            top1, licence = _number(record.top1), record.licence or "not stated"
            image = str(record.image_size[0])
            row = [f"`{record.name}`", image, top1, licence, source, automatic]
            rows.append(row)
    if not rows:
        return "No weights are published."
    head = ("name", "image", "top-1 (%)", "licence", "weights", "downloads itself")
    table = _table(head, rows)
    text = (
        "Top-1 is the published accuracy on ImageNet-1k. `create_model(name, "
        "pretrained=True, key=key)` downloads the weights that download themselves; "
        'the others are given as a file, `weights="FILE"`.\n\n'
    )
    if len(rows) > 20:
        table = f'<div class="models" markdown>\n\n{table}\n\n</div>'
        title = f"<summary>{len(rows)} checkpoints</summary>"
        table = f"<details markdown>{title}\n\n{table}\n\n</details>"
    return text + table


def _page(model: type) -> str:
    return model.__module__.rpartition(".")[2]


def options(name: str) -> str:
    """The options of a command, from its parser."""
    command = _commands()[name]
    rows = []
    for action in command._actions:
        if action.dest in ("help", "debug") or action.dest in _FIELDS:
            continue
        names = ", ".join(f"`{text}`" for text in action.option_strings)
        if action.choices:
            value = ", ".join(f"`{choice}`" for choice in action.choices)
        elif action.nargs == 0:
            value = ""
        else:
            value = f"`{action.metavar or action.dest.upper()}`"
        text = (action.help or "").replace("%(default)s", str(action.default))
        text, _, default = text.partition(" (default: ")
        if not default and isinstance(action.default, int) and action.nargs != 0:
            default = f"{action.default})"
        rows.append([names or value, value if names else "", text, default[:-1]])
    more = ""
    if any(action.dest in _FIELDS for action in command._actions):
        more = "\n\nand every [field of a recipe](../training.md#fields)."
    return _table(("option", "value", "meaning", "default"), rows) + more


def _commands() -> Mapping[str, Any]:
    (found,) = (a.choices for a in parser()._actions if isinstance(a.choices, dict))
    return found


def fields() -> str:
    """The fields of a recipe: meaning, what is legal, default."""
    rows = []
    for field in dataclasses.fields(eqx_vit.Recipe):
        if field.name == "expected":
            continue
        legal = field.metadata["legal"]
        if isinstance(legal, tuple):
            legal = ", ".join(f"`{choice}`" for choice in legal)
        default = {None: "none", (): "none"}.get(field.default, f"`{field.default}`")
        rows.append(
            [f"`{field.name}`", field.metadata["help"], str(legal or ""), default]
        )
    return _table(("field", "meaning", "legal", "default"), rows)


_FIELDS = {field.name for field in dataclasses.fields(eqx_vit.Recipe)}


def recipes() -> str:
    """The fields in which the built-in recipes differ from the default."""
    found = {name: eqx_vit.recipe(name) for name in eqx_vit.recipes()}
    rows = []
    for field in dataclasses.fields(eqx_vit.Recipe):
        values = [getattr(recipe, field.name) for recipe in found.values()]
        if len(set(values)) > 1 and field.name != "expected":
            rows.append([f"`{field.name}`", *(f"{value}" for value in values)])
    return _table(("field", *(f"`{name}`" for name in found)), rows)


def _rate(row: Mapping[str, str], who: str) -> float:
    return 1e3 * int(row["batch"]) / float(row[f"{who}_ms"])


def _rates(row: Mapping[str, str]) -> list[str]:
    """Images a second here and in PyTorch, and the two quotients."""
    cells = []
    for who in ("ours", "eager", "compiled"):
        known = row[f"{who}_ms"]
        cells.append(
            f"{_rate(row, who):,.{1 if _rate(row, who) < 100 else 0}f}" if known else ""
        )
    for who in ("eager", "compiled"):
        cells.append(_speed_up(row, who) if row[f"{who}_ms"] else "")
    return cells


def _speed_up(row: Mapping[str, str], who: str) -> str:
    return f"{float(row[f'{who}_ms']) / float(row['ours_ms']):.2f}"


def speed(file: str, mode: str) -> str:
    """Images a second of one run, here and in PyTorch, and how many times as many."""
    rows = [r for r in _csv(f"{file}.csv") if r["mode"] == mode]
    head = ["model", "size", "PyTorch code of", "here, images/s", "eager", "compiled"]
    head += ["speed-up on eager", "on compiled"]
    return _table(
        head, ([r["model"], f"`{r['size']}`", r["package"], *_rates(r)] for r in rows)
    )


def _seconds(text: str) -> str:
    if text in ("", "inf"):
        return text and "over 300 s"
    return f"{float(text):.0f} s"


def mean(file: str, mode: str, who: str) -> str:
    """The geometric mean of the speed-ups of all models, each counted once."""
    rows = [
        r for r in _csv(f"{file}.csv") if r["mode"] == mode and r["model"] != "ViT-B"
    ]
    logs = [math.log(float(_speed_up(r, who))) for r in rows if r[f"{who}_ms"]]
    return f"{math.exp(sum(logs) / len(logs)):.2f}"


def compiling(file: str) -> str:
    """Seconds until the first result, here and in PyTorch compiled."""
    head = ("model", "inference", "`torch.compile`", "training", "`torch.compile`")
    rows: dict[str, list[str]] = {}
    for row in _csv(f"{file}.csv"):
        cells = [_seconds(row[f"{who}_first_s"]) for who in ("ours", "compiled")]
        rows.setdefault(row["model"], [row["model"]]).extend(cells)
    return _table(head, rows.values())


def kernels() -> str:
    """The bytes that a training step moves on a GPU, by kind of kernel."""
    head = ("model", "kernels", "products", "attention", "convolutions")
    rows = (list(row.values()) for row in _csv("kernels.csv"))
    return _table(
        (*head, "reductions", "other"), ([f"`{name}`", *rest] for name, *rest in rows)
    )


def backbones() -> str:
    """The maps of one published size of each architecture."""
    rows = _csv("stages.csv")
    head = ("published size", "features", "strides", "channels")
    return _table(
        head, ([f"`{name}`", *rest] for name, *rest in map(dict.values, rows))
    )


PARTS: Mapping[str, Callable[..., str]] = {
    "backbones": backbones,
    "models": models,
    "published": published,
    "options": options,
    "fields": fields,
    "recipes": recipes,
    "speed": speed,
    "compiling": compiling,
    "kernels": kernels,
    "mean": mean,
}
