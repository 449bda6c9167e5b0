"""Sources of labelled images."""

from pathlib import Path

import numpy as np

from ._arrays import from_idx
from ._csv import from_csv
from ._digits import digits
from ._folder import from_folder
from ._hub import from_hub
from ._images import ArrayImages, Images, Part, Splits
from ._names import listed
from ._splits import divided, evaluation_split


def open_data(source: str | Path = "digits", holdout: float = 0.1) -> Splits:
    """Open labelled images to train and test a classifier on.

    **Arguments:**

    - `source`: One of

        - `"digits"`, [`eqx_vit.data.digits`][], which needs no download;
        - a folder with one sub-folder of images per class, or two such folders called
            `train` and `val`, `validation` or `test` (in capitals or not);
        - a CSV file in UTF-8 with the columns `path` (from the file's own folder),
            `label`, and maybe `split` (`train`, or `val`, `validation` or `test`);
        - a folder with the four files of MNIST or Fashion-MNIST
            (`train-images-idx3-ubyte.gz`, ...);
        - the name of a data set on the [Hugging Face Hub](https://hf.co/datasets), or a
            folder that its `save_to_disk` wrote.

        In folders, hidden files and folders, those of the system and run folders of
        `eqx-vit train` are left out, and links are followed.

    - `holdout`: The share of every class that is held out for the test where the source
        has no split for it, always the same images; in (0, 1).

    **Returns:**

    The images to train on and those to test on, with the same `classes`. These are
    sorted: as numbers if all of them are whole numbers, else as text.

    **Raises:**

    A `ValueError` that says what is missing.
    """
    if not 0 < holdout < 1:
        raise ValueError(f"`holdout={holdout}` must be between 0 and 1; 0.1 is usual.")
    return divided(source, open_parts(source), holdout)


def open_part(source: str | Path, split: str | None = None) -> Part:
    """Open labelled images to evaluate a model on.

    **Arguments:**

    - `source`: As in [`eqx_vit.data.open_data`][]; a split to train on is not needed.
    - `split`: The name of a split of the source, or `"all"` for all images of a source
        without. By default its `val`, `validation` or `test`, the first that there is;
        without any split, all images.

    **Raises:**

    A `ValueError` that says what is missing.
    """
    parts = open_parts(source)
    name = evaluation_split(parts) or next(iter(parts)) if split is None else split
    if name not in parts:
        raise ValueError(
            f"`{source}` has no split `{name}`; it has {listed(list(parts))}."
        )
    return Part(parts[name], name)


def open_parts(source: str | Path) -> dict[str, Images]:
    """Return the images of a source by the name of their split; `all` if there is none.

    **Arguments:**

    - `source`: As in [`eqx_vit.data.open_data`][].

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
        return {"train": train, "test": test}
    if not str(source).strip():
        raise ValueError("The source of the images is an empty name; give a folder.")
    if path.suffix.lower() == ".csv" and path.exists():
        return from_csv(path)
    if not path.exists():
        return from_hub(str(source))
    if not path.is_dir():
        raise ValueError(f"`{path}` is neither a folder of images nor a CSV file.")
    if any(path.glob("*-images-idx3-ubyte*")):
        return from_idx(path)
    if any((path / name).exists() for name in ("dataset_dict.json", "state.json")):
        return from_hub(path)
    return from_folder(path)
