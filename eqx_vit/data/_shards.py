"""Shards of tar files with a sample of several files each, as WebDataset's."""

import glob
import itertools
import json
import os
import re
import tarfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from PIL import Image

from ._images import Images, Labels
from ._labels import labelled
from ._names import first_of, listed
from ._pixels import decode, Pixels
from ._selection import option, Selection
from ._splits import is_split


_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class ShardImages(Images):
    """Images in uncompressed tar files, each read at its place in its file."""

    def __init__(
        self,
        shards: Sequence[Path],
        keys: Sequence[str],
        places: Int[np.ndarray, "images 3"],
        labels: Labels,
        classes: Sequence[str],
        root: Path,
    ):
        """**Arguments:**

        - `shards`: The tar files.
        - `keys`: The name of every image in its file.
        - `places`: The index of its file in `shards`, its offset there, and its size.
        - `labels`, `classes`: The class of every image, and the names of the classes.
        - `root`: The folder that a copy of the data elsewhere would replace.
        """
        self.shards, self.keys, self.places = list(shards), list(keys), places
        self.labels, self.classes, self.root = labels, tuple(classes), root
        self._relative = [os.path.relpath(shard, root) for shard in shards]

    def name(self, index: int) -> str:
        return f"{self.keys[index]} of {self.shards[self.places[index, 0]]}"

    def key(self, index: int) -> str:
        return f"{self._relative[self.places[index, 0]]}:{self.keys[index]}"

    def read(self, index: int) -> Pixels:
        return self.read_at_least(index, None)

    def read_at_least(self, index: int, size: tuple[int, int] | None) -> Pixels:
        shard, offset, length = self.places[index].tolist()
        # (A file is opened for every image: a file that is open cannot be shared by the
        # processes that load.)
        with self.shards[shard].open("rb") as file:
            file.seek(offset)
            return decode(file.read(length), size)

    def subset(self, rows: Int[np.ndarray, " rows"]) -> "ShardImages":
        return ShardImages(
            self.shards,
            [self.keys[row] for row in rows],
            self.places[rows],
            self.labels[rows],
            self.classes,
            self.root,
        )


class _File(NamedTuple):
    """A file in a shard."""

    offset: int
    size: int


class _Sample(NamedTuple):
    """The image and the label of a sample, with what to call it in messages."""

    key: str
    shard: int
    image: _File
    label: Any

    def where(self, shards: Sequence[Path]) -> str:
        return f"`{shards[self.shard]}`, sample `{self.key}`"


def shards_in(folder: Path, wanted: Collection[str] = ()) -> list[Path]:
    """Return the tar files of a folder, and those in its folders `train`, `val`, ...

    **Arguments:**

    - `folder`: The folder.
    - `wanted`: Further names of splits.
    """
    folders = [file for file in sorted(folder.iterdir()) if file.is_dir()]
    inside = [file for file in folders if is_split(file.name, wanted)]
    files = [file for place in (folder, *inside) for file in sorted(place.iterdir())]
    return [file for file in files if _is_shard(file)]


def _is_shard(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith((".tar", *_COMPRESSED)) and not name.startswith(".")


def is_pattern(source: str) -> bool:
    """Whether a source is the name of a tar file, or a pattern of such names."""
    return source.lower().endswith((".tar", *_COMPRESSED))


def matching(pattern: str) -> list[Path]:
    """Return the files that a pattern names: `data-{000..003}.tar`, `{a,b}-*.tar`.

    **Raises:**

    A `ValueError` if there are none, or if one is missing.
    """
    files: list[Path] = []
    for name in _expanded(pattern):
        found = [name] if os.path.exists(name) else sorted(glob.glob(name))
        if not found:
            raise ValueError(
                f"There is no file `{name}`, which the source `{pattern}` names."
            )
        files += map(Path, found)
    if not files:
        raise ValueError(
            f"The source `{pattern}` names no files; write ranges as `{{000..003}}`, "
            "from the lower number."
        )
    return list(dict.fromkeys(files))


def _expanded(pattern: str) -> Iterator[str]:
    """The names that a pattern with braces stands for, as in a shell."""
    braces = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if braces is None or os.path.exists(pattern):
        yield pattern
        return
    first, last, names = braces.groups()
    if names is None:
        width = len(first) if first.startswith("0") else 0
        options = (f"{i:0{width}d}" for i in range(int(first), int(last) + 1))
    else:
        options = iter(names.split(","))
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    for middle in options:
        yield from _expanded(before + middle + after)


def from_shards(
    source: str | Path,
    shards: Sequence[Path],
    selection: Selection,
    wanted: Collection[str] = (),
) -> dict[str, Images]:
    """Return the images of tar files by the name of their split.

    **Arguments:**

    - `source`: The folder or pattern that the files are from.
    - `shards`: The files. The split of each is in its name, `train-0000.tar`, or in
        that of its folder.
    - `selection`: The extensions of the image and of the label in a sample, or the
        field of its JSON file with the label.
    - `wanted`: Further names of splits.
    """
    selection.refuse(source, "shards of tar files", ["config"])
    for shard in shards:
        if shard.name.lower().endswith(_COMPRESSED):
            raise ValueError(
                f"`{shard}` is compressed, so that no image can be read without all "
                "before it; unpack it to a plain `.tar` file (images are compressed "
                "themselves)."
            )
    by_split: dict[str, list[Path]] = {}
    for shard in shards:
        by_split.setdefault(_split_of(shard, source, wanted), []).append(shard)
    if len(by_split) > 1 and wanted:
        by_split.pop("all", None)
    if "all" in by_split and len(by_split) > 1:
        raise ValueError(
            f"`{source}` has shards without the name of a split "
            f"({listed([shard.name for shard in by_split['all']])}) beside others of "
            f"{listed([name for name in by_split if name != 'all'])}; rename or move "
            "them."
        )
    root = Path(source)
    if not root.is_dir():
        root = Path(os.path.commonpath([shard.absolute().parent for shard in shards]))
    return {name: _images(files, root, selection) for name, files in by_split.items()}


def _split_of(shard: Path, source: str | Path, wanted: Collection[str]) -> str:
    # (The folder that is the source itself may be called anything.)
    above = Path(source) if Path(source).is_dir() else Path(source).parent
    if shard.parent != above and is_split(shard.parent.name, wanted):
        return shard.parent.name
    words = re.split(r"[\W_\d]+", shard.stem)
    plain = re.sub(r"[\W_\d]+$", "", shard.stem)
    prefix = re.sub(r"[\W_]+\d+$", "", shard.stem)  # a name may end in a number
    candidates = (plain, prefix, *reversed(words))
    return next((name for name in candidates if is_split(name, wanted)), "all")


def _images(shards: list[Path], root: Path, selection: Selection) -> ShardImages:
    samples = list(
        itertools.chain.from_iterable(
            _samples(number, shard, selection) for number, shard in enumerate(shards)
        )
    )
    if not samples:
        raise ValueError(f"{listed(list(map(str, shards)))} has no samples.")
    names = _class_names({shard.parent for shard in shards} | {root})
    labels, classes = labelled(
        (sample.label for sample in samples),
        lambda place: samples[place].where(shards),
        names,
        selection,
    )
    places = [(sample.shard, *sample.image) for sample in samples]
    keys = [sample.key for sample in samples]
    return ShardImages(shards, keys, np.array(places), labels, classes, root)


def _samples(number: int, shard: Path, selection: Selection) -> Iterator[_Sample]:
    """The samples of a shard in its order: the files whose paths are equal up to the
    first dot of their names."""
    samples: dict[str, dict[str, _File]] = {}
    for path, file in _files(shard):
        folder, _, name = path.rpartition("/")
        if name.startswith(".") or "." not in name:
            continue
        stem, _, extension = name.partition(".")
        sample = samples.setdefault(f"{folder}/{stem}" if folder else stem, {})
        if extension.lower() in sample:
            raise ValueError(
                f"`{shard}` has the file `{path}` twice; every sample needs a name of "
                "its own."
            )
        sample[extension.lower()] = file
    with shard.open("rb") as opened:
        for key, files in samples.items():
            where = f"`{shard}`, sample `{key}`"
            image = files[_image_extension(where, files, selection)]
            label = _label(opened, where, files, selection.label_column)
            yield _Sample(key, number, image, label)


def _files(shard: Path) -> Iterator[tuple[str, _File]]:
    """The path, offset and size of every file in a tar file."""
    broken = (
        f"`{shard}` is not a complete tar file; copy it again, or remove it from the "
        "source"
    )
    try:
        archive: Any
        with tarfile.open(shard, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # it would keep all that it has read
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise ValueError(
                        f"`{shard}` has `{member.name}`, which is a link or a sparse "
                        "file; pack whole files."
                    )
                yield member.name, _File(member.offset_data, member.size)
            end = archive.offset
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{broken}: {error}.") from error
    # (`tarfile` takes whatever is no header for the end.)
    with shard.open("rb") as file:
        file.seek(end)
        if file.read(512).strip(b"\0"):
            raise ValueError(f"{broken}: it is damaged at byte {end}.")


def _image_extension(where: str, files: dict[str, _File], selection: Selection) -> str:
    chosen = selection.column("image_column", where, list(files))
    if chosen is not None:
        return chosen
    known = Image.registered_extensions()
    found = [extension for extension in files if f".{extension}" in known]
    if len(found) == 1:
        return found[0]
    way_out = f" Choose one: {option('image_column', found[0])}." if found else ""
    raise ValueError(
        f"{where} must have one image; it has the files {listed(list(files))}.{way_out}"
    )


def _label(file: Any, where: str, files: dict[str, _File], column: str | None) -> Any:
    """The label of a sample, a class's name or a number."""
    # (A column is a file of the sample, or a field of its JSON file.)
    names = ("cls", "json", "txt") if column is None else (column, "json")
    name = next((name for name in names if name in files), None)
    if name is None:
        raise ValueError(
            f"{where} must have a label in a file {listed(names)}; it has the files "
            f"{listed(list(files))}. `--label-column` names another."
        )
    data = _read(file, files[name])
    try:
        content = json.loads(data) if name == "json" else data.decode().strip()
    except ValueError as error:
        raise ValueError(f"{where}: its file `{name}` is damaged: {error}.") from error
    if name != "json":
        return content
    field = "label" if column is None else column
    if not isinstance(content, dict) or field not in content:
        fields = list(content) if isinstance(content, dict) else []
        raise ValueError(
            f"{where} must have the field `{field}` in its file `json`; it has "
            f"{listed(fields) or 'none'}. `--label-column` names another."
        )
    return content[field]


def _read(file: Any, place: _File) -> bytes:
    file.seek(place.offset)
    return file.read(place.size)


def _class_names(folders: set[Path]) -> list[str] | None:
    """The names of the classes in a file beside the shards, if there is one."""
    found = [
        folder / name
        for folder in sorted({folder.absolute() for folder in folders})
        for name in ("classes.txt", "labels.txt")
        if (folder / name).is_file()
    ]
    if not found:
        return None
    if len(found) > 1:
        raise ValueError(
            f"The names of the classes are in several files: "
            f"{listed(list(map(str, found)))}; keep one of them."
        )
    lines = found[0].read_text(encoding="utf-8-sig").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        problem = f"has {first_of(twice)} twice" if twice else "is empty"
        raise ValueError(
            f"`{found[0]}` {problem}; it must have the name of one class a line."
        )
    return names
