"""Classify image files.

With a published model, whose weights are downloaded at the first time, or with the
model of a run folder. (For a run on digits files are made grey and, if dark on light,
inverted.)"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Column, Table

from ..data import ImageFiles, read_digit
from ..pictures import draw_classes
from ..runs import Run
from ..training import predict
from ._load import add_load_arguments, load_run_or_published


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_load_arguments(parser)
    add("images", type=Path, nargs="+", metavar="IMAGE", help="image files")
    add("--top", type=int, default=5, help="classes to print (default: 5)")
    add(
        "--out",
        type=Path,
        metavar="PNG",
        default=argparse.SUPPRESS,
        help="draw the images and their classes",
    )


def run(options: argparse.Namespace, console: Console) -> int:
    loaded = load_run_or_published(options.model, options.weights)
    files = ImageFiles(options.images, np.zeros(len(options.images)), loaded.classes)
    is_digits = (
        Path(options.model).is_dir()
        and Run.open(Path(options.model)).config["options"]["data"] == "digits"
    )
    table = Table(Column("image", overflow="fold"), "class", "probability", box=None)
    rows = []
    for i, path in enumerate(options.images):
        try:
            pixels = files.read(i)
            if is_digits:
                pixels = np.round(255 * read_digit(path)).astype(np.uint8)
        except (OSError, Image.DecompressionBombError) as error:
            console.print(f"error: {path}: {error}", style="red", markup=False)
            continue
        image = jnp.asarray(loaded.transform(pixels))
        logits = predict(loaded.model, loaded.state, image[None])[0]
        probabilities = np.asarray(jax.nn.softmax(logits))
        best = np.argsort(-probabilities)[: max(1, options.top)]
        classes = [(loaded.classes[i], probabilities[i]) for i in best]
        rows.append((path.name, pixels, classes))
        for k, (name, probability) in enumerate(classes):
            table.add_row(str(path) if k == 0 else "", name, f"{probability:.1%}")
    console.print(table)
    if rows and "out" in options:
        draw_classes(rows, options.out)
        console.print(f"See {options.out}", highlight=False, soft_wrap=True)
    return 0 if len(rows) == len(options.images) else 2
