"""Write what a model makes of images, and see what it is worth.

For every image the vector that would enter the head, in a NumPy file. On these frozen
features it reports the accuracy of a classifier by nearest neighbours and of a linear
one. A folder of images without classes is taken as it is."""

import argparse
from pathlib import Path
from typing import Any

import jax.random as jr
import numpy as np
from rich.console import Console

from ..data import ImageFiles, Images, images_without_classes
from ..pretrained.adapt import reset_head
from ..pretrained.files import whole_file
from ._data import add_holdout_arguments, add_split_arguments, opened, SELECTION
from ._load import add_batch_size, add_load_arguments, load, Loaded, outputs
from ._options import integer, path, text
from ._output import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_load_arguments(parser)
    add(
        "data",
        type=text,
        metavar="FOLDER",
        help="images, as `--data` of `eqx-vit train`, or without classes: a folder of "
        "images, or an image file; `digits` are built in",
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
    loaded = load(options, headless=True)
    paths = images_without_classes(options.data)
    if paths:
        _refuse_options_of_classes(options)
        images = ImageFiles(paths, np.zeros(len(paths), np.int32), ("",))
        found = _features(loaded, images, options, console)
        del found["labels"]
        _save(options.out, found)
        say(console, f"{len(found['names'])} images without classes")
        say(console, f"See {options.out}")
        return 0
    splits = opened(options.data, vars(options))
    arrays: dict[str, Any] = {"classes": np.array(splits.train.classes)}
    for name, images in zip(("train", "test"), splits):
        found = _features(loaded, images, options, console)
        arrays |= {f"{name}_{key}": array for key, array in found.items()}
    _save(options.out, arrays)
    if splits.train.label_kind == "class":
        _probe(arrays, options.neighbours, console)
    say(console, f"See {options.out}")
    return 0


def _refuse_options_of_classes(options: argparse.Namespace) -> None:
    names = ("holdout", "neighbours", "train_split", "test_split", *SELECTION)
    given = [name for name in names if name in options.given]
    if given:
        raise ValueError(
            f"`--{given[0].replace('_', '-')}` goes with images that have classes, and "
            f"`{options.data}` has no folder of images for every class; leave it out."
        )


def _save(path: Path, arrays: dict[str, Any]) -> None:
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _probe(arrays: dict[str, Any], neighbours: int, console: Console) -> None:
    """Print the accuracy of classifiers of the features."""
    # (Here, for no other command waits seconds for it.)
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test = arrays["train_features"], arrays["test_features"]
    labels, truth = arrays["train_labels"], arrays["test_labels"]
    neighbours = min(neighbours, len(train))
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


def _features(
    loaded: Loaded, images: Images, options: argparse.Namespace, console: Console
) -> dict[str, np.ndarray]:
    whole: Any = loaded.model
    headless = loaded._replace(model=reset_head(whole, 0, key=jr.key(0)))
    sizes = dict(batch_size=options.batch_size, workers=options.workers)
    batches = outputs(headless, images, "features", console, **sizes)
    features, labels, places = map(np.concatenate, zip(*batches))
    names = np.array([images.name(place) for place in places.tolist()])
    return {"features": features, "labels": labels, "names": names}
