"""Draw what a model saw in an image.

Its attention, rollout and gradient-weighted relevance for the class it predicts, or for
another."""

import argparse
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from rich.console import Console

from ..data import ImageFiles, match_classes
from ..interpret.plot import explain
from ..pretrained.files import whole_file
from ..training.step import predict
from ._load import add_load_arguments, check_finite, load, Loaded
from ._options import path, text
from ._output import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_load_arguments(parser)
    add("image", type=path, metavar="IMAGE", help="image file")
    add("--out", type=path, default=Path("explained.png"), help="the PNG to write")
    add(
        "--label",
        type=text,
        default=None,
        metavar="CLASS",
        help="class to explain, its name or its index from 0 (default: predicted)",
    )


def run(options: argparse.Namespace, console: Console) -> int:
    loaded = load(options)
    if options.image.is_dir():
        raise ValueError(f"`{options.image}` is a folder; give an image file.")
    files = ImageFiles([options.image], np.zeros(1, np.int32), loaded.classes)
    prepared = loaded.transform(files.read(0))
    image = jnp.asarray(prepared)
    logits = predict(loaded.model, image[None], loaded.state)
    check_finite(np.asarray(logits), [str(options.image)])
    label = int(logits[0].argmax())
    if options.label is not None:
        label = _place(options.label, loaded)
    centre: Any = loaded.transform.transform
    pixels = centre.undo(prepared)
    figure = explain(loaded.model, image, loaded.state, pixels=pixels, label=label)
    title = f"{options.image.name}: {loaded.classes[label]}"
    figure.suptitle(title, fontsize=10, parse_math=False)
    with whole_file(options.out) as temporary:
        figure.savefig(temporary, dpi=150)
    say(console, f"See {options.out}")
    return 0


def _place(label: str, loaded: Loaded) -> int:
    """The place of a class that is given by its name or by its index."""
    number = int(label) if label.isdecimal() else -1
    if label not in loaded.classes and 0 <= number < len(loaded.classes):
        return number
    (place,) = match_classes(
        [label], loaded.classes, loaded.aliases, what=f"`--label {label}`"
    )
    return int(place)
