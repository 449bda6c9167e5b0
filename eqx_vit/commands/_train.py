"""Train any of the seventeen on images of your own.

Without arguments it trains a tiny ViT on 4,000 handwritten digits and tests it on 1,000
others. It leaves a run folder with configuration, weights, metrics, checkpoints and
pictures. SIGTERM and Ctrl-C save and stop; `--resume` goes on."""

import argparse
import ast
import dataclasses
import itertools
import time
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from ..data import open_data, pixel_statistics, Splits
from ..recipes import PRECISIONS, Recipe, recipe, recipes, REMATERIALISATIONS
from ..runs import Architecture, as_config, fit, Run, tiny_models


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """What says which images to read."""
    parser.add_argument(
        "--data",
        default="digits",
        metavar="SOURCE",
        help="folder of one sub-folder per class, CSV file, folder of MNIST's files, "
        "or name of a Hugging Face data set (default: digits, which are built in)",
    )
    add_holdout_arguments(parser)


def add_holdout_arguments(parser: argparse.ArgumentParser) -> None:
    """How images are divided and read."""
    parser.add_argument(
        "--holdout",
        type=float,
        default=0.1,
        help="share held out for the test where the data has no split (default: 0.1)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        help="processes that load images (default: 0, threads)",
    )


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """A recipe, and every field of it."""
    parser.add_argument(
        "--recipe",
        default="default",
        metavar="NAME",
        help=f"{', '.join(recipes())}, or a TOML file (default: default); what follows "
        "changes it",
    )
    choices = {
        "precision": PRECISIONS,
        "remat": REMATERIALISATIONS,
        "distillation": ("hard", "soft"),
    }
    for field in dataclasses.fields(Recipe):
        if field.name == "expected":
            continue
        many = field.type == tuple[str, ...]
        kind = {int: int, float: float, int | None: int}.get(field.type, str)
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            type=kind,
            nargs="*" if many else None,
            choices=choices.get(field.name),
            default=argparse.SUPPRESS,
            help=field.metadata["help"],
        )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """A model, its size and settings."""
    parser.add_argument(
        "--model",
        default="ViT",
        metavar="NAME",
        help="published model (`eqx-vit models`), or a class for a tiny size of it: "
        f"{', '.join(tiny_models())} (default: ViT)",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        default=argparse.SUPPRESS,
        metavar="PIXELS",
        help="side that images are resized to (default: the model's)",
    )
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="SETTING=VALUE",
        help="further arguments of the model's class, as `depth=4 distilled=True`",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        default=argparse.SUPPRESS,
        help="run folder (default: the first free one of runs/digits, digits-2, ...)",
    )
    add(
        "--resume",
        type=Path,
        metavar="FOLDER",
        default=argparse.SUPPRESS,
        help="go on with the run of this folder, all else as it was",
    )
    add_data_arguments(parser)
    add_model_arguments(parser)
    add("--pretrained", action="store_true", help="begin with the published weights")
    add(
        "--weights",
        metavar="FILE",
        default=None,
        help="begin with the published weights in this file",
    )
    add(
        "--teacher-weights",
        metavar="FILE",
        default=None,
        help="file with the weights of a published teacher, instead of a download",
    )
    add_recipe_arguments(parser)
    add("--seed", type=int, default=0, help="of weights, order and augmentation")
    add("--keep", type=int, default=2, help="checkpoints to keep besides the best one")
    add(
        "--save-every",
        type=int,
        default=0,
        metavar="STEPS",
        help="steps between checkpoints, besides one an epoch (default: none)",
    )
    add(
        "--watch",
        type=int,
        default=10,
        metavar="STEPS",
        help="steps between looks at the loss, each of which waits for the device",
    )
    add(
        "--data-parallel",
        type=int,
        default=None,
        metavar="DEVICES",
        help="copies of the model, among which a batch is divided",
    )
    add(
        "--fsdp",
        type=int,
        default=1,
        metavar="DEVICES",
        help="devices that share the parameters of a copy (default: 1)",
    )
    add(
        "--distributed",
        action="store_true",
        help="several hosts: run the same command on each (jax.distributed)",
    )


def run(options: argparse.Namespace, console: Console) -> int:
    if options.distributed:
        jax.distributed.initialize()
    if "resume" in options:
        run = Run.open(options.resume)
        saved = run.config["options"]
        splits = open_data(saved["data"], saved["holdout"])
    else:
        splits = open_data(options.data, options.holdout)
        run = start(options, splits, console)
    started = time.monotonic()
    status = fit(run, splits, console, resume="resume" in options)
    rows = run.metrics()
    if jax.process_index() > 0 or not rows:
        return status
    console.print(
        f"Test accuracy {float(rows[-1]['test_accuracy']):.1%} after "
        f"{time.monotonic() - started:.0f} s."
    )
    run.draw(splits.test)
    console.print(
        f"See {run.folder}/curves.png and {run.folder}/predictions.png; then try:\n"
        f"  eqx-vit predict {run.folder} IMAGE...",
        highlight=False,
        soft_wrap=True,
    )
    return status


def start(options: argparse.Namespace, splits: Splits, console: Console) -> Run:
    """A new run folder, once all settings are known to be legal."""
    wanted = recipe_of(options)
    images = splits.train
    if not 1 <= wanted.batch_size <= len(images):
        raise ValueError(
            f"`--batch-size {wanted.batch_size}` must be between 1 and the "
            f"{len(images)} training images."
        )
    architecture = architecture_of(options, splits, wanted.stochastic_depth)
    record = architecture.record
    if record is not None and (options.pretrained or options.weights):
        mean, std = record.mean, record.std
    else:
        mean, std = pixel_statistics(images, architecture.channels)
    # A wrong setting raises here, before there is a folder.
    model, _ = architecture.shapes()
    wanted.optimizer(model, 1)
    config = as_config(architecture, wanted) | {
        "classes": images.classes,
        "mean": mean,
        "std": std,
        "crop": 1.0 if record is None else record.crop,
        "options": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in vars(options).items()
            if name not in ("command", "out")
        },
    }
    folder = vars(options).get("out") or _free_folder(Path(options.data).stem)
    if jax.process_index() > 0:
        return Run(folder, config)
    run = Run.create(folder, config)
    console.print(f"{len(images)} images to train on -> {folder}/")
    return run


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The recipe of the options, with what they change."""
    names = {field.name for field in dataclasses.fields(Recipe)}
    changes = {name: value for name, value in vars(options).items() if name in names}
    return recipe(options.recipe, **changes)


def architecture_of(
    options: argparse.Namespace, splits: Splits, stochastic_depth: float = 0.0
) -> Architecture:
    """The model of the options, for some data."""
    side = vars(options).get("image_size")
    first = next(_readable(splits.train))
    return Architecture.of(
        options.model,
        len(splits.train.classes),
        side and (side, side),
        first.shape[-1],
        dict(_setting(text) for text in options.set),
        stochastic_depth,
    )


def _readable(images: Any) -> Any:
    for i in range(len(images)):
        try:
            yield images.read(i)
        except Exception:  # the training reports it
            continue
    raise ValueError("None of the images can be read.")


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"`--set {text}` must look like `depth=4`.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _free_folder(name: str) -> Path:
    names = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
    return next(
        folder for folder in map(Path("runs").joinpath, names) if not folder.exists()
    )
