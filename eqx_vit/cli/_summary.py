"""Show the modules of a model.

With the shape of what each returns, its parameters, and the operations of its products
for one image."""

import argparse

import jax
import jax.numpy as jnp
from rich.console import Console

from ..interpret.summary import summary
from ..pretrained import Architecture
from ._options import add_image_size, integer, text
from ._output import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "model",
        type=text,
        metavar="MODEL",
        help="published model, class, or run folder",
    )
    add(
        "--depth",
        type=integer(0),
        default=2,
        help="levels of modules (default: 2)",
    )
    add_image_size(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    architecture = Architecture.named(options.model)
    side = vars(options).get("image_size")
    architecture = architecture.changed(None, side, None, {})
    shape = (*architecture.image_size, architecture.channels)
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    model, state = architecture.shapes()
    table = summary(model, image, state, depth=options.depth)
    say(console, str(table))
    return 0
