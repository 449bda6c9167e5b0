"""From the labels of a source to indices into its classes."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from ._names import listed, sorted_classes


def labelled(
    values: Iterable[Any], where: Callable[[int], str], names: Sequence[str] | None
) -> tuple[Int[np.ndarray, " images"], tuple[str, ...]]:
    """Return the label of every image as an index, and the names of the classes.

    **Arguments:**

    - `values`: One class an image: its name, or a whole number.
    - `where`: Called with the place of a value that is wrong: what to call it.
    - `names`: The names of the classes, which whole numbers are indices into. With
        `None` the classes are the values that there are, sorted.

    **Raises:**

    A `ValueError` that names the first value that is wrong, and says what is legal.
    """
    texts: list[str] = []
    for value in values:
        try:
            texts.append(class_name(value))
        except ValueError as error:
            raise ValueError(f"{where(len(texts))}: {error}") from error
    classes = sorted_classes(set(texts)) if names is None else names
    places = {name: place for place, name in enumerate(classes)}
    if names is not None:
        places |= {str(place): place for place in range(len(names))}
    wrong = next((i for i, text in enumerate(texts) if text not in places), None)
    if wrong is not None:
        is_number = re.fullmatch(r"-?\d+", texts[wrong])
        legal = (
            f"from 0 to {len(classes) - 1}" if is_number else f"of {listed(classes)}"
        )
        raise ValueError(
            f"{where(wrong)}: the label `{texts[wrong]}` must be one {legal}."
        )
    return np.array([places[text] for text in texts], np.int32), tuple(classes)


def class_name(value: Any) -> str:
    """Return the name of the class that a label stands for.

    **Raises:**

    A `ValueError` if it is not one name or one whole number.
    """
    if isinstance(value, np.ndarray | np.generic) and value.size == 1:
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str) and value.strip() and "\0" not in value:
        return value.strip()
    raise ValueError(
        f"the label {str(value)[:60]!r} must be one name or one whole number."
    )
