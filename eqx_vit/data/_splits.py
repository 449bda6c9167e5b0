"""The parts of a source of images: to train on, and to test on."""

import logging
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from ._images import Images, Splits
from ._names import listed


_logger = logging.getLogger("eqx_vit")

# The names of splits, in any capitals: to train on, and to test on, the first first.
TRAIN = ("train", "training")
TEST = ("val", "valid", "validation", "validate", "test", "testing", "eval", "dev")


def split_kind(name: str) -> str | None:
    """`"train"`, `"test"`, or `None` for any other name."""
    name = _plain(name)
    return "train" if name in TRAIN else "test" if name in TEST else None


def _plain(name: str) -> str:
    """The name of a split without capitals and additions: `Test_set`,
    `train2017`."""
    return re.sub(r"[\W_\d]*(set|data|images|split)?[\W_\d]*$", "", name.casefold())


def is_split(name: str, others: Collection[str] = ()) -> bool:
    """Whether a name is the usual one of a split, or one of the others."""
    return split_kind(name) is not None or name in others


def divided(
    source: str | Path,
    parts: dict[str, Images],
    holdout: float,
    *,
    train_split: str | None = None,
    test_split: str | None = None,
) -> Splits:
    """Return what [`eqx_vit.data.open_data`][] does, of parts that are open.

    **Arguments:**

    - `source`, `holdout`, `train_split`, `test_split`: As there.
    - `parts`: What `open_parts(source)` returned.

    **Raises:** as there.
    """
    for name in (train_split, test_split):
        if name is not None and name not in parts:
            raise no_split(source, name, list(parts))
    if train_split is not None and train_split == test_split:
        raise ValueError(
            f"`{source}` cannot be trained on and tested on the same split "
            f"`{train_split}`; leave out the split to test on to hold some images out."
        )
    usual = [n for n in parts if n == "all" or split_kind(n) == "train"]
    usual = [name for name in usual if name != test_split]
    chosen = usual[0] if train_split is None and usual else train_split
    train = None if chosen is None else parts[chosen]
    if train is None:
        raise ValueError(
            f"`{source}` has images to test on ({listed(list(parts))}) and none to "
            "train on; add a split `train`, or name one with `--train-split`."
        )
    if len(train.classes) < 2 and train.label_kind == "class":
        raise ValueError(
            f"`{source}` must have images of two classes or more to train on; found "
            f"{listed(train.classes) or 'none'}."
        )
    test = evaluation_split(parts, train_split, test_split)
    if test is None:
        return _hold_out(source, train, holdout)
    if parts[test].label_kind != train.label_kind:
        raise ValueError(
            f"`{source}` has labels of the kind {train.label_kind!r} to train on, and "
            f"{parts[test].label_kind!r} in the split `{test}`; `--label-kind` chooses "
            "one for both."
        )
    unknown = sorted(set(parts[test].classes) - set(train.classes))
    if unknown:
        raise ValueError(
            f"The split `{test}` of `{source}` has the classes {', '.join(unknown)}, "
            "which the split to train on does not have."
        )
    untrained = _used(parts[test]) - _used(train)
    if untrained:
        _logger.warning(
            f"{source}: images to test on are of {listed(sorted(untrained))}, which no "
            "image to train on is of."
        )
    places = [train.classes.index(name) for name in parts[test].classes]
    test_images = parts[test].relabelled(np.array(places, np.int32), train.classes)
    return Splits(train, test_images)


def no_split(source: str | Path, name: str, names: Sequence[str]) -> ValueError:
    """Return the error for a split that a source does not have."""
    return ValueError(f"`{source}` has no split `{name}`; it has {listed(names)}.")


def evaluation_split(
    parts: dict[str, Images],
    train_split: str | None = None,
    test_split: str | None = None,
) -> str | None:
    """Return the name of the part to test on, if there is one.

    **Arguments:**

    - `parts`: The parts of a source by name.
    - `train_split`, `test_split`: The names of the splits to train and to test on.
    """
    if test_split is not None:
        return test_split
    names = [n for n in parts if split_kind(n) == "test" and n != train_split]
    return min(names, key=lambda name: TEST.index(_plain(name)), default=None)


def _used(images: Images) -> set[str]:
    """The names of the classes that have images."""
    if images.label_kind == "numbers":
        return set()
    return {images.classes[place] for place in images.used().tolist()}


def _hold_out(source: str | Path, images: Images, holdout: float) -> Splits:
    is_test = np.zeros(len(images), bool)
    rng = np.random.default_rng(0)
    groups = _groups(images)
    least = 2 if images.label_kind == "numbers" else 1  # which R2 needs
    for group in np.unique(groups):
        members = rng.permutation(np.flatnonzero(groups == group))
        # (One at least to test on, and one to train on.)
        count = min(max(least, round(holdout * len(members))), len(members) - 1)
        is_test[members[: max(0, count)]] = True
    if not is_test.any():
        raise ValueError(
            f"`{source}` has one image in every class, so that none can be held out to "
            "test on; add images, or a split to test on."
        )
    return Splits(
        *(images.subset(np.flatnonzero(part)) for part in (~is_test, is_test))
    )


def _groups(images: Images) -> Int[np.ndarray, " images"]:
    """The group of every image, of each of which a share is held out: its class; the
    rarest of its classes, or -1 for none; one group of all images with numbers."""
    if images.label_kind == "class":
        return images.labels
    if images.label_kind == "numbers":
        return np.zeros(len(images), np.int64)
    sizes = np.where(images.labels, images.labels.sum(axis=0), len(images) + 1)
    return np.where(images.labels.any(axis=1), sizes.argmin(axis=1), -1)
