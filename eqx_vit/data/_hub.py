"""Data sets of Hugging Face's `datasets`."""

from pathlib import Path
from typing import Any

from ._images import HubImages, Images
from ._names import listed
from ._splits import split_kind


def from_hub(source: str | Path) -> dict[str, Images]:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"There is no folder or file `{source}`; for a data set of the Hugging "
            "Face Hub install `pip install datasets`."
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
        data = {"all": data}
    if len(data) == 1 and all(split_kind(name) == "train" for name in data):
        data = {"all": split for split in data.values()}
    parts = {}
    for name, split in data.items():
        if name != "all" and split_kind(name) is None:
            continue
        image = _feature(source, split.features, datasets.Image, "image")
        label = _feature(source, split.features, datasets.ClassLabel, "class label")
        images = HubImages(split, image, label, split.features[label].names)
        unlabelled = int((images.labels < 0).sum())
        if unlabelled == len(images):  # a hidden test, as the Hub has them
            continue
        if unlabelled:
            raise ValueError(
                f"The split `{name}` of `{source}` has {unlabelled} of {len(images)} "
                "rows without a label; filter them out."
            )
        parts[name] = images
    if not parts:
        raise ValueError(
            f"`{source}` must have a split `train`, or one to test on, with labels; it "
            f"has {listed(list(data))}."
        )
    return parts


def _feature(source: str | Path, features: Any, kind: type, what: str) -> str:
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(found) != 1:
        raise ValueError(
            f"`{source}` must have one column of type {what}; it has "
            f"{', '.join(found) or 'none'} (of {', '.join(features)})."
        )
    return found[0]
