"""The options that choose images, and the images that they choose."""

import argparse
from collections.abc import Mapping
from typing import Any

from ..data import LABEL_KINDS, open_data, Splits
from ._load import add_workers
from ._options import number, text


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the images."""
    parser.add_argument(
        "--data",
        type=text,
        default="digits",
        metavar="SOURCE",
        help="folder of one sub-folder per class or with metadata.csv, CSV file, NumPy "
        "file, folder or pattern of tar files, folder of MNIST's files, name of a "
        "Hugging Face data set, tfds:NAME, or package.module:NAME of your own "
        "(default: digits, which are built in)",
    )
    add_holdout_arguments(parser)


def add_holdout_arguments(parser: argparse.ArgumentParser) -> None:
    """How images are divided and read."""
    parser.add_argument(
        "--holdout",
        type=number(0, 1, excluded=(0, 1)),
        default=0.1,
        help="share held out for the test where the data has no split (default: 0.1)",
    )
    add_workers(parser)
    for name, text_of in (
        ("--data-config", "configuration of a data set that has several"),
        ("--image-column", "column of the images (default: the only or usual one)"),
    ):
        parser.add_argument(name, type=text, default=None, metavar="NAME", help=text_of)
    parser.add_argument(
        "--label-column",
        type=text,
        action="append",
        default=None,
        metavar="NAME",
        help="column of the labels (default: the only or usual one); given several "
        "times, columns of 0 and 1 for every class, or of numbers",
    )
    parser.add_argument(
        "--label-kind",
        choices=LABEL_KINDS,
        default=None,
        help="one class an image, any number of classes, or numbers (default: numbers "
        "for a loss of numbers, else what the type of the data says, else class)",
    )
    parser.add_argument(
        "--label-separator",
        default=None,
        metavar="TEXT",
        help="text between the classes of an image in one cell (default: ; and |)",
    )


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    """The splits to train and to test on."""
    for name, use in (("--train-split", "train"), ("--test-split", "test")):
        parser.add_argument(
            name,
            type=text,
            default=None,
            metavar="NAME",
            help=f"split to {use} on (default: by its usual name)",
        )


def splits_of(options: Mapping[str, Any]) -> dict[str, str | None]:
    """The arguments of `open_data` that name splits.

    **Arguments:**

    - `options`: By name. (Runs of earlier versions have none of these.)
    """
    return {name: options.get(name) for name in ("train_split", "test_split")}


# The options that say which part of a source is meant.
SELECTION = (
    "data_config",
    "image_column",
    "label_column",
    "label_kind",
    "label_separator",
)


def selection(options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `open_data` that say which part of a source is meant.

    **Arguments:**

    - `options`: By name. (Runs of earlier versions have none of these.)
    """
    return {"config": options.get("data_config")} | {
        name: options.get(name) for name in SELECTION[1:]
    }


def opened(source: str, options: Mapping[str, Any]) -> Splits:
    """The images of a source, as options say how they are read and divided.

    **Arguments:**

    - `source`: As in `open_data`.
    - `options`: By name, of a command or of a run.
    """
    return open_data(
        source, options["holdout"], **selection(options), **splits_of(options)
    )
