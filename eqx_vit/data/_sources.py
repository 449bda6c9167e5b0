"""Sources of labelled images."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from ._arrays import from_idx, from_npz
from ._csv import from_csv, from_metadata
from ._digits import digits
from ._folder import from_folder, has_images_inside, metadata_files
from ._hub import from_hub
from ._images import ArrayImages, Images, Part, Splits
from ._random_access import from_import_path, is_import_path
from ._selection import Selection
from ._shards import from_shards, is_pattern, matching, shards_in
from ._splits import divided, evaluation_split, no_split, split_kind
from ._tfds import from_tfds, is_prepared, PREFIX


def open_data(
    source: str | Path = "digits",
    holdout: float = 0.1,
    *,
    config: str | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    label_kind: str | None = None,
    label_separator: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
) -> Splits:
    """Open labelled images to train and test a classifier on.

    **Arguments:**

    - `source`: One of

        - `"digits"`, [`eqx_vit.data.digits`][], which needs no download;
        - a folder with one sub-folder of images per class, or two such folders called
            `train` and `val`, `validation` or `test` (in capitals or not);
        - a CSV file in UTF-8 with the columns `path` (from the file's own folder),
            `label`, and maybe `split` (`train`, or `val`, `validation` or `test`);
        - a folder of images with a file `metadata.csv` or `metadata.jsonl`, in it or in
            each of its folders `train`, `val`, ..., as Hugging Face's `imagefolder`:
            with the columns `file_name` (from the file's own folder) and `label`;
        - the name of a data set on the [Hugging Face Hub](https://hf.co/datasets), or a
            folder that its `save_to_disk` wrote. Its labels are class labels, text or
            whole numbers;
        - a folder of tar files, or a pattern of their names
            (`shards/train-{000..003}.tar`, `shards/*.tar`), with samples as
            [WebDataset](https://github.com/webdataset/webdataset) writes them: files
            whose names are equal up to the first dot, one an image, one with its class
            (`cls` or `txt`, or `json` with the field `label`). The split is in the name
            of the tar file or of its folder. A file `classes.txt` or `labels.txt`
            beside them has the name of one class a line, and numbers are lines of it,
            from 0; without it the classes are the labels;
        - a NumPy file (`.npz`) with the arrays `images`, of type uint8 and shape
            `(images, height, width)` or `(images, height, width, channels)`, `labels`,
            and maybe the names `classes`; or `train_images`, `train_labels`,
            `test_images`, `test_labels` (and `val_`, as MedMNIST's), or `x_train`,
            `y_train`, ...;
        - a folder with the four files of MNIST or Fashion-MNIST
            (`train-images-idx3-ubyte.gz`, ...);
        - `tfds:NAME` of a data set of
            [TensorFlow Datasets](https://www.tensorflow.org/datasets), or a folder that
            it prepared with `file_format="array_record"`;
        - a source of your own, as `package.module:name`: [`eqx_vit.data.Images`][], or
            a random-access source of Grain's (it has `__len__` and `__getitem__`), or a
            mapping of the names of splits to these, or a function that returns one. The
            items of a random-access source are mappings with `image` and `label`, or
            pairs; an image is an array of type uint8, or the bytes of a file. Each item
            is read once for its label, unless the source has an attribute `labels`
            (and maybe `classes`).

        In folders, hidden files and folders, system folders and run folders of
        `eqx-vit train` are left out, and links are followed.

    - `holdout`: The share of every class that is held out for the test where the source
        has no split for it, always the same images; in (0, 1).
    - `config`: The configuration of a data set of the Hub or of TensorFlow Datasets
        that has several. (This and the next are keyword only arguments.)
    - `image_column`, `label_column`: The columns of images and labels, where their
        names are others, or where there are several: columns of a table, arrays of a
        NumPy file, files of a sample in a tar file (`"jpg"`, `"cls"`) or a field of its
        JSON. In CSV files, metadata and data sets of the Hub there can be several
        columns of labels: numbers, or 0 and 1 for every class.
    - `label_kind`: `"class"` for one class an image; `"classes"` for any number of
        classes, none too; `"numbers"` for one or more numbers. By default a data set of
        the Hub or of TensorFlow Datasets says it by the type of its column, a NumPy
        file by that of its array (floats are numbers, rows of 0 and 1 classes), and
        others have one class an image.
    - `label_separator`: The text between the names of several classes in one cell. By
        default `;` and `|`.
    - `train_split`, `test_split`: The splits to train and to test on, by name, where
        these are others (`"fold_1"`), or where there are several.

    **Returns:**

    The images to train on and those to test on, with the same `classes`. These are
    in the order of the source if it has one, else sorted: as numbers if all of them are
    whole numbers, else as text.

    **Raises:**

    A `ValueError` that names the missing part, or the argument that does not go with
    the source.
    """
    if not 0 < holdout < 1:
        raise ValueError(f"`holdout={holdout}` must be between 0 and 1; 0.1 is usual.")
    selection = _selection(
        config, image_column, label_column, label_kind, label_separator
    )
    others = [name for name in (train_split, test_split) if name is not None]
    parts = _open(source, selection, others)
    return divided(
        source, parts, holdout, train_split=train_split, test_split=test_split
    )


def open_part(
    source: str | Path,
    split: str | None = None,
    *,
    config: str | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    label_kind: str | None = None,
    label_separator: str | None = None,
) -> Part:
    """Open labelled images to evaluate a model on.

    **Arguments:**

    - `source`: As in [`eqx_vit.data.open_data`][]; a split to train on is not needed.
    - `split`: The name of a split of the source, or `"all"` for all images of a source
        without. By default its `val`, `validation` or `test`, the first that there is;
        without any split, all images.
    - `config`, `image_column`, `label_column`, `label_kind`, `label_separator`: As in
        [`eqx_vit.data.open_data`][]. (Keyword only arguments.)

    **Raises:**

    A `ValueError` that names the missing part.
    """
    selection = _selection(
        config, image_column, label_column, label_kind, label_separator
    )
    # (Splits are opened by their usual names, and any other when it is asked for.)
    others = [] if split is None or split == "all" or split_kind(split) else [split]
    parts = _open(source, selection, others)
    name = evaluation_split(parts) or next(iter(parts)) if split is None else split
    if name not in parts:
        raise no_split(source, name, list(parts))
    return Part(parts[name], name)


def open_parts(
    source: str | Path,
    *,
    config: str | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    label_kind: str | None = None,
    label_separator: str | None = None,
    splits: Collection[str] = (),
) -> dict[str, Images]:
    """Return the images of a source by the name of their split; `all` if there is none.

    **Arguments:**

    - `source`, `config`, `image_column`, `label_column`, `label_kind`,
        `label_separator`: As in [`eqx_vit.data.open_data`][].
    - `splits`: Names of splits to open besides the usual ones.

    **Raises:**

    A `ValueError` that names the missing part.
    """
    selection = _selection(
        config, image_column, label_column, label_kind, label_separator
    )
    return _open(source, selection, splits)


def _selection(
    config: str | None,
    image_column: str | None,
    label_column: str | Sequence[str] | None,
    label_kind: str | None,
    label_separator: str | None,
) -> Selection:
    columns = [label_column] if isinstance(label_column, str) else label_column or ()
    return Selection(config, image_column, tuple(columns), label_kind, label_separator)


def _open(
    source: str | Path, selection: Selection, others: Collection[str] = ()
) -> dict[str, Images]:
    """As `open_parts`, with other splits than those to train and to test on."""
    name, path = str(source), Path(source)
    if name == "digits":
        selection.refuse(source, "which is built in")
        return _digits()
    if not name.strip():
        raise ValueError("The source of the images is an empty name; give a folder.")
    if path.is_dir():
        return _open_folder(path, selection, others)
    if is_pattern(name):
        return from_shards(name, matching(name), selection, others)
    if path.exists():
        return _open_file(path, selection, others)
    if name.startswith(PREFIX):
        return from_tfds(name, selection, others)
    if is_import_path(name):
        return from_import_path(name, selection, others)
    return from_hub(name, selection, others)


def _open_file(
    path: Path, selection: Selection, others: Collection[str]
) -> dict[str, Images]:
    if path.suffix.lower() == ".csv":
        return from_csv(path, selection, others)
    if path.suffix.lower() == ".npz":
        return from_npz(path, selection, others)
    raise ValueError(
        f"`{path}` is neither a folder of images nor a CSV file, a NumPy file (`.npz`) "
        "or a tar file."
    )


def _open_folder(
    path: Path, selection: Selection, others: Collection[str]
) -> dict[str, Images]:
    if any((path / name).exists() for name in ("dataset_dict.json", "state.json")):
        return from_hub(path, selection, others)
    if is_prepared(path):
        return from_tfds(path, selection, others)
    if any(path.glob("*.array_record*")):
        raise ValueError(
            f"`{path}` has ArrayRecord files and no `dataset_info.json` and "
            "`features.json` that say what is in them; give a folder that TensorFlow "
            "Datasets prepared, or a source of your own as `package.module:name`."
        )
    if any(path.glob("*-images-idx3-ubyte*")):
        selection.refuse(path, "a folder of MNIST's files")
        return from_idx(path)
    if files := metadata_files(path, others):
        return from_metadata(path, files, selection, others)
    # (An archive often lies beside the folders that were in it.)
    if (shards := shards_in(path, others)) and not has_images_inside(path):
        return from_shards(path, shards, selection, others)
    selection.refuse(path, "a folder whose sub-folders are the classes")
    return from_folder(path, others)


def _digits() -> dict[str, Images]:
    data = digits()
    train, test = (
        ArrayImages(np.round(255 * images).astype(np.uint8), labels, data.classes)
        for images, labels in (
            (data.train_images, data.train_labels),
            (data.test_images, data.test_labels),
        )
    )
    return {"train": train, "test": test}
