"""Folders of images."""

import logging
import os
from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image

from ._images import ImageFiles, Images
from ._names import listed, sorted_classes
from ._splits import is_split, split_kind


_logger = logging.getLogger("eqx_vit")


def from_folder(path: Path, wanted: Collection[str] = ()) -> dict[str, Images]:
    """Return the images of a folder by the name of their split.

    **Arguments:**

    - `path`: The folder.
    - `wanted`: Further names of splits.
    """
    splits: dict[Path, dict[Path, list[Path]]] = {}
    classes: dict[Path, list[Path]] = {}
    for child in _folders(path):
        inside = _classes(child) if is_split(child.name, wanted) else {}
        stray = _images_in(child) if inside else []
        if inside and not stray:
            splits[child] = inside
            continue
        if len({file.parent for files in inside.values() for file in files}) > 1:
            raise ValueError(
                f"`{child}` has the image `{stray[0].name}` beside sub-folders of "
                "images, so that it is not clear whether it is a split or a class; "
                "move it."
            )
        if files := _image_files(child):
            classes[child] = files
    others = [child.name for child in classes]
    kinds = {split_kind(child.name) for child in splits}
    if others and len(kinds) == 1 and not wanted:
        raise ValueError(
            f"`{path}` has the split `{next(iter(splits)).name}` beside other folders "
            f"of images ({listed(others)}), so that it is not clear what the classes "
            "are; move one or the other."
        )
    if others and splits:
        _logger.warning(f"{path}: left out {listed(others)}, beside the splits.")
    if not splits and not classes:
        raise ValueError(
            f"`{path}` must have one sub-folder of images per class, of two classes "
            "or more; found none."
        )
    parts = {child.name: inside for child, inside in splits.items()}
    parts = parts or {"all": classes}
    return {name: _of_classes(files, path) for name, files in parts.items()}


def _classes(folder: Path) -> dict[Path, list[Path]]:
    """The sub-folders that have images, with these."""
    found = {child: _image_files(child) for child in _folders(folder)}
    return {child: files for child, files in found.items() if files}


def _of_classes(files: dict[Path, list[Path]], root: Path) -> ImageFiles:
    by_name = {child.name: paths for child, paths in files.items()}
    classes = sorted_classes(by_name)
    counts = [len(by_name[name]) for name in classes]
    labels = np.repeat(np.arange(len(classes)), counts).astype(np.int32)
    paths = [path for name in classes for path in by_name[name]]
    return ImageFiles(paths, labels, classes, root)


def has_images_inside(folder: Path) -> bool:
    """Whether a folder in a folder has images."""
    return any(_image_files(child) for child in _folders(folder))


def metadata_files(path: Path, wanted: Collection[str] = ()) -> dict[str, Path]:
    """Return the files of metadata of a folder by the name of their split.

    **Arguments:**

    - `path`: The folder.
    - `wanted`: Further names of splits.

    **Raises:**

    A `ValueError` if there are two where one is legal, or none for one of the splits.
    """
    splits = [child for child in _folders(path) if is_split(child.name, wanted)]
    found = {child.name: _metadata_in(child) for child in splits}
    files = [
        *_metadata_in(path),
        *(file for inside in found.values() for file in inside),
    ]
    if not files:
        return {}
    if any(len(inside) > 1 for inside in found.values()) or (
        files[0].parent == path and len(files) > 1
    ):
        raise ValueError(
            f"`{path}` has {listed([str(file.relative_to(path)) for file in files])}; "
            "there must be one file of metadata, or one in the folder of every split. "
            "Remove the others."
        )
    if files[0].parent == path:
        return {"all": files[0]}
    bare = [c.name for c in splits if not found[c.name] and _image_files(c)]
    if bare:
        raise ValueError(
            f"`{path}` has the file `{files[0].relative_to(path)}` and none in its "
            f"folder `{bare[0]}`; add it there."
        )
    return {name: inside[0] for name, inside in found.items() if inside}


def _metadata_in(folder: Path) -> list[Path]:
    names = ("metadata.csv", "metadata.jsonl")
    return [folder / name for name in names if (folder / name).is_file()]


# Files that systems and programs leave in folders.
_SYSTEM = ("__MACOSX", "__pycache__", "@eaDir", "lost+found", "$RECYCLE.BIN")
_SYSTEM += ("System Volume Information", "Thumbs.db")


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """The entries of a folder that may be data, by name. (An entry knows whether it is
    a folder without another look at the disk.)"""
    with os.scandir(folder) as entries:
        kept = [entry for entry in entries if not _is_left_out(entry)]
    return sorted(kept, key=lambda entry: entry.name)


def _is_left_out(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith(".") or entry.name in _SYSTEM:
        return True
    if not entry.is_dir():
        return False
    # A run folder of `eqx-vit train`, which has pictures too.
    path, others = Path(entry), ("checkpoints", "metrics.csv", "weights.safetensors")
    return (path / "config.json").is_file() and any(
        (path / name).exists() for name in others
    )


def _folders(folder: Path) -> list[Path]:
    return [Path(entry) for entry in _entries(folder) if entry.is_dir()]


def _images_in(folder: Path) -> list[Path]:
    """The images of a folder, not of those in it."""
    return [Path(entry) for entry in _entries(folder) if _is_image(entry)]


def _is_image(entry: os.DirEntry[str]) -> bool:
    is_named = os.path.splitext(entry.name)[1].lower() in Image.registered_extensions()
    return is_named and not entry.is_dir()


def images_without_classes(source: str | Path) -> list[Path]:
    """Return the images of a source without classes: an image file as it is, or the
    sorted images of a folder that has no folders of images and no file of metadata.
    Every other source has none.

    **Arguments:**

    - `source`: As in [`eqx_vit.data.open_data`][], or an image file.
    """
    path = Path(source)
    if path.is_file():
        is_image = path.suffix.lower() in Image.registered_extensions()
        return [path] if is_image else []
    is_built_in = str(source) == "digits"
    if is_built_in or not path.is_dir() or _metadata_in(path):
        return []
    return [] if has_images_inside(path) else _images_in(path)


def image_files(path: Path) -> list[Path]:
    """Return a file as it is, or all images in a folder, sorted.

    **Raises:**

    A `ValueError` for a folder without images; a `FileNotFoundError`.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder `{path}`.")
    if not path.is_dir():
        return [path]
    files = _image_files(path)
    if not files:
        raise ValueError(f"`{path}` is a folder without images.")
    return files


def _image_files(folder: Path) -> list[Path]:
    """The images of a folder and of those in it, through links, sorted."""
    found, seen = [], set()

    def visit(folder: str | Path) -> None:
        if (real := os.path.realpath(folder)) in seen:  # a link into what holds it
            return
        seen.add(real)
        for entry in _entries(folder):
            if entry.is_dir():
                visit(entry.path)
            elif _is_image(entry):
                found.append(Path(entry))

    visit(folder)
    return sorted(found)
