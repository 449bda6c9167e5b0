"""Measure the accuracy of a model on labelled images.

Of a published model, or of the model of a run folder, on the test images of its own
data or of other data with as many classes."""

import argparse
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..data import open_data, test_batches
from ..runs import Run
from ..training import predict
from ._load import add_load_arguments, load_run_or_published
from ._train import add_data_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_load_arguments(parser)
    add_data_arguments(parser)
    parser.set_defaults(data=None)
    add("--batch-size", type=int, default=64, help="images at a time (default: 64)")


def run(options: argparse.Namespace, console: Console) -> int:
    loaded = load_run_or_published(options.model, options.weights)
    source, holdout = options.data, options.holdout
    if source is None and Path(options.model).is_dir():
        saved = Run.open(Path(options.model)).config["options"]
        source, holdout = saved["data"], saved["holdout"]
    if source is None:
        raise ValueError("`--data` is needed to evaluate a published model.")
    images = open_data(source, holdout).test
    if len(images.classes) != len(loaded.classes):
        raise ValueError(
            f"`--data {source}` has {len(images.classes)} classes, but the model knows "
            f"{len(loaded.classes)}."
        )
    unreadable, losses, ranks = 0, [], []
    batches = test_batches(
        images, loaded.transform, options.batch_size, workers=options.workers
    )
    total = -(-len(images) // options.batch_size)
    for batch in track(batches, "evaluating", total, console=console):
        logits = predict(loaded.model, loaded.state, jnp.asarray(batch["image"]))
        logits = np.asarray(logits, np.float64)[batch["weight"] > 0]
        labels = batch["label"][batch["weight"] > 0]
        own = logits[np.arange(len(labels)), labels][:, None]
        ranks += (logits > own).sum(-1).tolist()
        highest = logits.max(-1, keepdims=True)
        sums = np.log(np.exp(logits - highest).sum(-1)) + highest[:, 0]
        losses += (sums - own[:, 0]).tolist()
        for place in batch["unreadable"][batch["unreadable"] >= 0]:
            unreadable += 1
            name = images.name(int(place))
            console.print(f"warning: cannot read {name}", style="yellow", markup=False)
    if not ranks:
        raise ValueError("None of the images can be read.")
    table = Table("images", "unreadable", "loss", "top-1", "top-5", box=None)
    first, fifth = (np.mean(np.array(ranks) < k) for k in (1, 5))
    table.add_row(
        str(len(ranks)),
        str(unreadable),
        f"{np.mean(losses):.4f}",
        f"{first:.2%}",
        f"{fifth:.2%}",
    )
    console.print(table)
    return 0
