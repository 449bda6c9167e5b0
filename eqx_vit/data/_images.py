"""Labelled images from files, archives and hubs, one at a time."""

import csv
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from ._augment import Pixels
from ._digits import digits


class Images:
    """Labelled images, read when they are asked for.

    A data set of your own is a class with these attributes and methods.

    - `labels`: The class of every image, an index into `classes`.
    - `classes`: The name of every class.
    """

    labels: Int[np.ndarray, " images"]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """What to call an image in a message."""
        return f"image {index}"

    def read(self, index: int) -> Pixels:
        """The pixels of an image, of 1 or 3 channels. Raises an `OSError` if it cannot
        be read."""
        raise NotImplementedError


class ArrayImages(Images):
    """Images in memory."""

    def __init__(
        self,
        pixels: UInt8[np.ndarray, "images height width channels"],
        labels: Int[np.ndarray, " images"],
        classes: Sequence[str],
    ):
        self.pixels, self.labels, self.classes = pixels, labels, tuple(classes)

    def read(self, index: int) -> Pixels:
        return self.pixels[index]


class ImageFiles(Images):
    """Image files of any format that Pillow reads."""

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Int[np.ndarray, " images"],
        classes: Sequence[str],
    ):
        self.paths, self.labels, self.classes = list(paths), labels, tuple(classes)

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def read(self, index: int) -> Pixels:
        with Image.open(self.paths[index]) as image:
            return _pixels(image)


class HubImages(Images):
    """A split of a data set of Hugging Face's `datasets`."""

    def __init__(self, split: Any, image: str, label: str, classes: Sequence[str]):
        self.split, self.image = split, image
        self.labels = np.asarray(split[label], np.int32)
        self.classes = tuple(classes)

    def name(self, index: int) -> str:
        return f"row {index} of {self.split.info.dataset_name or 'the data set'}"

    def read(self, index: int) -> Pixels:
        return _pixels(self.split[index][self.image])


class Splits(NamedTuple):
    """Images to train on, and to test on."""

    train: Images
    test: Images


def open_data(source: str | Path = "digits", holdout: float = 0.1) -> Splits:
    """Labelled images to train and test a classifier on.

    **Arguments:**

    - `source`: One of

        - `"digits"`, [`eqx_vit.data.digits`][], which needs no download;
        - a folder with one sub-folder of images per class, or two such folders called
            `train` and `val`, `validation` or `test`;
        - a CSV file with the columns `path` (from the file's own folder), `label`, and
            maybe `split` (`train`, or `val`, `validation` or `test`);
        - a folder with the four files of MNIST or Fashion-MNIST
            (`train-images-idx3-ubyte.gz`, ...);
        - the name of a data set on the [Hugging Face Hub](https://hf.co/datasets), or a
            folder that its `save_to_disk` wrote.

    - `holdout`: The share of every class that is held out for the test where the source
        has no split for it, always the same images.

    **Raises:**

    A `ValueError` that says what is missing.
    """
    path = Path(source)
    if str(source) == "digits":
        data = digits()
        train, test = (
            ArrayImages(np.round(255 * images).astype(np.uint8), labels, data.classes)
            for images, labels in (
                (data.train_images, data.train_labels),
                (data.test_images, data.test_labels),
            )
        )
        return Splits(train, test)
    if not 0 < holdout < 1:
        raise ValueError(f"`holdout={holdout}` must be between 0 and 1; 0.1 is usual.")
    if path.suffix.lower() == ".csv":
        return _from_csv(path, holdout)
    if not path.exists():
        return _from_hub(str(source), holdout)
    if not path.is_dir():
        raise ValueError(f"`{path}` is neither a folder of images nor a CSV file.")
    if any(path.glob("*-images-idx3-ubyte*")):
        return _from_idx(path)
    if any((path / name).exists() for name in ("dataset_dict.json", "state.json")):
        return _from_hub(path, holdout)
    return _from_folder(path, holdout)


_TEST = ("val", "valid", "validation", "test")


def _pixels(image: Image.Image) -> Pixels:
    # (A palette with transparency, CMYK and 16 bits become what they look like.)
    grey = image.mode in ("1", "L", "I", "I;16", "F")
    pixels = np.asarray(image.convert("L" if grey else "RGB"))
    return pixels[..., None] if grey else pixels


def _from_folder(path: Path, holdout: float) -> Splits:
    train = path / "train"
    test = next((path / name for name in _TEST if (path / name).is_dir()), None)
    if not train.is_dir() or test is None:
        return _hold_out(*_labelled(path), holdout)
    train_paths, labels, classes = _labelled(train)
    test_paths, test_labels, test_classes = _labelled(test)
    unknown = sorted(set(test_classes) - set(classes))
    if unknown:
        raise ValueError(
            f"`{test}` has the classes {', '.join(unknown)}, which `{train}` has not."
        )
    places = np.array([classes.index(name) for name in test_classes], np.int32)
    return Splits(
        ImageFiles(train_paths, labels, classes),
        ImageFiles(test_paths, places[test_labels], classes),
    )


def _labelled(folder: Path) -> tuple[list[Path], np.ndarray, list[str]]:
    legal = set(Image.registered_extensions())
    files = {
        child.name: sorted(p for p in child.rglob("*") if p.suffix.lower() in legal)
        for child in sorted(folder.iterdir())
        if child.is_dir()
    }
    classes = [name for name in files if files[name]]
    if len(classes) < 2:
        raise ValueError(
            f"`{folder}` must have one sub-folder of images per class, of two classes "
            f"or more; found {', '.join(classes) or 'none'}."
        )
    labels = np.repeat(np.arange(len(classes)), [len(files[name]) for name in classes])
    return sum((files[n] for n in classes), []), labels.astype(np.int32), classes


def _from_csv(path: Path, holdout: float) -> Splits:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = rows[0].keys() if rows else ()
    if not {"path", "label"} <= set(columns):
        raise ValueError(
            f"`{path}` must have the columns `path` and `label`, and a row per image; "
            f"it has the columns {', '.join(columns) or '(none)'}."
        )
    classes = sorted({row["label"] for row in rows})
    labels = np.array([classes.index(row["label"]) for row in rows], np.int32)
    paths = [path.parent / row["path"] for row in rows]
    if "split" not in columns:
        return _hold_out(paths, labels, classes, holdout)
    is_test = np.array([row["split"] in _TEST for row in rows])
    wrong = {row["split"] for row in rows} - {"train", *_TEST}
    if wrong or is_test.all() or not is_test.any():
        raise ValueError(
            f"`{path}` must say `train`, or one of {', '.join(_TEST)}, in its column "
            f"`split`, and have rows of both; it has {', '.join(wrong) or 'one only'}."
        )
    return _divided(paths, labels, classes, is_test)


def _hold_out(paths, labels, classes, holdout: float) -> Splits:
    is_test = np.zeros(len(labels), bool)
    rng = np.random.default_rng(0)
    for label in range(len(classes)):
        members = rng.permutation(np.flatnonzero(labels == label))
        is_test[members[: max(1, round(holdout * len(members)))]] = len(members) > 1
    return _divided(paths, labels, classes, is_test)


def _divided(paths, labels, classes, is_test) -> Splits:
    train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    return Splits(
        *(
            ImageFiles([paths[i] for i in rows], labels[rows], classes)
            for rows in (train, test)
        )
    )


def _from_idx(path: Path) -> Splits:
    names = [str(i) for i in range(10)]
    if "fashion" in str(path.resolve()).lower():
        names = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt"]
        names += ["sneaker", "bag", "ankle boot"]

    def read(kind):
        found = sorted(path.glob(f"{kind}-ubyte*"))
        if not found:
            raise ValueError(f"`{path}` has no file `{kind}-ubyte` or `.gz` of it.")
        opened = gzip.open if found[0].suffix == ".gz" else open
        try:
            with opened(found[0], "rb") as file:
                data = file.read()
            # 2 zero bytes, the type, the number of axes, each axis in 4 bytes; numbers.
            shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
            numbers = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
            numbers = numbers.reshape(shape) if data[:3] == b"\0\0\x08" else None
        except (ValueError, IndexError, EOFError):
            numbers = None
        if numbers is None:
            raise ValueError(f"`{found[0]}` is no whole IDX file of bytes.")
        return numbers

    return Splits(
        *(
            ArrayImages(
                read(f"{split}-images-idx3")[..., None],
                read(f"{split}-labels-idx1").astype(np.int32),
                names,
            )
            for split in ("train", "t10k")
        )
    )


def _from_hub(source: str | Path, holdout: float) -> Splits:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"There is no folder or file `{source}`; for a data set of the Hugging "
            "Face Hub install `pip install 'eqx_vit[hub]'`."
        ) from error
    data: Any
    try:
        if isinstance(source, Path):
            data = datasets.load_from_disk(str(source))
        else:
            data = datasets.load_dataset(source)
    except Exception as error:  # of many kinds, by what is missing
        raise ValueError(
            f"There is no folder or file `{source}`, and no data set of that name "
            f"could be loaded from the Hugging Face Hub: {error}"
        ) from error
    if not isinstance(data, dict):
        data = {"train": data}
    if "train" not in data:
        raise ValueError(
            f"`{source}` must have a split `train`; it has {', '.join(data)}."
        )
    test = next((name for name in _TEST if name in data), None)
    features = data["train"].features
    image = _feature(source, features, datasets.Image, "image")
    label = _feature(source, features, datasets.ClassLabel, "class label")
    classes = features[label].names
    if test is None:
        halves = data["train"].train_test_split(
            holdout, seed=0, stratify_by_column=label
        )
        splits = (halves["train"], halves["test"])
    else:
        splits = (data["train"], data[test])
    return Splits(*(HubImages(split, image, label, classes) for split in splits))


def _feature(source: str | Path, features: Any, kind: type, what: str) -> str:
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(found) != 1:
        raise ValueError(
            f"`{source}` must have one column of type {what}; it has "
            f"{', '.join(found) or 'none'} (of {', '.join(features)})."
        )
    return found[0]
