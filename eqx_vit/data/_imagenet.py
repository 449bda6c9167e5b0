"""The names of the classes of published models."""

import functools
from importlib.resources import files
from typing import Any, NamedTuple


class ImageNetClass(NamedTuple):
    """A class of ImageNet-1k.

    - `wordnet`: Its WordNet id, `"n01440764"`.
    - `name`: A name that no other class has, `"tench"`.
    - `synonyms`: All names of its WordNet synset, `"tench, Tinca tinca"`.
    """

    wordnet: str
    name: str
    synonyms: str


@functools.cache
def imagenet() -> tuple[ImageNetClass, ...]:
    """Return the 1,000 classes of ImageNet-1k, in the order of all published models:
    sorted by WordNet id."""
    text = (files("eqx_vit.data") / "imagenet.tsv").read_text(encoding="utf-8")
    return tuple(ImageNetClass(*line.split("\t")) for line in text.splitlines())


def imagenet_classes() -> tuple[str, ...]:
    """Return the names of the 1,000 classes of ImageNet-1k, in the order of all
    published models."""
    return tuple(cls.name for cls in imagenet())


def imagenet_aliases() -> dict[str, int]:
    """Return what else a class of ImageNet-1k is called, with its index: its WordNet
    id, the names of its synset (together, and one by one where no other class has
    the name), and the index itself, `"0"` to `"999"`."""
    aliases, shared = {}, set()
    for index, cls in enumerate(imagenet()):
        for name in cls.synonyms.split(", "):
            shared |= {name} & aliases.keys()
            aliases.setdefault(name, index)
    aliases = {name: index for name, index in aliases.items() if name not in shared}
    for index, cls in enumerate(imagenet()):
        if cls.synonyms not in shared:
            aliases[cls.synonyms] = index
        aliases |= {cls.wordnet: index, str(index): index}
    return aliases


def classes_of(record: Any, num_classes: int) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the names of the classes of a published model, or of a fine-tune of it,
    and what else they are called, with their indices.

    **Arguments:**

    - `record`: An entry of `eqx_vit.zoo`.
    - `num_classes`: How many classes the head has.
    """
    if record.classes is not None and num_classes == len(record.classes):
        return record.classes, {}
    if record.label_set == "ImageNet-1k" and num_classes == record.num_classes:
        return imagenet_classes(), imagenet_aliases()
    names = tuple(f"class {i}" for i in range(num_classes))
    return names, {str(i): i for i in range(num_classes)}
