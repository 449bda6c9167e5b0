"""The names of the classes of published models."""

import functools
import gzip
import json
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from ._classes import match_classes


LABEL_SETS = (
    "ImageNet-1k",
    "ImageNet-12k",
    "ImageNet-21k",
    "ImageNet-21k-P",
    "ImageNet-22k",
    "ImageNet-22k-1k-first",
)


class ImageNetClass(NamedTuple):
    """A class of ImageNet.

    - `wordnet`: Its WordNet id, `"n01440764"`.
    - `name`: A name that no other class of its label set has, `"tench"`.
    - `synonyms`: All names of its WordNet synset, `"tench, Tinca tinca"`.
    """

    wordnet: str
    name: str
    synonyms: str


@functools.cache
def imagenet(label_set: str = "ImageNet-1k") -> tuple[ImageNetClass, ...]:
    """Return the classes of ImageNet, in the order of the outputs of published models.

    **Arguments:**

    - `label_set`: One of
        - `"ImageNet-1k"`, the default: 1,000 classes;
        - `"ImageNet-21k"`: 21,843 classes, of Google's models;
        - `"ImageNet-22k"`: 21,841 of them, the file `fall11.tar`;
        - `"ImageNet-22k-1k-first"`: 21,842 classes, of Microsoft's models: those of
            ImageNet-1k, then the others of ImageNet-22k;
        - `"ImageNet-21k-P"`: 11,221 classes of ImageNet-22k that have 500 images or
            more;
        - `"ImageNet-12k"`: 11,821 classes of ImageNet-22k, of timm's models.

        All are sorted by WordNet id but for `"ImageNet-22k-1k-first"`.

    **Raises:**

    A `ValueError` for another label set.
    """
    if label_set not in LABEL_SETS:
        known = ", ".join(map(repr, LABEL_SETS))
        raise ValueError(f"`label_set={label_set!r}` must be one of {known}.")
    if label_set == "ImageNet-1k":
        text = (files("eqx_vit.data") / "imagenet.tsv").read_text(encoding="utf-8")
        return tuple(ImageNetClass(*line.split("\t")) for line in text.splitlines())
    if label_set == "ImageNet-22k-1k-first":
        first = imagenet()
        known = {cls.wordnet for cls in first}
        rest = [cls for cls in imagenet("ImageNet-22k") if cls.wordnet not in known]
        shared = {cls.name for cls in rest}
        return (*(_renamed(cls, shared) for cls in first), *rest)
    size = label_set.removeprefix("ImageNet-")
    return tuple(
        cls for cls, sets in _largest() if label_set == "ImageNet-21k" or size in sets
    )


def _renamed(cls: ImageNetClass, shared: set[str]) -> ImageNetClass:
    """The class, with its WordNet id in its name if another class has the name."""
    is_shared = cls.name in shared
    return cls._replace(name=f"{cls.name} ({cls.wordnet})") if is_shared else cls


@functools.cache
def _largest() -> tuple[tuple[ImageNetClass, tuple[str, ...]], ...]:
    """The classes of ImageNet-21k, each with the label sets that have it."""
    rows = [line.split("\t") for line in _lines("imagenet21k.tsv.gz")]
    first = Counter(synonyms.split(", ")[0] for _, synonyms, _ in rows)
    whole = Counter(synonyms for _, synonyms, _ in rows)

    def name(wordnet: str, synonyms: str) -> str:
        short = synonyms.split(", ")[0]
        if first[short] == 1:
            return short
        return synonyms if whole[synonyms] == 1 else f"{synonyms} ({wordnet})"

    return tuple(
        (ImageNetClass(wordnet, name(wordnet, synonyms), synonyms), tuple(sets.split()))
        for wordnet, synonyms, sets in rows
    )


def _lines(name: str) -> list[str]:
    data = (files("eqx_vit.data") / name).read_bytes()
    return gzip.decompress(data).decode().splitlines()


def imagenet_classes(label_set: str = "ImageNet-1k") -> tuple[str, ...]:
    """Return the names of the classes of ImageNet, in the order of the outputs of
    published models.

    **Arguments:**

    - `label_set`: As in [`eqx_vit.data.imagenet`][]; by default the 1,000 classes of
        ImageNet-1k.
    """
    return tuple(cls.name for cls in imagenet(label_set))


def imagenet_aliases(label_set: str = "ImageNet-1k") -> dict[str, int]:
    """Return what else a class of ImageNet is called, with its index: its WordNet id,
    the names of its synset (together, and one by one where no other class has the
    name), and the index itself, `"0"` to `"999"`.

    **Arguments:**

    - `label_set`: As in [`eqx_vit.data.imagenet`][].
    """
    aliases, shared = {}, set()
    for index, cls in enumerate(imagenet(label_set)):
        for name in cls.synonyms.split(", "):
            shared |= {name} & aliases.keys()
            aliases.setdefault(name, index)
    aliases = {name: index for name, index in aliases.items() if name not in shared}
    whole = Counter(cls.synonyms for cls in imagenet(label_set))
    for index, cls in enumerate(imagenet(label_set)):
        if cls.synonyms not in shared and whole[cls.synonyms] == 1:
            aliases[cls.synonyms] = index
        aliases |= {cls.wordnet: index, str(index): index}
    return aliases


@functools.cache
def imagenet_subset(name: str) -> tuple[int, ...]:
    """Return the indices of the classes of ImageNet-1k that a data set has.

    **Arguments:**

    - `name`: `"imagenet_a"` or `"imagenet_r"`, which have 200 classes;
        `"imagenet_real"` or `"imagenet_v2"`, which have all 1,000.

    **Raises:**

    A `ValueError` for another name.
    """
    if name in ("imagenet_real", "imagenet_v2"):
        return tuple(range(1000))
    text = (files("eqx_vit.data") / "imagenet_subsets.json").read_text()
    subsets = json.loads(text)
    if name not in subsets:
        known = "'imagenet_a', 'imagenet_r', 'imagenet_real' or 'imagenet_v2'"
        raise ValueError(f"`name={name!r}` must be {known}.")
    return tuple(subsets[name])


@functools.cache
def imagenet_real() -> tuple[tuple[int, ...], ...]:
    """Return the labels of ImageNet-ReaL ([arXiv:2006.07159]
    (https://arxiv.org/abs/2006.07159)): for each of the 50,000 validation images of
    ImageNet-1k, in the order of the file names, the indices of all classes that it
    shows. Some images have none."""
    return tuple(
        tuple(map(int, line.split())) for line in _lines("imagenet_real.txt.gz")
    )


def imagenet_places(classes: Sequence[str]) -> tuple[int, ...] | None:
    """Return the index in ImageNet-1k of every class of a model; `None` if its classes
    are not those of ImageNet-1k.

    **Arguments:**

    - `classes`: The names, in the model's order, in any spelling that
        [`eqx_vit.data.match_classes`][] knows. Where all are in the order of
        ImageNet-1k, they may be names that two classes share, as "crane".
    """
    if len(classes) != 1000:
        return None
    spellings = [
        {*cls, str(index), *cls.synonyms.split(", ")}
        for index, cls in enumerate(imagenet())
    ]
    if all(name in legal for name, legal in zip(classes, spellings)):
        return tuple(range(1000))
    try:
        places = match_classes(classes, imagenet_classes(), imagenet_aliases())
    except ValueError:
        return None
    return tuple(places.tolist())


def classes_of(record: Any, num_classes: int) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the names of the classes of a published model, or of a fine-tune of it,
    and what else they are called, with their indices.

    **Arguments:**

    - `record`: An entry of `eqx_vit.zoo`.
    - `num_classes`: How many classes the head has.
    """
    if record.classes is not None and num_classes == len(record.classes):
        return record.classes, {}
    if record.label_set in LABEL_SETS and num_classes == record.num_classes:
        return imagenet_classes(record.label_set), imagenet_aliases(record.label_set)
    names = tuple(f"class {i}" for i in range(num_classes))
    return names, {str(i): i for i in range(num_classes)}
