"""Write what a model makes of images, and see what it is worth.

For every image the vector that would enter the head, in a NumPy file. On these frozen
features it reports the accuracy of a classifier by nearest neighbours and of a linear
one."""

import argparse
from pathlib import Path
from typing import Any

import jax.random as jr
import numpy as np
from rich.console import Console

from ..data import Images
from ..pretrained.adapt import reset_head
from ..pretrained.files import whole_file
from ._load import add_batch_size, add_load_arguments, load, Loaded, outputs
from ._options import integer, path, text
from ._output import say
from ._train import add_holdout_arguments, add_split_arguments, opened


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_load_arguments(parser)
    add(
        "data",
        type=text,
        metavar="FOLDER",
        help="images, as `--data` of `eqx-vit train`; `digits` are built in",
    )
    add("--out", type=path, default=Path("features.npz"), help="the file to write")
    add_batch_size(parser)
    add(
        "--neighbours",
        type=integer(1),
        default=20,
        help="of an image (default: 20)",
    )
    add_holdout_arguments(parser)
    add_split_arguments(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    # (Here, for no other command waits seconds for it.)
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    loaded = load(options, headless=True)
    splits = opened(options.data, vars(options))
    arrays: dict[str, Any] = {"classes": np.array(splits.train.classes)}
    for name, images in zip(("train", "test"), splits):
        found = _features(loaded, images, options, console)
        arrays |= {f"{name}_{key}": array for key, array in found.items()}
    with whole_file(options.out) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    train, test = arrays["train_features"], arrays["test_features"]
    labels, truth = arrays["train_labels"], arrays["test_labels"]
    neighbours = min(options.neighbours, len(train))
    classifiers = {
        f"{neighbours} nearest neighbours": KNeighborsClassifier(
            neighbours, metric="cosine", weights="distance"
        ),
        "linear probe": make_pipeline(
            StandardScaler(), LogisticRegression(max_iter=1000)
        ),
    }
    for name, classifier in classifiers.items():
        accuracy = classifier.fit(train, labels).score(test, truth)
        say(console, f"{name}: {accuracy:.1%} of {len(test)} test images")
    say(console, f"See {options.out}")
    return 0


def _features(
    loaded: Loaded, images: Images, options: argparse.Namespace, console: Console
) -> dict[str, np.ndarray]:
    whole: Any = loaded.model
    headless = loaded._replace(model=reset_head(whole, 0, key=jr.key(0)))
    found = list(outputs(headless, images, options, "features", console))
    features, labels = zip(*found)
    return {"features": np.concatenate(features), "labels": np.concatenate(labels)}
