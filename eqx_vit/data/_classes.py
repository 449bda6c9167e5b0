"""Classes are matched by their names wherever two lists of them meet."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from ._images import Images
from ._names import first_of, listed


def match_classes(
    names: Sequence[str],
    known: Sequence[str],
    aliases: Mapping[str, int] = {},
    *,
    what: str = "The data",
    whose: str = "the model",
) -> Int[np.ndarray, " names"]:
    """Return the place of every name in another list of classes.

    A name is looked up as it is, then without regard to capitals, underscores and
    spaces, then among the aliases.

    **Arguments:**

    - `names`: What to look up, `("cat", "dog")`.
    - `known`: The classes of a model, in its order.
    - `aliases`: Other names of the classes, with their places in `known`. Whole
        numbers are looked up whatever their leading zeros.
    - `what`, `whose`: The owner of `names` and of `known`, for errors.
        (Keyword only arguments.)

    **Raises:**

    A `ValueError` that lists the names that are not known, with the nearest that are,
    or two names of one class.
    """
    exact = {name: place for place, name in enumerate(known)}
    plain = _unique((_plain(name), place) for name, place in exact.items())
    other = _unique((_plain(name), place) for name, place in aliases.items())

    def place_of(name: str) -> int | None:
        for table, spelling in ((exact, name), (plain, _plain(name))):
            if spelling in table:
                return table[spelling]
        number = re.fullmatch("0*([0-9]+)", name)
        return other.get(number[1] if number else _plain(name))

    places = [place_of(name) for name in names]
    unknown = [name for name, place in zip(names, places) if place is None]
    if unknown:
        shown = first_of([_with_nearest(name, known) for name in unknown])
        classes = "1 class" if len(unknown) == 1 else f"{len(unknown)} classes"
        raise ValueError(
            f"{what} has {classes} that {whose} does not have: {shown}. It has "
            f"{listed(known)}"
            + (", also by WordNet id or by index from 0." if aliases else ".")
        )
    owner = {}
    for name, place in zip(names, places):
        if place in owner:
            raise ValueError(
                f"{what} has the classes `{owner[place]}` and `{name}`, which are one "
                f"class of {whose}: `{known[place or 0]}`. Merge them."
            )
        owner[place] = name
    return np.array(places, np.int32)


def with_classes(
    images: Images, known: Sequence[str], aliases: Mapping[str, int] = {}, **words: str
) -> Images:
    """Return the images with their labels as places in other classes, see
    [`eqx_vit.data.match_classes`][]."""
    if images.label_kind == "numbers":
        return _with_numbers(images, known, **words)
    # (A part of some data knows the names of all of it: those with images count.)
    used = images.used()
    names = [images.classes[place] for place in used]
    places = np.zeros(len(images.classes), np.int32)
    places[used] = match_classes(names, known, aliases, **words)
    return images.relabelled(places, known)


def _with_numbers(
    images: Images, known: Sequence[str], *, what: str = "The data", whose: str = ""
) -> Images:
    """The images with their numbers in another order. (One number has no order, and
    may be called otherwise.)"""
    if len(images.classes) == len(known) == 1:
        return images.relabelled(np.zeros(1, np.int32), known)
    if sorted(images.classes) != sorted(known):
        raise ValueError(
            f"{what} has the numbers {listed(images.classes)}, and "
            f"{whose or 'the model'} has {listed(known)}; `--label-column` names the "
            "columns."
        )
    places = [list(known).index(name) for name in images.classes]
    return images.relabelled(np.array(places, np.int32), known)


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())


def _unique(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """A table without the names that stand for several places."""
    table: dict[str, int] = {}
    shared = set()
    for name, place in pairs:
        if table.setdefault(name, place) != place:
            shared.add(name)
    return {name: place for name, place in table.items() if name not in shared}


def _with_nearest(name: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f"`{name}`" + (f" (nearest: `{nearest[0]}`)" if nearest else "")
