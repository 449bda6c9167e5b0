"""Files of arrays."""

import gzip
import zipfile
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ._images import ArrayImages, Images
from ._labels import class_name, kind_of_array, labelled, of_columns
from ._names import listed
from ._selection import Selection
from ._splits import is_split


def from_idx(path: Path) -> dict[str, Images]:
    """Return the images of a folder with the files of MNIST by the name of their
    split."""
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
            raise ValueError(f"`{found[0]}` is not a complete IDX file of bytes.")
        return numbers

    def images(split):
        pixels, labels = read(f"{split}-images-idx3"), read(f"{split}-labels-idx1")
        highest = int(labels.max(initial=0))
        if pixels.ndim != 3 or labels.ndim != 1 or len(pixels) != len(labels):
            raise ValueError(
                f"The files `{split}-*` in `{path}` do not belong together: images of "
                f"shape {pixels.shape} and labels of shape {labels.shape}."
            )
        if highest >= len(names):
            raise ValueError(
                f"`{path}` has a label {highest} in its files `{split}-*`; it must be "
                f"below {len(names)}."
            )
        return ArrayImages(pixels[..., None], labels.astype(np.int32), names)

    return {"train": images("train"), "test": images("t10k")}


# The names of arrays in a NumPy file, alone or with a split: `train_images`, `x_train`.
_IMAGES = ("images", "image", "x")
_LABELS = ("labels", "label", "y")


def from_npz(
    path: Path, selection: Selection, wanted: Collection[str] = ()
) -> dict[str, Images]:
    """Return the images of a NumPy file by the name of their split.

    **Arguments:**

    - `path`, `selection`: The file, and the names of its arrays.
    - `wanted`: Further names of splits.
    """
    selection.refuse(path, "a NumPy file", ["config"])
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"`{path}` is not a complete NumPy file of several arrays; write it by "
            "`np.savez(path, images=images, labels=labels)`."
        )
    with np.load(path, allow_pickle=False) as file:
        names_of = lambda chosen, usual: usual if chosen is None else [chosen]
        columns = names_of(selection.image_column, _IMAGES)
        images = _by_split(path, file.files, columns, wanted)
        columns = names_of(selection.label_column, _LABELS)
        labels = _by_split(path, file.files, columns, wanted)
        is_mixed = "all" in images and len(images) > 1
        if not images or images.keys() != labels.keys() or is_mixed:
            raise ValueError(
                f"`{path}` must have the arrays `images` and `labels`, or these for "
                "every split (`train_images`, `train_labels`, `test_images`, ...); it "
                f"has {listed(file.files) or 'none'}. `--image-column` and "
                "`--label-column` name other arrays."
            )
        names = _array(path, file, "classes") if "classes" in file.files else None
        if names is not None and (names.ndim != 1 or names.dtype.kind not in "US"):
            raise ValueError(
                f"`classes` in `{path}` must be a list of names, one a class; it is of "
                f"type {names.dtype} and shape {names.shape}."
            )
        classes = None if names is None else [class_name(name) for name in names]
        return {
            split: _of_arrays(
                path, file, images[split], labels[split], classes, selection
            )
            for split in images
        }


def _by_split(
    path: Path, names: Sequence[str], columns: Sequence[str], wanted: Collection[str]
) -> dict[str, str]:
    """Map the name of every split to its array."""
    found: dict[str, str] = {}
    for name in names:
        split = _split_of(name, columns, wanted)
        if split is not None and found.setdefault(split, name) != name:
            raise ValueError(
                f"`{path}` has the arrays `{found[split]}` and `{name}` of one kind; "
                "choose one with `--image-column` or `--label-column`."
            )
    return found


def _split_of(name: str, columns: Sequence[str], wanted: Collection[str]) -> str | None:
    for column in columns:
        if name == column:
            return "all"
        for split in (name.removesuffix(f"_{column}"), name.removeprefix(f"{column}_")):
            if split != name and is_split(split, wanted):
                return split
    return None


def _array(path: Path, file: Any, name: str) -> np.ndarray:
    try:
        return file[name]
    except ValueError as error:
        raise ValueError(
            f"The array `{name}` in `{path}` cannot be read: {error} Python objects "
            "(pickles) are not loaded, since they can run code; save arrays of numbers "
            "or of text."
        ) from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"The array `{name}` in `{path}` is damaged: {error}. Copy the file again."
        ) from error


def _of_arrays(
    path: Path,
    file: Any,
    image: str,
    label: str,
    classes: Sequence[str] | None,
    selection: Selection,
) -> ArrayImages:
    pixels, values = _array(path, file, image), _array(path, file, label)
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    if pixels.dtype != np.uint8:
        raise ValueError(
            f"`{image}` in `{path}` is of type {pixels.dtype}; it must be uint8. "
            "Images in [0, 1] are saved as `np.round(255 * images).astype(np.uint8)`."
        )
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3):
        raise ValueError(
            f"`{image}` in `{path}` is of shape {pixels.shape}; it must be (images, "
            "height, width) or (images, height, width, channels) with 1 or 3 channels."
        )
    if values.ndim not in (1, 2) or len(values) != len(pixels):
        raise ValueError(
            f"`{label}` in `{path}` is of shape {values.shape}; it must have one class "
            f"for each of the {len(pixels)} images of `{image}`, or a row: of 1 for "
            "each class that the image is of and 0 for the others, or of numbers."
        )
    where = lambda place: f"`{path}`, row {place} of `{label}`"
    kind = kind_of_array(values)
    is_many = (selection.label_kind or kind) == "classes"
    if values.ndim == 2 and (is_many or values.shape[1] > 1):
        labels, names = of_columns(values, where, classes, selection, kind)
    else:
        labels, names = labelled(values.reshape(-1), where, classes, selection, kind)
    return ArrayImages(pixels, labels, names)
