"""Show the modules of a model.

With the shape of what each returns, its parameters, and the operations of its products
for one image."""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
from rich.console import Console

from ..runs import Architecture, Run
from ..summary import summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help="published model, class, or run folder")
    add("--depth", type=int, default=2, help="levels of modules (default: 2)")
    add(
        "--image-size",
        type=int,
        default=argparse.SUPPRESS,
        metavar="PIXELS",
        help="another side of the image",
    )


def run(options: argparse.Namespace, console: Console) -> int:
    if Path(options.model).is_dir():
        architecture = Run.open(Path(options.model)).architecture
    else:
        side = vars(options).get("image_size")
        size = side and (side, side)
        architecture = Architecture.of(options.model, 10, size, 3, {})
        if architecture.record is not None:
            classes = architecture.record.num_classes
            architecture = Architecture.of(options.model, classes, size, 3, {})
    shape = (*architecture.image_size, architecture.channels)
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    table = summary(*architecture.shapes(), image, depth=options.depth)
    console.print(str(table), highlight=False, soft_wrap=True)
    return 0
