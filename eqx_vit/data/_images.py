"""Labelled images, one at a time."""

import copy
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from ._pixels import decode, Pixels, to_pixels


# One class an image; several; numbers.
Labels = (
    Int[np.ndarray, " images"]
    | Bool[np.ndarray, "images classes"]
    | Float[np.ndarray, "images numbers"]
)


class Images:
    """Labelled images, read when they are asked for.

    A data set of your own is a class with these attributes and methods.

    - `labels`: For one class an image an array of integers, indices into `classes`; for
        any number of classes an image an array of booleans, `(images, classes)`; for
        numbers an array of floats, `(images, numbers)`.
    - `classes`: The name of every class, or of every number.
    """

    labels: Labels
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def label_kind(self) -> str:
        """What the labels are: `"class"`, `"classes"` or `"numbers"`."""
        kinds = {"b": "classes", "f": "numbers"}
        return kinds.get(self.labels.dtype.kind, "class")

    def used(self) -> Int[np.ndarray, " used"]:
        """The places of the classes that have images, in order."""
        if self.label_kind == "class":
            return np.unique(self.labels)
        return np.flatnonzero(self.labels.any(axis=0))

    def name(self, index: int) -> str:
        """The name of an image in messages."""
        return f"image {index}"

    def label_text(self, index: int) -> str:
        """The label of an image in pictures: its classes, or its numbers."""
        label = self.labels[index]
        if self.label_kind == "class":
            return self.classes[label]
        if self.label_kind == "numbers":
            return " ".join(f"{number:.3g}" for number in label)
        names = [self.classes[place] for place in np.flatnonzero(label)]
        return ", ".join(names) or "none"

    def key(self, index: int) -> str:
        """A key that identifies an image, wherever the data lies."""
        return self.name(index)

    def read(self, index: int) -> Pixels:
        """The pixels of an image, of 1 or 3 channels. Raises an `OSError` if it cannot
        be read."""
        raise NotImplementedError

    def subset(self, rows: Int[np.ndarray, " rows"]) -> "Images":
        """Some of the images: those at `rows`, in that order."""
        raise NotImplementedError

    def relabelled(
        self, places: Int[np.ndarray, " classes"], classes: Sequence[str]
    ) -> "Images":
        """The same images with other classes.

        **Arguments:**

        - `places`: The place of each of the old classes in the new ones.
        - `classes`: The new classes.
        """
        new = copy.copy(self)
        new.classes = tuple(classes)
        if self.label_kind == "class":
            new.labels = places[self.labels]
            return new
        new.labels = np.zeros((len(self), len(classes)), self.labels.dtype)
        for column, place in zip(self.labels.T, places):
            new.labels[:, place] += column  # (Of booleans it is `or`.)
        return new

    def fingerprint(self) -> dict[str, list]:
        """Map the name of every class to the number of its images and a digest of
        their keys: equal if labels and images are, in any order. (Images of no class
        have an empty name. The name of a number has all images, and the digest is of
        its values, too.)"""
        digests = {name: [0, 0] for name in self.classes}
        for index, label in enumerate(self.labels):
            for name, value in self._said_of(label):
                key = self.key(index) + value
                hashed = hashlib.blake2b(key.encode(), digest_size=8).digest()
                entry = digests.setdefault(name, [0, 0])
                entry[0] += 1
                entry[1] = (entry[1] + int.from_bytes(hashed)) % 2**64
        return {name: [n, f"{digest:016x}"] for name, (n, digest) in digests.items()}

    def _said_of(self, label: Any) -> list[tuple[str, str]]:
        """The names in a label, each with its value if it is a number."""
        if self.label_kind == "class":
            return [(self.classes[label], "")]
        if self.label_kind == "classes":
            names = [self.classes[place] for place in np.flatnonzero(label)]
            return [(name, "") for name in names or [""]]
        values = [f"\0{value}" for value in label.tolist()]
        return list(zip(self.classes, values))


class ArrayImages(Images):
    """Images in memory."""

    def __init__(
        self,
        pixels: UInt8[np.ndarray, "images height width channels"],
        labels: Labels,
        classes: Sequence[str],
    ):
        self.pixels, self.labels, self.classes = pixels, labels, tuple(classes)

    def key(self, index: int) -> str:
        return hashlib.blake2b(self.pixels[index].tobytes()).hexdigest()

    def read(self, index: int) -> Pixels:
        return self.pixels[index]

    def subset(self, rows: Int[np.ndarray, " rows"]) -> "ArrayImages":
        return ArrayImages(self.pixels[rows], self.labels[rows], self.classes)


class ImageFiles(Images):
    """Image files of any format that Pillow reads."""

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Labels,
        classes: Sequence[str],
        root: Path | None = None,
    ):
        """**Arguments:**

        - `paths`, `labels`, `classes`: The files, their classes, and their names.
        - `root`: The folder that a copy of the data elsewhere would replace.
        """
        self.paths, self.labels, self.classes = list(paths), labels, tuple(classes)
        self.root = root

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def key(self, index: int) -> str:
        path = self.paths[index]
        return os.path.relpath(path, self.root) if self.root else str(path)

    def read(self, index: int) -> Pixels:
        return self.read_at_least(index, None)

    def read_at_least(self, index: int, size: tuple[int, int] | None) -> Pixels:
        """As `read`, but a JPEG file that has many more pixels than the `(height,
        width)` of `size` is read faster with fewer. `None` reads all of them."""
        return decode(Path(self.paths[index]).read_bytes(), size)

    def subset(self, rows: Int[np.ndarray, " rows"]) -> "ImageFiles":
        paths = [self.paths[row] for row in rows]
        return ImageFiles(paths, self.labels[rows], self.classes, self.root)


class HubImages(Images):
    """A split of a data set of Hugging Face's `datasets`."""

    def __init__(
        self,
        split: Any,
        image: str,
        labels: Labels,
        classes: Sequence[str],
        rows: Int[np.ndarray, " images"] | None = None,
    ):
        """**Arguments:**

        - `split`: A `datasets.Dataset`.
        - `image`: Its column of images, decoded or not (`Image(decode=False)`).
        - `labels`, `classes`: The class of every image, and the names of the classes.
        - `rows`: The rows of the images in the whole split; by default all.
        """
        self.split, self.image = split, image
        self.labels, self.classes = labels, tuple(classes)
        self.rows = np.arange(len(labels)) if rows is None else rows

    def name(self, index: int) -> str:
        owner = self.split.info.dataset_name or "the data set"
        return f"row {self.rows[index]} of {owner}"

    def read(self, index: int) -> Pixels:
        return self.read_at_least(index, None)

    def read_at_least(self, index: int, size: tuple[int, int] | None) -> Pixels:
        image = self.split[index][self.image]
        if not isinstance(image, dict):
            return to_pixels(image)
        data = image["bytes"]
        data = Path(image["path"]).read_bytes() if data is None else data
        return decode(data, size)

    def subset(self, rows: Int[np.ndarray, " rows"]) -> "HubImages":
        split, kept = self.split.select(rows), self.rows[rows]
        return HubImages(split, self.image, self.labels[rows], self.classes, kept)


class Splits(NamedTuple):
    """Images to train on, and to test on."""

    train: Images
    test: Images


class Part(NamedTuple):
    """Labelled images to evaluate on.

    - `images`: The images.
    - `name`: The name of the split, `"val"`; or `"all"`.
    """

    images: Images
    name: str
