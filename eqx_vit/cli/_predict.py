"""Classify image files.

With a published model, whose weights are downloaded on first use, with the model of a
repository (`hf-hub:user/name`) or a folder, or with that of a run folder. A folder
stands for all images in it. (For a run on digits, files are made grey and, if dark on
light, inverted.)"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from ..data import image_files, ImageFiles, read_digit
from ..training.step import predict
from ._load import add_load_arguments, check_finite, load
from ._options import integer, path
from ._output import print_table, say, warn
from .pictures import draw_classes
from .runs import run_named


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
        help="draw the images and their classes",
    )


def run(options: argparse.Namespace, console: Console) -> int:
    loaded = load(options)
    paths = [file for name in options.images for file in image_files(name)]
    files = ImageFiles(paths, np.zeros(len(paths), np.int32), loaded.classes)
    model_run = run_named(options.model)
    is_digits = (
        model_run is not None and model_run.config["options"]["data"] == "digits"
    )
    rows, unreadable = [], 0
    for i, file in enumerate(paths):
        try:
            pixels = files.read(i)
            if is_digits:
                pixels = np.round(255 * read_digit(file)).astype(np.uint8)
        except Exception as error:  # Pillow raises many kinds for a broken file
            unreadable += 1
            warn(f"cannot read {file}: {error}")
            continue
        image = jnp.asarray(loaded.transform(pixels))
        logits = predict(loaded.model, image[None], loaded.state)[0]
        check_finite(np.asarray(logits)[None], [str(file)])
        probabilities = np.asarray(jax.nn.softmax(logits))
        best = np.argsort(-probabilities, kind="stable")[: options.top]
        classes = [(loaded.classes[i], float(probabilities[i])) for i in best]
        rows.append((file, pixels, classes))
    lines = [("image", "class", "probability")]
    for file, _, classes in rows:
        for k, (name, probability) in enumerate(classes):
            lines.append((str(file) if k == 0 else "", name, f"{probability:.1%}"))
    if not rows:
        raise ValueError("None of the images can be read.")
    print_table(console, lines)
    if "out" in options:
        draw_classes([(f.name, p, classes) for f, p, classes in rows], options.out)
        say(console, f"See {options.out}")
    return 2 if unreadable else 0
