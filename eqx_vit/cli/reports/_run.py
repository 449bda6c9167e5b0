"""The pictures and the report that a training run leaves behind."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from rich.console import Console

from ...data import Images
from .._load import Outputs, outputs
from ..metrics import NAMES
from ..pictures import draw_curves, draw_predictions, titles
from ..runs import Loaded, Run
from ._evaluation import evaluation
from ._report import Picture, Table, write_page


def report_run(
    run: Run,
    images: Images,
    console: Console,
    *,
    is_whole: bool = True,
    most: int = 300,
) -> list[str]:
    """Write `curves.png`, `predictions.png` and `report.html` of the saved weights, and
    return the names of those that are written.

    **Arguments:**

    - `run`: The run.
    - `images`: The images that it is tested on.
    - `console`: Where to show progress.
    - `is_whole`: Whether to measure all images for the report; else only the pictures
        are drawn. (This and the next are keyword only arguments.)
    - `most`: How many images `predictions.png` is chosen from, evenly spaced.
    """
    names = []
    if rows := run.metrics():
        draw_curves(rows, run.measure, NAMES[run.measure], run.folder / "curves.png")
        names.append("curves.png")
    every = max(1, len(images) // most)
    if not is_whole:
        images, every = images.subset(np.arange(0, len(images), every)), 1
    classes, kind = run.config["classes"], run.label_kind
    trained, thresholds = run.load_model(), run.thresholds()
    loaded = Loaded(*trained, tuple(classes), {}, run.centre, kind, thresholds)
    workers = run.config["options"]["workers"] if is_whole else 0
    # (The training has warned of images that cannot be read.)
    batches = outputs(loaded, images, "report", console, workers=workers, warns=False)
    kept: list[Outputs] = []
    about = {"model": run.architecture.name, "data": run.config["options"]["data"]}
    evaluated = evaluation(_keeping(batches, every, kept), loaded, images, about)
    _draw_predictions(run, images, Outputs(*map(np.concatenate, zip(*kept))))
    names.append("predictions.png")
    if is_whole:
        report = evaluated.report(f"{run.folder.name}: {' on '.join(about.values())}")
        note = f"The saved weights of the run, on its {len(images):,} test images."
        parts = [*_curves(run), *report.parts, *_settings(run)]
        whole = report._replace(note=note, parts=parts)
        write_page(whole, run.folder / "report.html")
        names.append("report.html")
    return names


def _keeping(
    batches: Iterable[Outputs], every: int, kept: list[Outputs]
) -> Iterator[Outputs]:
    """The batches, of which some rows are kept."""
    for batch in batches:
        chosen = batch.places % every == 0
        kept.append(Outputs(*(array[chosen] for array in batch)))
        yield batch


def _draw_predictions(run: Run, images: Images, outputs: Outputs) -> None:
    classes, path = run.config["classes"], run.folder / "predictions.png"
    rows, labels, places = outputs
    names, right = titles(run.label_kind, rows, labels, classes, run.thresholds())
    # (As many as the picture may have of each.)
    drawn = [*np.flatnonzero(~right)[:16], *np.flatnonzero(right)[:32]]
    pixels = np.stack([run.centre(images.read(int(places[i]))) for i in drawn])
    mean, std = (np.float32(run.config[name]) for name in ("mean", "std"))
    pixels = np.clip(pixels * std + mean, 0, 1)
    draw_predictions(pixels, [names[i] for i in drawn], right[drawn], path)


def _curves(run: Run) -> list[Picture | Table]:
    rows = run.metrics()
    if not rows:
        return []
    curves = Picture("", "Training", (run.folder / "curves.png").read_bytes())
    cells = [[_shortened(value) for value in row.values()] for row in rows]
    return [curves, Table("", "Epochs", list(rows[0]), cells, "", True)]


def _settings(run: Run) -> list[Table]:
    config = run.config
    options = {n: v for n, v in config["options"].items() if n not in config["recipe"]}
    model = {n: v for n, v in config["model"].items() if n != "settings"}
    model |= config["model"]["settings"]
    settings = {"Model": model, "Recipe": config["recipe"], "Options": options}
    return [
        Table("", title, ("setting", "value"), _as_rows(values), "", True)
        for title, values in settings.items()
    ]


def _as_rows(settings: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, str(value))
        for name, value in settings.items()
        if value is not None and value != []
    ]


def _shortened(text: str) -> str:
    """A number with six digits."""
    try:
        return f"{float(text):.6g}"
    except ValueError:
        return text
