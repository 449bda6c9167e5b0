"""Measure the accuracy of a model on labelled images.

The model is a published one, or that of a run folder. Classes are matched by name: the
images may be of some of the model's classes, in any order. Without `--data` a run is
measured on the test images of its own data."""

import argparse
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from rich.console import Console

from ..data import (
    Images,
    open_data,
    open_part,
    test_batches,
    why_unreadable,
    with_classes,
)
from ..runs import Run
from ..runs._output import print_table, say, track, warn
from ..training import predict
from ._load import add_load_arguments, check_finite, load
from ._options import integer
from ._train import add_data_arguments


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
    add(
        "--batch-size",
        type=integer(1),
        default=64,
        help="images at a time (default: 64)",
    )


def run(options: argparse.Namespace, console: Console) -> int:
    loaded = load(options)
    images, part = _images(options)
    say(console, f"{len(images)} images ({part})")
    images = with_classes(
        images, loaded.classes, loaded.aliases, what=f"`{options.data or part}`"
    )
    losses, firsts, fifths = [], [], []
    batches = test_batches(
        images, loaded.transform, options.batch_size, workers=options.workers
    )
    total, unreadable = -(-len(images) // options.batch_size), 0
    for batch in track(batches, "evaluating", total, console):
        logits = predict(loaded.model, loaded.state, jnp.asarray(batch["image"]))
        counts = batch["weight"] > 0
        logits, labels = np.asarray(logits, np.float64)[counts], batch["label"][counts]
        check_finite(logits, [images.name(int(i)) for i in batch["index"][counts]])
        losses += _losses(logits, labels).tolist()
        firsts += _is_among(1, logits, labels).tolist()
        fifths += _is_among(5, logits, labels).tolist()
        for place in batch["unreadable"][batch["unreadable"] >= 0]:
            unreadable += 1
            warn(why_unreadable(images, int(place)))
    if not losses:
        raise ValueError("None of the images can be read.")
    head = ("images", "unreadable", "loss", "top-1", "top-5")
    row = (str(len(losses)), str(unreadable), f"{np.mean(losses):.4f}")
    row += (f"{np.mean(firsts):.2%}", f"{np.mean(fifths):.2%}")
    print_table(console, [head, row])
    return 0


def _images(options: argparse.Namespace) -> tuple[Images, str]:
    """The images of the options, and which part of the data they are."""
    run = Run.open(Path(options.model)) if Path(options.model).is_dir() else None
    own = None if run is None else run.config["options"]
    if "holdout" in options.given:
        raise ValueError(
            "`--holdout` is for training: a run is measured on what it held out, and "
            "other data, with `--data`, as a whole."
        )
    if options.data is not None:
        images, name = open_part(options.data, options.split)
        part = f"`{options.data}`, {_said(name)}"
        if own is not None and name == "all" and _same(options.data, own["data"]):
            warn(
                f"the run was trained on most of `{options.data}`; without `--data` it "
                "is measured on the images that were held out."
            )
        return images, part
    if run is None or own is None:
        raise ValueError("`--data` is needed to evaluate a published model.")
    source = own["data"]
    if options.split is not None:
        images, name = open_part(source, options.split)
        return images, f"`{source}` of the run, {_said(name)}"
    # (Of data that has changed, other images would be held out: it may have trained on
    # them.)
    images = run.same_data(open_data(source, own["holdout"])).test
    name = open_part(source).name
    if name != "all":
        return images, f"`{source}` of the run, {_said(name)}"
    return images, f"`{source}` of the run, the {own['holdout']:.0%} held out"


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
