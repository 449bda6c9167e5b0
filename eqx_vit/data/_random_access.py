"""Sources of one's own, with a length and an item for every index."""

import importlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image

from ._images import Images, Labels, Splits
from ._labels import kind_of_array, labelled, of_columns
from ._names import listed
from ._pixels import decode, Pixels, to_pixels, with_channels
from ._selection import Selection
from ._splits import is_split, no_split


class SourceImages(Images):
    """A source with random access, as Grain's: it has a length, and an item for every
    index."""

    def __init__(
        self,
        source: Any,
        image: str | int,
        labels: Labels,
        classes: Sequence[str],
        called: str,
        rows: Int[np.ndarray, " images"] | None = None,
    ):
        """**Arguments:**

        - `source`: Its items are mappings, or pairs of an image and a label. An image
            is an array of bytes, `(height, width)` or `(height, width, channels)`, the
            bytes of a file, or a Pillow image.
        - `image`: The place of the image in an item.
        - `labels`, `classes`: The class of every image, and the names of the classes.
        - `called`: The name of the source in messages, wherever it lies.
        - `rows`: The indices of the images in the source; by default all.
        """
        self.source, self.image, self.called = source, image, called
        self.labels, self.classes = labels, tuple(classes)
        self.rows = np.arange(len(labels)) if rows is None else rows

    def name(self, index: int) -> str:
        return f"row {self.rows[index]} of {self.called}"

    def read(self, index: int) -> Pixels:
        return self.read_at_least(index, None)

    def read_at_least(self, index: int, size: tuple[int, int] | None) -> Pixels:
        return _pixels(self.source[int(self.rows[index])][self.image], size)

    def subset(self, rows: Int[np.ndarray, " rows"]) -> "SourceImages":
        labels, kept = self.labels[rows], self.rows[rows]
        return SourceImages(
            self.source, self.image, labels, self.classes, self.called, kept
        )


def _pixels(image: Any, least_size: tuple[int, int] | None = None) -> Pixels:
    if isinstance(image, bytes):
        return decode(image, least_size)
    if isinstance(image, Image.Image):
        return to_pixels(image)
    pixels = with_channels(np.asarray(image))
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[-1] in (1, 3):
        return pixels
    raise ValueError(
        f"An image is of type {pixels.dtype} and shape {pixels.shape}; it must be of "
        "type uint8 and shape (height, width) or (height, width, channels), with 1 or "
        "3 channels, or the bytes of a file."
    )


def is_import_path(source: str) -> bool:
    """Whether a source is written as `package.module:name`."""
    return re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", source) is not None


def from_import_path(
    source: str, selection: Selection, wanted: Collection[str] = ()
) -> dict[str, Images]:
    """Return the images of a source of one's own by the name of their split.

    **Arguments:**

    - `source`: `package.module:name` of it, or of a function that returns it.
    - `selection`: The columns of its items.
    - `wanted`: Splits to open besides those to train and to test on.
    """
    selection.refuse(source, "a source of your own", ["config"])
    module, _, name = source.rpartition(":")
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"`{source}` cannot be imported: {error}. A path is `package.module:name`, "
            "of a module that is installed or whose folder is in PYTHONPATH."
        ) from error
    found = found() if callable(found) else found
    if isinstance(found, Splits):
        found = found._asdict()
    splits = found if isinstance(found, Mapping) else {"all": found}
    for split in wanted:
        if split not in splits:
            raise no_split(source, split, list(splits))
    parts = {
        split: _as_images(part, source, split, selection)
        for split, part in splits.items()
        if split == "all" or is_split(split, wanted)
    }
    if not parts:
        raise ValueError(
            f"`{source}` must have a split `train`, or one to test on; it has "
            f"{listed(list(map(str, splits))) or 'none'}."
        )
    return parts


def _as_images(part: Any, source: str, split: str, selection: Selection) -> Images:
    if isinstance(part, Images):
        columns = ["image_column", "label_column", "label_separator"]
        columns += [] if selection.label_kind == part.label_kind else ["label_kind"]
        selection.refuse(source, "which has labels of its own kind", columns)
        return part
    has_items = hasattr(part, "__len__") and hasattr(part, "__getitem__")
    if not has_items or isinstance(part, str | bytes):
        raise ValueError(
            f"`{source}` is of type {type(part).__name__}; it must be or return "
            "`eqx_vit.data.Images`, a source with `__len__` and `__getitem__`, or a "
            "mapping of the names of splits to these."
        )
    called = source if split == "all" else f"the split {split} of {source}"
    if not len(part):
        raise ValueError(f"`{called}` has no items.")
    image, label = _columns(part[0], called, selection)
    if hasattr(part, "labels"):  # so that nothing is read for them
        values, names = part.labels, getattr(part, "classes", None)
    else:
        values, names = _each(part, label), getattr(part, "classes", None)
    where = lambda row: f"row {row} of {called}"
    if getattr(values, "ndim", 1) > 1:
        kind = kind_of_array(values)
        labels, classes = of_columns(values, where, names, selection, kind)
    else:
        kind = kind_of_array(values) if isinstance(values, np.ndarray) else "class"
        labels, classes = labelled(values, where, names, selection, kind)
    if len(labels) != len(part):
        raise ValueError(
            f"`{called}` has {len(part)} items and {len(labels)} `labels`; it must "
            "have one for each."
        )
    return SourceImages(part, image, labels, classes, called)


def _each(source: Any, column: str | int) -> Iterator[Any]:
    return (source[row][column] for row in range(len(source)))


def _columns(
    item: Any, called: str, selection: Selection
) -> tuple[str | int, str | int]:
    """The places of image and label in an item."""
    if isinstance(item, tuple | list) and len(item) == 2:
        columns = ["image_column", "label_column"]
        selection.refuse(called, "whose items are pairs", columns)
        return 0, 1
    if not isinstance(item, Mapping):
        raise ValueError(
            f"The items of `{called}` are of type {type(item).__name__}; they must be "
            "mappings, or pairs of an image and a label."
        )
    names = list(map(str, item))
    image = selection.column("image_column", called, names) or "image"
    label = selection.column("label_column", called, names) or "label"
    if image not in item or label not in item:
        raise ValueError(
            f"The items of `{called}` must have `{image}` and `{label}`; they have "
            f"{listed(names) or 'none'}. `--image-column` and `--label-column` name "
            "others."
        )
    return image, label
