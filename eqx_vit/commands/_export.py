"""Write a model as a file that JAX runs without this package.

It takes batches of prepared images of any number, see `eqx_vit.export`."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from ..exporting import export
from ._load import add_load_arguments, load_run_or_published


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_load_arguments(parser)
    add("--out", type=Path, default=Path("model.jax"), help="the file to write")
    add(
        "--platforms",
        nargs="*",
        metavar="NAME",
        help="cpu, cuda, tpu, what it is to run on (default: what is here)",
    )


def run(options: argparse.Namespace, console: Console) -> int:
    loaded = load_run_or_published(options.model, options.weights, headless=True)
    centre: Any = loaded.transform.transform
    exported = export(
        loaded.model,
        loaded.state,
        centre.image_size,
        channels=loaded.transform.channels,
        platforms=options.platforms,
    )
    options.out.write_bytes(exported.serialize())
    console.print(
        f"See {options.out}: {exported.in_avals[0]} -> {exported.out_avals[0]}, "
        f"of pixels less {centre.mean}, divided by {centre.std}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return 0
