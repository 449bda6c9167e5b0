import argparse
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from rich.console import Console

from ..data import (
    Batch,
    Batches,
    evaluation_batches,
    Images,
    listed,
    NONE_READABLE,
    why_unreadable,
)
from ..training.step import predict
from ._options import add_image_size, integer, text
from ._output import track, warn
from .runs import load_run_or_published, Loaded


def add_load_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a model."""
    parser.add_argument(
        "model",
        type=text,
        metavar="MODEL",
        help="name of a published model, a run folder, or hf-hub:USER/NAME or "
        "local-dir:PATH, with the config.json of timm or transformers",
    )
    parser.add_argument(
        "--weights",
        type=text,
        metavar="FILE",
        default=None,
        help="file with weights of the published model, instead of a download: the "
        "published ones, or a fine-tune with other classes",
    )
    add_image_size(parser, default=None)
    parser.add_argument(
        "--channels",
        type=int,
        choices=(1, 3),
        default=None,
        help="1 for a model of grey images (default: the model's)",
    )
    parser.add_argument(
        "--best",
        action="store_true",
        help="weights of the run's best epoch instead of its last",
    )


def load(options: argparse.Namespace, headless: bool = False) -> Loaded:
    """The model of the options.

    **Arguments:**

    - `options`: With those of `add_load_arguments`.
    - `headless`: Whether a model that knows no classes will do.
    """
    return load_run_or_published(
        options.model,
        options.weights,
        headless,
        image_size=options.image_size,
        channels=options.channels,
        best=options.best,
    )


def add_batch_size(parser: argparse.ArgumentParser) -> None:
    """How many images `outputs` takes at a time."""
    parser.add_argument(
        "--batch-size",
        type=integer(1),
        default=64,
        help="images at a time (default: 64)",
    )


def add_workers(parser: argparse.ArgumentParser) -> None:
    """How many processes load images."""
    parser.add_argument(
        "--workers",
        type=integer(0, 256),
        default=None,
        help="processes that load images, 0 for threads (default: threads, and beside "
        "an accelerator up to one process a core but two)",
    )


class Outputs(NamedTuple):
    """The outputs of a model for some images.

    - `rows`: A row an image.
    - `labels`: The labels of the images.
    - `places`: The places of the images.
    """

    rows: np.ndarray
    labels: np.ndarray
    places: np.ndarray


def outputs(
    loaded: Loaded,
    images: Images,
    text: str,
    console: Console,
    *,
    batch_size: int = 64,
    workers: int | None = None,
    warns: bool = True,
) -> Iterator[Outputs]:
    """Yield the outputs of a model for images, batch by batch. An image that cannot be
    read is left out.

    **Arguments:**

    - `loaded`: The model.
    - `images`: The images.
    - `text`, `console`: What to call the progress, and where to show it.
    - `batch_size`: Images at a time; no more than there are. (This and the next are
        keyword only arguments.)
    - `workers`: Processes that load, as in `evaluation_batches`.
    - `warns`: Whether to warn of the images that are left out.

    **Raises:** as `check_finite`; a `ValueError` if none of the images can be read.
    """
    size = max(1, min(batch_size, len(images)))
    batches = evaluation_batches(
        images, loaded.transform, size, workers=workers, shared=False
    )
    for batch in track(_read(batches, images), text, -(-len(images) // size), console):
        counts = batch["weight"] > 0
        rows = predict(loaded.model, jnp.asarray(batch["image"]), loaded.state)
        rows, index = np.asarray(rows)[counts], batch["index"][counts]
        check_finite(rows, [images.name(int(i)) for i in index])
        unreadable = batch["unreadable"][batch["unreadable"] >= 0]
        for place in unreadable if warns else ():
            warn(why_unreadable(images, int(place)))
        yield Outputs(rows, batch["label"][counts], index)


def _read(batches: Batches, images: Images, most: int = 8) -> Iterator[Batch]:
    """The batches. If no image can be read, it is said of the first ones why."""
    try:
        yield from batches
    except OSError as error:
        if NONE_READABLE not in str(error):
            raise
        for place in range(min(most, len(images))):
            warn(why_unreadable(images, place))
        raise ValueError(NONE_READABLE) from error
    finally:
        batches.close()


def check_finite(logits: np.ndarray, names: Sequence[str]) -> None:
    """Raise if a model's answers for some images are not numbers.

    **Arguments:**

    - `logits`: A row for every image.
    - `names`: The names of the images.

    **Raises:**

    A `ValueError` that names the images.
    """
    wrong = [name for name, row in zip(names, logits) if not np.isfinite(row).all()]
    if wrong:
        raise ValueError(
            f"The outputs of the model are NaN or infinite for {listed(wrong)}: its "
            "weights are not usable, or the images are not prepared as they were in "
            "training."
        )
