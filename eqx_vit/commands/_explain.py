"""Draw what a model saw in an image.

Its attention, rollout and gradient-weighted relevance for the class it predicts, or for
another."""

import argparse
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from rich.console import Console

from ..data import ImageFiles
from ..plot import explain
from ..training import predict
from ._load import add_load_arguments, load_run_or_published


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_load_arguments(parser)
    add("image", type=Path, metavar="IMAGE", help="image file")
    add("--out", type=Path, default=Path("explained.png"), help="the PNG to write")
    add("--label", type=int, default=None, help="class to explain (default: predicted)")


def run(options: argparse.Namespace, console: Console) -> int:
    loaded = load_run_or_published(options.model, options.weights)
    read = ImageFiles([options.image], np.zeros(1, np.int32), loaded.classes).read(0)
    prepared = loaded.transform(read)
    image = jnp.asarray(prepared)
    logits = predict(loaded.model, loaded.state, image[None])[0]
    label = int(logits.argmax()) if options.label is None else options.label
    if not 0 <= label < len(loaded.classes):
        raise ValueError(
            f"`--label {label}` is no class; there are {len(loaded.classes)}, from 0."
        )
    centre: Any = loaded.transform.transform
    pixels = centre.undo(prepared)
    figure = explain(loaded.model, image, *loaded.arguments, pixels=pixels, label=label)
    figure.suptitle(f"{options.image.name}: {loaded.classes[label]}", fontsize=10)
    figure.savefig(options.out, dpi=150)
    console.print(f"See {options.out}", highlight=False, soft_wrap=True)
    return 0
