"""Data sets of TensorFlow Datasets in ArrayRecord files."""

import importlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from ._images import Images
from ._labels import labelled
from ._names import listed
from ._random_access import SourceImages
from ._selection import option, Selection
from ._splits import is_split, no_split


PREFIX = "tfds:"


def is_prepared(folder: Path) -> bool:
    """Whether TensorFlow Datasets prepared a folder."""
    return all((folder / f"{name}.json").exists() for name in _FILES)


_FILES = ("dataset_info", "features")


def from_tfds(
    source: str | Path, selection: Selection, wanted: Collection[str] = ()
) -> dict[str, Images]:
    """Return the images of a data set by the name of their split.

    **Arguments:**

    - `source`: `tfds:NAME`, or a folder that is prepared.
    - `selection`: Its configuration and features.
    - `wanted`: Splits to open besides those to train and to test on.
    """
    try:
        tfds: Any = importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise ValueError(
            f"`{source}` is a data set of TensorFlow Datasets, which needs `pip "
            "install tensorflow-datasets array-record importlib-resources`."
        ) from error
    builder = _builder(tfds, source, selection)
    splits = list(builder.info.splits)
    for name in wanted:
        if name not in splits:
            raise no_split(source, name, splits)
    names = [name for name in splits if is_split(name, wanted)]
    if not names:
        raise ValueError(
            f"`{source}` must have a split `train`, or one to test on; it has "
            f"{listed(splits) or 'none'}."
        )
    features = dict(builder.info.features.items())
    image = _feature(source, features, selection, "image_column", tfds.features.Image)
    label = _feature(
        source, features, selection, "label_column", tfds.features.ClassLabel
    )
    open_split = lambda name: _images(tfds, builder, name, image, label, selection)
    return {name: open_split(name) for name in names}


def _builder(tfds: Any, source: str | Path, selection: Selection) -> Any:
    if isinstance(source, Path):
        selection.refuse(source, "which is prepared already", ["config"])
        return tfds.builder_from_directory(source)
    name = source.removeprefix(PREFIX)
    name = name if selection.config is None else f"{name}/{selection.config}"
    try:
        builder = tfds.builder(name, file_format="array_record")
        builder.download_and_prepare()
    except Exception as error:  # of many kinds
        raise ValueError(
            f"`{source}` could not be prepared by TensorFlow Datasets: {_line(error)}"
        ) from error
    return builder


def _line(error: Exception) -> str:
    """The first line of an error. (Of an unknown name all that are known follow.)"""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _images(
    tfds: Any,
    builder: Any,
    split: str,
    image: str,
    label: str,
    selection: Selection,
) -> SourceImages:
    classes, kind = _classes_of(builder.info.features[label])
    # (Images are decoded where they are read.)
    kept = {
        name: tfds.decode.SkipDecoding()
        for name, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    called = f"the split {split} of {builder.info.full_name}"
    try:
        source = builder.as_data_source(split=split, decoders=kept)
    except (NotImplementedError, ValueError) as error:
        raise ValueError(
            f"{called} has no random access: {error} Prepare it with "
            '`file_format="array_record"`.'
        ) from error
    values = (source[row][label] for row in range(len(source)))
    where = lambda row: f"row {row} of {called}"
    labels, names = labelled(values, where, classes, selection, kind)
    return SourceImages(source, image, labels, names, called)


def _classes_of(feature: Any) -> tuple[list[str] | None, str]:
    """The names of the classes of a feature, if it knows them, and its kind of
    labels."""
    is_sequence = hasattr(feature, "feature")
    inner = feature.feature if is_sequence else feature
    if names := getattr(inner, "names", None):
        return names, "classes" if is_sequence else "class"
    dtype = getattr(inner, "np_dtype", None)
    is_number = dtype is not None and np.dtype(dtype).kind == "f"
    return None, "numbers" if is_number else "classes" if is_sequence else "class"


def _feature(
    source: str | Path,
    features: dict[str, Any],
    selection: Selection,
    field: str,
    kind: type,
) -> str:
    chosen = selection.column(field, source, list(features))
    if chosen is not None:
        return chosen
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if not found and field == "label_column" and "label" in features:
        return "label"
    if len(found) == 1:
        return found[0]
    way_out = f" Choose one: {option(field, (found or list(features))[0])}."
    raise ValueError(
        f"`{source}` must have one feature of type {kind.__name__}; it has "
        f"{listed(found) or 'none'} (of {listed(list(features))}).{way_out}"
    )
