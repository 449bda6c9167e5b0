"""Data sets of Hugging Face's `datasets`."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ._images import HubImages, Images
from ._labels import labelled, of_columns
from ._names import listed
from ._selection import option, Selection
from ._splits import is_split, no_split, split_kind


def from_hub(
    source: str | Path, selection: Selection, wanted: Collection[str] = ()
) -> dict[str, Images]:
    """Return the images of a data set by the name of their split.

    **Arguments:**

    - `source`: The name of a data set, or a folder that `save_to_disk` wrote.
    - `selection`: Its configuration and columns.
    - `wanted`: Splits to open besides those to train and to test on.
    """
    if isinstance(source, Path):
        selection.refuse(source, "which is on disk already", ["config"])
    data = _load(source, selection.config)
    if not isinstance(data, dict):
        data = {"all": data}
    trains = [n for n in data if split_kind(n) == "train" and n not in wanted]
    if len(trains) == len(data) == 1:
        data = {"all": split for split in data.values()}
    for name in wanted:
        if name not in data:
            raise no_split(source, name, list(data))
    parts = {}
    for name, split in data.items():
        if name == "all" or is_split(name, wanted):
            images = _images(source, name, split, selection)
            if images is not None:
                parts[name] = images
    if not parts:
        raise ValueError(
            f"`{source}` must have a split `train`, or one to test on, with labels; it "
            f"has {listed(list(data))}."
        )
    return parts


def _load(source: str | Path, config: str | None) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"There is no folder or file `{source}`; for a data set of the Hugging "
            "Face Hub install `pip install datasets`."
        ) from error
    try:
        if isinstance(source, Path):
            return datasets.load_from_disk(str(source))
        return datasets.load_dataset(source, config)
    except Exception as error:  # of many kinds
        configs = _configs(source) if "config" in str(error).lower() else []
        if configs and config not in configs:
            raise ValueError(
                f"`{source}` has the configurations {listed(configs)}"
                + (f" and no `{config}`" if config else "")
                + f"; choose one: {option('config', configs[0])}."
            ) from error
        raise ValueError(
            f"There is no folder or file `{source}`, and no data set of that name "
            f"could be loaded from the Hugging Face Hub: {error}"
        ) from error


def _configs(source: str | Path) -> list[str]:
    import datasets

    try:
        return datasets.get_dataset_config_names(str(source))
    except Exception:  # the error that led here is the one to show
        return []


def _images(
    source: str | Path, name: str, split: Any, selection: Selection
) -> Images | None:
    """The images of a split; `None` if it has no labels, as a hidden test on the
    Hub."""
    import datasets

    image = _image_column(source, split.features, selection)
    columns = list(_label_columns(source, split.features, selection))
    where = lambda row: f"row {row} of the split `{name}` of `{source}`"
    if len(columns) > 1:
        cells = [split[column][:] for column in columns]
        rows = list(zip(*cells))
        labels, classes = of_columns(rows, where, columns, selection, "class")
        return HubImages(_encoded(split, image), image, labels, classes)
    label = columns[0]
    feature = split.features[label]
    is_list = isinstance(feature, datasets.Sequence | datasets.features.List | list)
    inner = _inner(feature) if is_list else feature
    names = inner.names if isinstance(inner, datasets.ClassLabel) else None
    dtype = str(getattr(inner, "dtype", None))
    if not re.match("u?int|(large_)?string|bool|float", dtype):
        raise ValueError(
            f"The column `{label}` of `{source}` is of type {feature}; it must have "
            "a class label, text or a number, or a list of them, for every image. "
            f"Choose another column of {listed(list(split.features))} with "
            "`--label-column`."
        )
    values = split[label][:]
    unlabelled = sum(
        v is None or (names is not None and not is_list and v < 0) for v in values
    )
    if unlabelled == len(split):
        return None
    if unlabelled:
        raise ValueError(
            f"The split `{name}` of `{source}` has {unlabelled} of {len(split)} rows "
            f"without a label in the column `{label}`; filter them out."
        )
    is_number = dtype.startswith("float")
    kind = "numbers" if is_number else "classes" if is_list else "class"
    if (selection.label_kind or kind) == "numbers" and not is_list:
        names = columns
    labels, classes = labelled(values, where, names, selection, kind)
    return HubImages(_encoded(split, image), image, labels, classes)


def _encoded(split: Any, image: str) -> Any:
    """The images of a split, as the bytes of files."""
    import datasets

    pictures = split.select_columns([image])
    return pictures.cast_column(image, datasets.Image(decode=False))


def _image_column(source: str | Path, features: Any, selection: Selection) -> str:
    import datasets

    found = [
        n for n, feature in features.items() if isinstance(feature, datasets.Image)
    ]
    chosen = selection.column("image_column", source, list(features))
    if chosen is not None and chosen not in found:
        raise ValueError(
            f"{option('image_column', chosen)} must be of type image; it is of type "
            f"{features[chosen]}. Of type image `{source}` has "
            f"{listed(found) or 'no column'}."
        )
    return chosen or _only(source, features, found, "image", "image_column")


def _inner(feature: Any) -> Any:
    """The feature of the items of a list."""
    return feature[0] if isinstance(feature, list) else feature.feature


def _label_columns(
    source: str | Path, features: Any, selection: Selection
) -> tuple[str, ...]:
    import datasets

    if len(selection.label_columns) > 1:
        selection.check_label_columns(source, list(features))
        return selection.label_columns
    chosen = selection.column("label_column", source, list(features))
    found = [
        n for n, feature in features.items() if isinstance(feature, datasets.ClassLabel)
    ]
    found = found or [n for n in ("label", "labels") if n in features]
    only = chosen or _only(source, features, found, "class label", "label_column")
    return (only,)


def _only(
    source: str | Path, features: Any, found: list[str], what: str, field: str
) -> str:
    if len(found) == 1:
        return found[0]
    way_out = f" Choose one: {option(field, found[0])}." if found else ""
    if not found and field == "label_column":
        way_out = " `--label-column` names another column."
    raise ValueError(
        f"`{source}` must have one column of type {what}; it has "
        f"{', '.join(found) or 'none'} (of {', '.join(features)}).{way_out}"
    )
