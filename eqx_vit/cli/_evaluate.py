"""Measure the accuracy of a model on labelled images.

The model is a published one or the model of a run folder. Classes are matched by name:
the images may be of some of the model's classes, in any order. Without `--data` a run
is measured on the test images of its own data."""

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console

from ..data import (
    divided,
    evaluation_split,
    Images,
    open_part,
    open_parts,
    with_classes,
)
from ._load import add_batch_size, add_load_arguments, load, outputs
from ._output import print_table, say, warn
from ._subset import add_subset, on_subset, Task
from ._train import add_data_arguments, SELECTION, selection, splits_of
from .metrics import measures, NAMES, shown
from .runs import Loaded, run_named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_load_arguments(parser)
    add_data_arguments(parser)
    parser.set_defaults(data=None)
    add(
        "--split",
        metavar="NAME",
        default=None,
        help="which split of `--data` (default: its val, validation or test; all "
        "images of data without splits)",
    )
    add_subset(parser)
    add_batch_size(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    loaded = load(options)
    images, part = _images(options)
    if images.label_kind != loaded.label_kind:
        raise ValueError(
            f"The images have labels of the kind {images.label_kind!r}, and the model "
            f"is for {loaded.label_kind!r}; `--label-kind` says how labels are read."
        )
    what = f"`{options.data or part}`"
    if options.subset is None:
        images = with_classes(images, loaded.classes, loaded.aliases, what=what)
        task = Task(loaded, images)
    else:
        task = on_subset(options.subset, loaded, images, what)
    loaded, images = task.loaded, task.images
    say(console, f"{len(images)} images ({part})")
    if loaded.label_kind != "class":
        return _measure(loaded, images, options, console)
    losses, firsts, fifths = [], [], []
    batches = outputs(loaded, images, options, "evaluating", console)
    for logits, labels in map(task.labelled, batches):
        logits = logits.astype(np.float64)
        losses += _losses(logits, labels).tolist()
        firsts += _is_among(1, logits, labels).tolist()
        fifths += _is_among(5, logits, labels).tolist()
    if not losses:
        raise ValueError("None of the images can be read.")
    unreadable = len(images) - len(losses)
    head = ("images", "unreadable", "loss", "top-1", "top-5")
    row = (str(len(losses)), str(unreadable), f"{np.mean(losses):.4f}")
    row += (f"{np.mean(firsts):.2%}", f"{np.mean(fifths):.2%}")
    print_table(console, [head, row])
    return 0


def _measure(
    loaded: Loaded, images: Images, options: argparse.Namespace, console: Console
) -> int:
    """Print the measures of any number of classes, or of numbers."""
    found = list(outputs(loaded, images, options, "evaluating", console))
    if not found:
        raise ValueError("None of the images can be read.")
    rows, labels = map(np.concatenate, zip(*found))
    thresholds = 0.5 if loaded.thresholds is None else loaded.thresholds
    measured = measures(loaded.label_kind, rows, labels, thresholds)
    head = ("images", "unreadable", *(NAMES[name] for name in measured))
    values = [shown(name, value) for name, value in measured.items()]
    counts = (str(len(rows)), str(len(images) - len(rows)))
    print_table(console, [head, (*counts, *values)])
    return 0


def _images(options: argparse.Namespace) -> tuple[Images, str]:
    """The images of the options, and which part of the data they are."""
    run = run_named(options.model)
    own = None if run is None else run.config["options"]
    if "holdout" in options.given:
        raise ValueError(
            "`--holdout` is for training: a run is measured on what it held out, and "
            "other data, with `--data`, as a whole."
        )
    chosen = selection(vars(options))
    if run is not None and run.label_kind != "class" and not chosen["label_kind"]:
        chosen["label_kind"] = run.label_kind
    if options.data is not None:
        is_own = own is not None and _same(options.data, own["data"])
        if own is not None and is_own and not options.given & {*SELECTION}:
            chosen = selection(own)
        images, name = open_part(options.data, options.split, **chosen)
        part = f"`{options.data}`, {_said(name)}"
        if is_own and name == "all":
            warn(
                f"the run was trained on most of `{options.data}`; without `--data` it "
                "is measured on the images that were held out."
            )
        return images, part
    if run is None or own is None:
        raise ValueError("`--data` is needed to evaluate a published model.")
    given = [name for name in SELECTION if name in options.given]
    if given:
        raise ValueError(
            f"`--{given[0].replace('_', '-')}` goes with `--data`; the data of a run "
            "is read as in its training."
        )
    source, chosen = own["data"], selection(own)
    if options.split is not None:
        images, name = open_part(source, options.split, **chosen)
        return images, f"`{source}` of the run, {_said(name)}"
    # (Of data that has changed, other images would be held out: it may have trained on
    # them.)
    splits = splits_of(own)
    named = [name for name in splits.values() if name is not None]
    parts = open_parts(source, splits=named, **chosen)
    images = run.same_data(divided(source, parts, own["holdout"], **splits)).test
    held_out = f"the {own['holdout']:.0%} held out"
    name = evaluation_split(parts, **splits)
    part = held_out if name is None else _said(name)
    return images, f"`{source}` of the run, {part}"


def _said(name: str) -> str:
    return "all images" if name == "all" else f"the split `{name}`"


def _same(one: str, other: str) -> bool:
    return one == other or Path(one).resolve() == Path(other).resolve()


def _is_among(most: int, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the label is among the highest logits. Where logits are equal, the first
    class is the most probable one, as of `argmax`; further ones are not counted in the
    model's favour."""
    own = logits[np.arange(len(labels)), labels][:, None]
    others_ahead = (logits >= own).sum(-1) - 1
    return (logits.argmax(-1) == labels) | (others_ahead < most)


def _losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    highest = logits.max(-1)
    sums = np.log(np.exp(logits - highest[:, None]).sum(-1)) + highest
    return sums - logits[np.arange(len(labels)), labels]
