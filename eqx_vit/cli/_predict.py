"""Classify image files.

With a published model, whose weights are downloaded on first use, with the model of a
repository (`hf-hub:user/name`) or a folder, or with that of a run folder. A folder
stands for all images in it. (For a run on digits, files are made grey and, if dark on
light, inverted.)"""

import argparse
import csv
import json
from collections.abc import Sequence

import jax
import numpy as np
from rich.console import Console

from ..data import image_files, ImageFiles, Pixels, read_digit
from ._load import (
    add_batch_size,
    add_load_arguments,
    add_workers,
    load,
    outputs,
)
from ._options import integer, path
from ._output import plain, print_table, say
from .metrics import above, sigmoid
from .pictures import draw_classes, small
from .runs import Loaded, run_named


# Programs do not open a picture of many more.
MOST_DRAWN = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_load_arguments(parser)
    add(
        "images",
        type=path,
        nargs="+",
        metavar="IMAGE",
        help="image files, or folders of them",
    )
    add("--top", type=integer(1), default=5, help="classes to print (default: 5)")
    add(
        "--out",
        type=path,
        metavar="PNG",
        default=argparse.SUPPRESS,
        help=f"draw the images and their classes, of the first {MOST_DRAWN} images",
    )
    add(
        "--format",
        choices=("table", "json", "csv"),
        default="table",
        help="print a table, or at once, batch by batch, JSON lines of one object an "
        "image, or CSV of one row an image and class (default: table)",
    )
    add_batch_size(parser)
    add_workers(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    loaded = load(options)
    if loaded.label_kind != "class" and "top" in options.given:
        raise ValueError(
            f"`--top {options.top}` is for one class an image, and this model is for "
            f"labels of the kind {loaded.label_kind!r}; leave it out."
        )
    paths = [file for name in options.images for file in image_files(name)]
    model_run = run_named(options.model)
    is_digits = (
        model_run is not None and model_run.config["options"]["data"] == "digits"
    )
    kind = _DigitFiles if is_digits else ImageFiles
    files = kind(paths, np.zeros(len(paths), np.int32), loaded.classes)
    is_number = loaded.label_kind == "numbers"
    head = ("number", "value") if is_number else ("class", "probability")
    writer = _WRITERS[options.format](console, head)
    # (A bar between lines that are printed meanwhile would be in their way.)
    streams = options.format != "table"
    is_in_the_way = False if console.is_terminal else None
    bar = Console(stderr=True, force_terminal=is_in_the_way) if streams else console
    count, drawn = 0, []
    for batch in outputs(
        loaded,
        files,
        "predicting",
        bar,
        batch_size=options.batch_size,
        workers=options.workers,
    ):
        for row, place in zip(batch.rows, batch.places.tolist()):
            found = answers(loaded, row, options.top)
            writer.add(str(paths[place]), found)
            if "out" in options and count < MOST_DRAWN:
                drawn.append((place, found or [("(none)", 0.0)]))
            count += 1
        console.file.flush()
    writer.close()
    if drawn:
        rows = [(paths[i].name, small(files.read(i)), found) for i, found in drawn]
        draw_classes(rows, options.out, are_numbers=is_number)
        more = f" (the first {MOST_DRAWN} of {count} images)"
        say(bar, f"See {options.out}{more if count > MOST_DRAWN else ''}")
    return 2 if count < len(paths) else 0


class _DigitFiles(ImageFiles):
    """Image files as the built-in digits are."""

    def read(self, index: int) -> Pixels:
        return np.round(255 * read_digit(self.paths[index])).astype(np.uint8)


class _Table:
    """Aligned columns, which are printed when all of them are known."""

    def __init__(self, console: Console, head: tuple[str, str]):
        self.console, self.is_number = console, head[1] == "value"
        self.lines: list[tuple[str, str, str]] = [("image", *head)]

    def add(self, image: str, found: Sequence[tuple[str, float]]) -> None:
        texts = [(n, f"{v:.4g}" if self.is_number else f"{v:.1%}") for n, v in found]
        for k, cells in enumerate(texts or [("(none)", "")]):
            self.lines.append((image if k == 0 else "", *cells))

    def close(self) -> None:
        print_table(self.console, self.lines)


class _JsonLines:
    """An object an image, in a line."""

    def __init__(self, console: Console, head: tuple[str, str]):
        self.file, self.head = console.file, head
        self.name = "numbers" if head[1] == "value" else "classes"

    def add(self, image: str, found: Sequence[tuple[str, float]]) -> None:
        classes = [dict(zip(self.head, pair)) for pair in found]
        self.file.write(json.dumps({"image": image, self.name: classes}) + "\n")

    def close(self) -> None:
        pass


class _Csv:
    """A row for every image and class; one without a class for an image of none."""

    def __init__(self, console: Console, head: tuple[str, str]):
        self.writer = csv.writer(console.file, lineterminator="\n")
        self.writer.writerow(("image", *head))

    def add(self, image: str, found: Sequence[tuple[str, float]]) -> None:
        for name, value in found or [("", "")]:
            self.writer.writerow((plain(image), plain(name), value))

    def close(self) -> None:
        pass


_WRITERS = {"table": _Table, "json": _JsonLines, "csv": _Csv}


def answers(loaded: Loaded, outputs: np.ndarray, top: int) -> list[tuple[str, float]]:
    """Return what a model says of an image: the most probable classes; all classes
    above their threshold, where there is any number of them; or numbers.

    **Arguments:**

    - `loaded`: The model.
    - `outputs`: Its outputs for the image.
    - `top`: How many of the most probable classes.
    """
    if loaded.label_kind == "numbers":
        return list(zip(loaded.classes, outputs.tolist()))
    if loaded.label_kind == "classes":
        values, thresholds = sigmoid(outputs), loaded.thresholds
        assert thresholds is not None
        chosen = above(values.tolist(), thresholds.tolist())
    else:
        values = np.asarray(jax.nn.softmax(outputs))
        chosen = np.argsort(-values, kind="stable")[:top].tolist()
    return [(loaded.classes[place], float(values[place])) for place in chosen]
