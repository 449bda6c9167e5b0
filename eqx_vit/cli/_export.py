"""Write a model as a file that JAX runs without this package.

It takes batches of prepared images of any number, see `eqx_vit.export`."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from ..deploy.export import export
from ..pretrained.files import whole_file
from ._load import add_load_arguments, load
from ._options import path
from ._output import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_load_arguments(parser)
    add("--out", type=path, default=Path("model.jax"), help="the file to write")
    add(
        "--platforms",
        nargs="+",
        choices=("cpu", "cuda", "rocm", "tpu"),
        help="platforms to compile for (default: the present one)",
    )


def run(options: argparse.Namespace, console: Console) -> int:
    loaded = load(options, headless=True)
    centre: Any = loaded.transform.transform
    exported = export(
        loaded.model,
        centre.image_size,
        loaded.state,
        channels=loaded.transform.channels,
        platforms=options.platforms,
    )
    with whole_file(options.out) as temporary:
        temporary.write_bytes(exported.serialize())
    say(
        console,
        f"See {options.out}: {exported.in_avals[0]} -> {exported.out_avals[0]}, of "
        f"pixels less {centre.mean}, divided by {centre.std}",
    )
    return 0
