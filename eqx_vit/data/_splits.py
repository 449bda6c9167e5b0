"""The parts of a source of images: to train on, and to test on."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ._images import Images, Splits
from ._names import listed


# The names of splits, in any capitals: to train on, and to test on, the first first.
TRAIN = ("train", "training")
TEST = ("val", "valid", "validation", "validate", "test", "testing", "eval", "dev")


def split_kind(name: str) -> str | None:
    """`"train"`, `"test"`, or `None` for what is not the name of a split."""
    name = _plain(name)
    return "train" if name in TRAIN else "test" if name in TEST else None


def _plain(name: str) -> str:
    """The name of a split without capitals, and what else is put to it: `Test_set`,
    `train2017`."""
    return re.sub(r"[\W_\d]*(set|data|images|split)?[\W_\d]*$", "", name.casefold())


def divided(source: str | Path, parts: dict[str, Images], holdout: float) -> Splits:
    """Return what [`eqx_vit.data.open_data`][] does, of parts that are open.

    **Arguments:**

    - `source`, `holdout`: As there.
    - `parts`: What `open_parts(source)` returned.

    **Raises:** as there.
    """
    kinds = {name: split_kind(name) for name in parts}
    train = next(
        (parts[name] for name in parts if name == "all" or kinds[name] == "train"), None
    )
    if train is None:
        raise ValueError(
            f"`{source}` has images to test on ({listed(list(parts))}) and none to "
            "train on; add a split `train`."
        )
    if len(train.classes) < 2:
        raise ValueError(
            f"`{source}` must have images of two classes or more to train on; found "
            f"{listed(train.classes) or 'none'}."
        )
    test = evaluation_split(parts)
    if test is None:
        return _hold_out(source, train, holdout)
    unknown = sorted(set(parts[test].classes) - set(train.classes))
    if unknown:
        raise ValueError(
            f"The split `{test}` of `{source}` has the classes {', '.join(unknown)}, "
            "which the split to train on does not have."
        )
    places = [train.classes.index(name) for name in parts[test].classes]
    test_images = parts[test].relabelled(np.array(places, np.int32), train.classes)
    return Splits(train, test_images)


def no_split(source: str | Path, name: str, names: Sequence[str]) -> ValueError:
    """Return the error for a split that a source does not have."""
    return ValueError(f"`{source}` has no split `{name}`; it has {listed(names)}.")


def evaluation_split(parts: dict[str, Images]) -> str | None:
    """Return the name of the part to test on, if there is one."""
    names = [name for name in parts if split_kind(name) == "test"]
    return min(names, key=lambda name: TEST.index(_plain(name)), default=None)


def _hold_out(source: str | Path, images: Images, holdout: float) -> Splits:
    is_test = np.zeros(len(images), bool)
    rng = np.random.default_rng(0)
    for label in range(len(images.classes)):
        members = rng.permutation(np.flatnonzero(images.labels == label))
        # (One at least to test on, and one to train on.)
        count = min(max(1, round(holdout * len(members))), len(members) - 1)
        is_test[members[: max(0, count)]] = True
    if not is_test.any():
        raise ValueError(
            f"`{source}` has one image in every class, so that none can be held out to "
            "test on; add images, or a split to test on."
        )
    return Splits(
        *(images.subset(np.flatnonzero(part)) for part in (~is_test, is_test))
    )
