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
from .metrics import above, sigmoid
from .pictures import draw_classes
from .runs import Loaded, run_named


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
        classes = answers(loaded, np.asarray(logits), options.top)
        rows.append((file, pixels, classes))
    is_number = loaded.label_kind == "numbers"
    head = ("number", "value") if is_number else ("class", "probability")
    lines = [("image", *head)]
    for file, _, classes in rows:
        for k, (name, value) in enumerate(classes or [("(none)", 0.0)]):
            said = f"{value:.4g}" if is_number else f"{value:.1%}"
            lines.append((str(file) if k == 0 else "", name, said if classes else ""))
    if not rows:
        raise ValueError("None of the images can be read.")
    print_table(console, lines)
    if "out" in options:
        draw_classes([(f.name, p, classes) for f, p, classes in rows], options.out)
        say(console, f"See {options.out}")
    return 2 if unreadable else 0


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
