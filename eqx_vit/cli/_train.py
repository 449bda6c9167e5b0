"""Train a vision transformer on images of your own.

Without arguments it trains a tiny ViT on 4,000 handwritten digits and tests it on 1,000
others. It leaves a run folder with configuration, weights, metrics, checkpoints and
pictures. SIGTERM and Ctrl-C save and stop; `--resume` goes on. A TOML file can hold the
options, and a run folder starts its run again: `eqx-vit train run.toml`."""

import argparse
import dataclasses
import hashlib
import itertools
import re
import signal
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
from rich.console import Console

from ..data import (
    classes_of,
    Images,
    listed,
    match_classes,
    pixel_statistics,
    Splits,
)
from ..pretrained import Architecture, fetch, run_config, run_weights
from ..pretrained.create import record as record_of
from ..pretrained.hub import commit_of
from ..pretrained.publish import timm_config
from ..pretrained.repository import is_repository
from ..pretrained.zoo import zoo
from ..training.losses import LOSSES
from ..training.recipe import Recipe
from ._data import add_data_arguments, add_split_arguments, opened
from ._options import integer, path, Several, text
from ._output import say, warn
from ._recipe import (
    add_model_arguments,
    add_recipe_arguments,
    architecture_of,
    recipe_of,
    setting,
)
from ._run_file import read_run_file, run_values
from .metrics import NAMES, shown
from .reports import report_run
from .runs import as_config, fingerprints, fit, LOGGERS, Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "file",
        nargs="?",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="TOML file with any of these options, or a run folder, to start its run "
        "again; it comes first, and options after it win",
    )
    add(
        "--out",
        type=path,
        metavar="FOLDER",
        default=argparse.SUPPRESS,
        help="run folder (default: the first free one of runs/digits, digits-2, ...)",
    )
    add(
        "--resume",
        type=path,
        metavar="FOLDER",
        default=argparse.SUPPRESS,
        help="go on with the run of this folder, all else as it was; `--epochs` "
        "extends it",
    )
    add_data_arguments(parser)
    add_split_arguments(parser)
    add_model_arguments(parser)
    add("--pretrained", action="store_true", help="begin with the published weights")
    add(
        "--weights",
        type=text,
        metavar="FILE",
        default=None,
        help="begin with the weights in this file or run folder",
    )
    add(
        "--teacher-weights",
        type=text,
        metavar="FILE",
        default=None,
        help="file with the weights of a published teacher, instead of a download",
    )
    add_recipe_arguments(parser)
    add(
        "--seed",
        type=integer(0),
        default=0,
        help="seed of weights, order and augmentation (default: 0)",
    )
    add(
        "--keep",
        type=integer(1),
        default=2,
        help="checkpoints to keep besides the best one (default: 2)",
    )
    add(
        "--save-every",
        type=integer(0),
        default=0,
        metavar="STEPS",
        help="steps between checkpoints, besides one an epoch (default: none)",
    )
    add(
        "--watch",
        type=integer(1),
        default=10,
        metavar="STEPS",
        help="steps between looks at the loss, each of which waits for the device",
    )
    add(
        "--logger",
        nargs="*",
        action=Several,
        choices=LOGGERS,
        default=["tensorboard"],
        help="where the numbers of the run are written as it trains, besides "
        "metrics.csv (default: tensorboard)",
    )
    add(
        "--data-parallel",
        type=integer(1),
        default=None,
        metavar="DEVICES",
        help="copies of the model, among which a batch is divided",
    )
    add(
        "--fsdp",
        type=integer(1),
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
    if "file" in options:
        _add_file(options, console)
    if options.distributed:
        jax.distributed.initialize()
    resumes = "resume" in options
    run, splits = (resume if resumes else start)(options, console)
    started = time.monotonic()
    stopped_by = fit(run, splits, console, resume=resumes)
    status = 130 if stopped_by == signal.SIGINT else 0
    rows = run.metrics()
    if jax.process_index() > 0 or not rows:
        return status
    measure = run.measure
    value = float(rows[-1][f"test_{measure}"])
    result = f"{value:.1%}" if measure == "accuracy" else shown(measure, value)
    seconds = time.monotonic() - started
    say(console, f"Test {NAMES[measure]} {result} after {seconds:.0f} s.")
    try:
        written = report_run(run, splits.test, console, is_whole=stopped_by is None)
    except Exception as error:  # which the trained model has nothing to do with
        warn(f"the report of `{run.folder}` could not be written: {error}")
        return status
    paths = ", ".join(f"{run.folder}/{name}" for name in written)
    then = f"then try:\n  eqx-vit predict {run.folder} IMAGE..."
    say(console, f"See {paths}; {then}")
    return status


def _add_file(options: argparse.Namespace, console: Console) -> None:
    """Set the options of the file that were not given beside it."""
    if "resume" in options:
        raise ValueError(
            f"`--resume {options.resume}` goes on with a run as it began, without "
            f"`{options.file}`; leave one of them out."
        )
    parser, given = argparse.ArgumentParser(), options.given
    add_arguments(parser)
    read = read_run_file(options.file, parser)
    fields = {field.name for field in dataclasses.fields(Recipe)}
    if "recipe" in given and (replaced := read.keys() & (fields - given)):
        names = ", ".join(f"`{name}`" for name in sorted(replaced))
        say(
            console,
            f"`--recipe {options.recipe}` replaces the recipe of `{options.file}`: "
            f"{names}.",
        )
        read = {name: value for name, value in read.items() if name not in replaced}
    # (Of these one excludes the other.)
    for name, other in (("weights", "pretrained"), ("pretrained", "weights")):
        if name in given:
            read.pop(other, None)
    read["set"] = [*read.get("set", []), *options.set]
    for name, value in read.items():
        if name not in given or name == "set":
            setattr(options, name, value)
    options.given = given | read.keys()


def start(options: argparse.Namespace, console: Console) -> tuple[Run, Splits]:
    """A new run, once all settings are known to be legal. (Its folder is made when the
    training begins.)"""
    _check_pairs(options)
    folder = vars(options).get("out") or _free_folder(_name_of(options.data))
    if jax.process_index() == 0:  # which makes it for all
        Run.check_free(folder)
    wanted = recipe_of(options)
    if options.label_kind is None and wanted.loss in LOSSES["numbers"]:
        options.label_kind = "numbers"
    splits = opened(options.data, vars(options))
    images = splits.train
    wanted = _fitting(wanted, images, options, console)
    wanted = _with_loss(wanted, splits, options, console)
    architecture = architecture_of(options, splits, wanted.stochastic_depth)
    record, weights = architecture.record, options.weights
    brings_weights = run_config(options.model) or is_repository(options.model)
    if weights is None and brings_weights:
        weights = options.model
        if record is not None and record.revision is not None:
            weights = f"{weights.partition('@')[0]}@{record.revision}"
    config = None if weights is None else run_config(weights)
    if config is not None:
        mean, std, crop = (config[name] for name in ("mean", "std", "crop"))
    elif record is not None and (options.pretrained or weights):
        mean, std, crop = record.mean, record.std, record.crop
    else:
        mean, std = pixel_statistics(images, architecture.channels)
        crop = 1.0 if record is None else record.crop
    # A wrong setting raises here, before there is a folder.
    model, _ = architecture.shapes()
    adapted = eqx.filter_eval_shape(wanted.adapted, model, key=jax.random.key(0))
    wanted.optimizer(adapted, 1)
    _check_loss(wanted, images, architecture)
    saved = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(options).items()
        if name not in ("command", "out", "given", "debug", "file")
    }
    # (Of a repository, the revision that is loaded.)
    model_name = weights if brings_weights and not options.weights else options.model
    settings = dict(map(setting, options.set))
    run = Run(
        folder,
        _for_timm(model, architecture, images.classes, mean=mean, std=std, crop=crop)
        | as_config(architecture.standalone(), wanted)
        | {
            "classes": images.classes,
            "label_kind": images.label_kind,
            "mean": mean,
            "std": std,
            "crop": crop,
            "data": fingerprints(splits),
            "loaded": _loaded(architecture, weights, options.pretrained),
            "fresh_head": _needs_fresh_head(options, weights, images.classes, console),
            "options": saved | {"weights": weights},
        },
        run_values(saved | {"model": model_name, "set": settings}, wanted),
    )
    if jax.process_index() == 0:
        say(console, f"{len(images)} images to train on -> {folder}/")
    return run, splits


def _with_loss(
    wanted: Recipe, splits: Splits, options: argparse.Namespace, console: Console
) -> Recipe:
    """The recipe, with the usual loss for the labels of the images if nobody asked for
    another.

    **Raises:**

    A `ValueError` for what does not go with the labels.
    """
    kind, (images, test) = splits.train.label_kind, splits
    if wanted.loss not in (legal := LOSSES[kind]):
        said = {
            "class": "one class",
            "classes": "any number of classes",
            "numbers": "numbers",
        }[kind]
        if "loss" in options.given or kind == "class":
            raise ValueError(
                f"`--loss {wanted.loss}` does not go with `{options.data}`, which has "
                f"{said} an image; use {listed(legal)}, or read "
                "its labels in another way with `--label-kind`."
            )
        say(console, f"Images have {said}: `--loss {legal[0]}`.")
        wanted = dataclasses.replace(wanted, loss=legal[0])
    if kind == "classes" and not test.labels.any():
        raise ValueError(
            f"None of the {len(test)} images to test on is of a class; hold out more "
            "with `--holdout`."
        )
    if kind != "numbers":
        return wanted
    if "label_smoothing" in options.given and wanted.label_smoothing:
        raise ValueError(
            f"`--label-smoothing {wanted.label_smoothing:g}` is for classes, and the "
            "labels are numbers; leave it out."
        )
    if wanted.cutmix:
        raise ValueError(
            f"`--cutmix {wanted.cutmix:g}` mixes classes by area, and the labels are "
            "numbers; use `--cutmix 0`."
        )
    if len(test) < 2:
        raise ValueError(
            f"There is {len(test)} image to test on; R2 needs two or more, which "
            "`--holdout` can hold out."
        )
    mean, std = images.labels.mean(0), images.labels.std(0)
    far = (abs(mean) > 10) | (std > 10) | (std < 0.01)
    if far.any():
        place = int(far.argmax())
        warn(
            f"the numbers `{images.classes[place]}` have mean {mean[place]:g} and "
            f"standard deviation {std[place]:g}; training goes better with numbers of "
            "about one, as after a subtraction and a division."
        )
    return wanted


def _check_loss(wanted: Recipe, images: Images, architecture: Architecture) -> None:
    loss = wanted.loss_of(images.labels, architecture.num_classes)
    weights = loss.class_weights
    if weights is not None and len(weights) != architecture.num_classes:
        raise ValueError(
            f"`--class-weights` has {len(weights)} entries; it must have one for each "
            f"of the {architecture.num_classes} classes: {listed(images.classes)}."
        )


def _for_timm(
    model: Any, architecture: Architecture, classes: tuple[str, ...], **pixels: Any
) -> dict[str, Any]:
    """What timm reads in `config.json`, where it has the model."""
    pixels |= dict(crop_mode="center", interpolation="bicubic")
    try:
        return timm_config(model, classes, architecture.image_size, pixels)
    except ValueError:
        return {}


def _loaded(
    architecture: Architecture, weights: str | None, pretrained: bool
) -> dict[str, str | None] | None:
    """Where the weights come from that a run begins with, and their checksum."""
    record = architecture.record
    if weights is not None and is_repository(weights):
        record = record_of(weights)
        path = fetch(record)
    elif weights is not None:
        record, path = None, Path(weights)
        path = run_weights(path) if run_config(weights) is not None else path
    elif pretrained and record is not None:
        path = fetch(record)
    else:
        return None
    if not path.is_file():
        return None  # which loading says
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return dict(
        source=str(path) if record is None else record.source,
        revision=None if record is None else record.revision or commit_of(path),
        file=path.name,
        sha256=digest,
    )


def _check_pairs(options: argparse.Namespace) -> None:
    """Raise for options of which one would be ignored."""
    teacher = vars(options).get("teacher")
    if options.teacher_weights is not None and (
        teacher is None or Path(teacher).is_dir()
    ):
        raise ValueError(
            "`--teacher-weights` goes with a published model as `--teacher`."
        )
    if options.pretrained and options.weights is not None:
        raise ValueError("`--pretrained` and `--weights` are two; give one of them.")


def _fitting(
    wanted: Recipe, images: Images, options: argparse.Namespace, console: Console
) -> Recipe:
    """The recipe, with a smaller batch if nobody asked for its own, and there are not
    as many images."""
    if wanted.batch_size <= len(images):
        return wanted
    if "batch_size" in options.given:
        raise ValueError(
            f"`--batch-size {wanted.batch_size}` must be between 1 and the "
            f"{len(images)} training images."
        )
    smaller = 2 ** (len(images).bit_length() - 1)
    say(
        console,
        f"Batches of {smaller} images, since the recipe's {wanted.batch_size} are more "
        f"than the {len(images)} training images.",
    )
    return dataclasses.replace(wanted, batch_size=smaller)


def _needs_fresh_head(
    options: argparse.Namespace,
    weights: str | None,
    classes: tuple[str, ...],
    console: Console,
) -> bool:
    """Whether the head of the weights, if it has as many classes, is for others."""
    config = None if weights is None else run_config(weights)
    if config is not None:
        known, aliases = tuple(config["classes"]), {}
    elif weights is not None and is_repository(weights):
        record = record_of(weights)
        known, aliases = classes_of(record, record.num_classes)
    elif options.model in zoo and (options.pretrained or weights is not None):
        record = zoo[options.model]
        if record.label_set is not None and weights is not None:
            return False  # a fine-tune, of nobody knows which classes
        known, aliases = classes_of(record, record.num_classes)
    else:
        return False
    if len(known) != len(classes):
        return False  # it gets a fresh one for its size
    try:
        places = match_classes(classes, known, aliases)
    except ValueError:
        places = None
    if places is not None and places.tolist() == list(range(len(classes))):
        return False
    say(console, "The classes are not those of the weights: a fresh head is trained.")
    return True


# The options that are legal beside `--resume`.
_CHANGEABLE = ("epochs", "data", "logger", "data_parallel", "fsdp", "distributed")


def resume(options: argparse.Namespace, console: Console) -> tuple[Run, Splits]:
    """An earlier run to go on with, on the same data."""
    fixed = options.given - {"resume", "debug", "command", *_CHANGEABLE}
    if fixed:
        names = ", ".join(f"`--{name.replace('_', '-')}`" for name in sorted(fixed))
        raise ValueError(
            f"{names} cannot be changed by `--resume {options.resume}`, which goes on "
            "as the run began. `--epochs` extends it; for another training of its "
            f"model start a new run with `--model {options.resume}`."
        )
    run = Run.open(options.resume)
    saved = run.config["options"]
    changes = {n: getattr(options, n) for n in _CHANGEABLE if n in options.given}
    epochs = changes.pop("epochs", run.recipe.epochs)
    if epochs < run.recipe.epochs:
        raise ValueError(
            f"`--epochs {epochs}` must be at least the {run.recipe.epochs} of the run: "
            "it can be extended, not shortened."
        )
    source = changes.get("data", saved["data"])
    splits = run.same_data(opened(source, saved))
    if epochs > run.recipe.epochs:
        say(
            console,
            f"The run is extended from {run.recipe.epochs} to {epochs} epochs, and its "
            "schedule of learning rates with it.",
        )
    if changes or epochs != run.recipe.epochs:
        run = run.changed(epochs=epochs, **changes)
    return run, splits


def _name_of(source: str) -> str:
    """A name for the run, after its source of images."""
    path = Path(source)
    if path.exists():
        path = path.resolve()
    is_file = path.suffix.lower() in (".csv", ".npz", ".tar")
    name = path.stem if is_file else path.name
    return re.sub(r"[*?:,{}\[\]]+", "-", name).strip("-") or "run"


def _free_folder(name: str) -> Path:
    names = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
    return next(
        folder for folder in map(Path("runs").joinpath, names) if not folder.exists()
    )
