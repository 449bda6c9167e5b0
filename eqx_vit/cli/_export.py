"""Write a model as a file that JAX, or a runtime of ONNX, runs without this package.

It takes batches of prepared images of any number, see `eqx_vit.export` and
`eqx_vit.export_onnx`."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from ..deploy.export import export
from ..deploy.export_onnx import export_onnx
from ..layers import pair
from ..pretrained.files import whole_file
from ._load import add_load_arguments, load
from ._options import path
from ._output import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_load_arguments(parser)
    add(
        "--out",
        type=path,
        help="the file to write (default: model.jax, or model.onnx)",
    )
    add(
        "--format",
        choices=("jax", "onnx"),
        help="of the file (default: onnx if its name ends in .onnx, else jax)",
    )
    add(
        "--platforms",
        nargs="+",
        choices=("cpu", "cuda", "rocm", "tpu"),
        help="platforms to compile for, of a file for JAX (default: the present one)",
    )


def run(options: argparse.Namespace, console: Console) -> int:
    format = options.format
    if format is None:
        is_onnx = options.out is not None and options.out.suffix == ".onnx"
        format = "onnx" if is_onnx else "jax"
    if format == "onnx" and options.platforms:
        raise ValueError(
            "`--platforms` is for files that JAX runs. Leave it out: an ONNX file runs "
            "on any platform. Or give `--format jax`."
        )
    out = options.out or Path(f"model.{format}")
    loaded = load(options, headless=True)
    centre: Any = loaded.transform.transform
    arguments: Any = (centre.image_size, loaded.state)
    channels = loaded.transform.channels
    if format == "onnx":
        export_onnx(loaded.model, out, *arguments, channels=channels)
        size = "batch,{},{},{}".format(*pair(centre.image_size), channels)
        takes = f"images float32[{size}]"
    else:
        exported = export(
            loaded.model, *arguments, channels=channels, platforms=options.platforms
        )
        with whole_file(out) as temporary:
            temporary.write_bytes(exported.serialize())
        takes = f"{exported.in_avals[0]} -> {exported.out_avals[0]}"
    say(
        console,
        f"See {out}: {takes}, of pixels less {centre.mean}, divided by {centre.std}",
    )
    return 0
