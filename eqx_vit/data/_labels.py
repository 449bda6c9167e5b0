"""Labels of a source as indices of classes, rows of classes, or numbers."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from ._names import listed, sorted_classes
from ._selection import Selection


def labelled(
    values: Iterable[Any],
    where: Callable[[int], str],
    names: Sequence[str] | None,
    selection: Selection,
    kind: str = "class",
) -> tuple[Any, tuple[str, ...]]:
    """Return the label of every image as an array, and the names of the classes or of
    the numbers. The array is as `Images.labels`.

    **Arguments:**

    - `values`: A value an image. For the kind `"class"` the name of a class, or a whole
        number; for `"classes"` a list of these, or text with the selection's separator
        between names; for `"numbers"` a number, or a list of numbers.
    - `where`: Called with the place of a value that is wrong: what to call it.
    - `names`: The names of the classes, which whole numbers are indices into, or of the
        numbers. With `None` the classes are the values that there are, sorted, and the
        numbers are called `"0"`, `"1"`, ....
    - `selection`: Its `label_kind` is the kind, if it has one.
    - `kind`: The kind otherwise.

    **Raises:**

    A `ValueError` that names the first wrong value and the legal ones.
    """
    kind = selection.label_kind or kind
    if kind == "numbers":
        rows = [_each(value, where, place) for place, value in enumerate(values)]
        return _checked(_numbers(rows, where, names), where, selection)
    if kind == "classes":
        return _several(values, where, names, selection.label_separator)
    labels = [_named(value, where, i) for i, value in enumerate(values)]
    if selection.label_kind is None:
        _check_one({str(label) for label in labels}, where)
    classes, places = _places(labels, where, range(len(labels)), names)
    return np.array(places, np.int32), classes


def _check_one(names: set[str], where: Callable[[int], str]) -> None:
    """Raise for names that look like several of the others."""
    for name in sorted(names):
        parts = {part.strip() for part in re.split("[;|]", name)}
        if len(parts) > 1 and parts <= names:
            raise ValueError(
                f"{where(0)} and others: the label `{name}` looks like several of the "
                "classes. Use `--label-kind classes` if images have several, or "
                "`--label-kind class` if it is the name of one."
            )


def of_columns(
    rows: Any,
    where: Callable[[int], str],
    names: Sequence[str] | None,
    selection: Selection,
    kind: str,
) -> tuple[Any, tuple[str, ...]]:
    """Return as `labelled` does, of rows with a value for every class or number.

    **Arguments:**

    - `rows`: A list or an array of rows. For the kind `"classes"` of 1 for each class
        that the image is of, and 0 for the others; for `"numbers"` of numbers.
    - `where`, `names`, `selection`, `kind`: As there; the columns have the `names`.

    **Raises:** as there; a `ValueError` for the kind `"class"`, which has one column.
    """
    kind = selection.label_kind or kind
    if kind == "class":
        raise ValueError(
            f"{where(0)}: one class an image has one column, and not "
            f"{len(rows[0])}; for several columns use `--label-kind classes` (each is "
            "0 or 1) or `--label-kind numbers`."
        )
    if kind == "classes":
        rows = [[_TRUTHS.get(str(value), value) for value in row] for row in rows]
    numbers, found = _numbers(rows, where, names)
    if kind == "numbers":
        return _checked((numbers, found), where, selection)
    wrong = ~np.isin(numbers, (0, 1)).all(axis=-1)
    if wrong.any():
        place = int(wrong.argmax())
        raise ValueError(
            f"{where(place)}: the values {_shown(rows[place])} must be 1 for each "
            "class that the image is of, and 0 for the others."
        )
    return numbers.astype(bool), found


_TRUTHS = {"True": 1, "False": 0, "true": 1, "false": 0}


def kind_of_array(values: Any) -> str:
    """Return the kind of labels in an array: floats are numbers, and a row of whole
    numbers an image stands for classes."""
    if values.dtype.kind == "f":
        return "numbers"
    return "classes" if values.ndim == 2 and values.shape[1] > 1 else "class"


def _several(
    values: Iterable[Any],
    where: Callable[[int], str],
    names: Sequence[str] | None,
    separator: str | None,
) -> tuple[Bool[np.ndarray, "images classes"], tuple[str, ...]]:
    found, rows, count = [], [], 0
    for row, value in enumerate(values):
        own = [_named(v, where, row) for v in _split(value, separator)]
        found += own
        rows += [row] * len(own)
        count += 1
    if not found:
        raise ValueError(
            f"{where(0)}: none of the {count} images is of a class; the column must "
            "have names of classes."
        )
    classes, places = _places(found, where, rows, names)
    labels = np.zeros((count, len(classes)), bool)
    labels[rows, places] = True
    return labels, classes


def _split(value: Any, separator: str | None) -> Iterable[Any]:
    """The classes of an image, of text or a list."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        parts = value.split(separator) if separator else re.split("[;|]", value)
        return [part for part in parts if part.strip()]
    return value if isinstance(value, list | tuple | np.ndarray) else [value]


def _places(
    labels: Sequence[str | int],
    where: Callable[[int], str],
    rows: Sequence[int],
    names: Sequence[str] | None,
) -> tuple[tuple[str, ...], list[int]]:
    """The classes, and the place of each label among them. `rows` has the place of the
    image of each label."""
    texts = list(map(str, labels))
    classes = sorted_classes(set(texts)) if names is None else names
    places: dict[str | int, int] = {name: place for place, name in enumerate(classes)}
    if names is None:
        labels = texts
    else:  # whole numbers are indices, and so is text of them that is not a name
        indices = range(len(names))
        places = {str(i): i for i in indices} | places | {i: i for i in indices}
    wrong = next((i for i, label in enumerate(labels) if label not in places), None)
    if wrong is not None:
        is_number = re.fullmatch(r"-?\d+", texts[wrong])
        legal = (
            f"from 0 to {len(classes) - 1}" if is_number else f"of {listed(classes)}"
        )
        raise ValueError(
            f"{where(rows[wrong])}: the label `{texts[wrong]}` must be one {legal}."
        )
    return tuple(classes), [places[label] for label in labels]


def _numbers(
    rows: Sequence[Sequence[Any]],
    where: Callable[[int], str],
    names: Sequence[str] | None,
) -> tuple[Float[np.ndarray, "images numbers"], tuple[str, ...]]:
    width = len(rows[0]) if names is None and len(rows) else len(names or ())
    found = np.zeros((len(rows), width), np.float32)
    for place, row in enumerate(rows):
        if len(row) != width or width == 0:
            raise ValueError(
                f"{where(place)}: the label {_shown(row)} has {len(row)} number(s); "
                f"every image must have the same, here {width or 'one or more'}."
            )
        found[place] = [_number(value, where, place) for value in row]
    numbers = tuple(map(str, range(width))) if names is None else tuple(names)
    return found, numbers


def _checked(
    found: tuple[Float[np.ndarray, "images numbers"], tuple[str, ...]],
    where: Callable[[int], str],
    selection: Selection,
) -> tuple[Float[np.ndarray, "images numbers"], tuple[str, ...]]:
    """Numbers, unless they could be indices of classes."""
    if selection.label_kind is None and (found[0] % 1 == 0).all():
        raise ValueError(
            f"{where(0)}: all labels are whole numbers in a type of fractions; choose "
            "`--label-kind numbers`, or `class` or `classes`."
        )
    return found


def _each(value: Any, where: Callable[[int], str], place: int) -> Sequence[Any]:
    if isinstance(value, np.ndarray) and value.ndim > 1:
        raise ValueError(
            f"{where(place)}: the label of shape {value.shape} must be a number, or a "
            "list of numbers."
        )
    if isinstance(value, list | tuple):
        return value
    return value.tolist() if isinstance(value, np.ndarray) and value.ndim else [value]


def _number(value: Any, where: Callable[[int], str], place: int) -> float:
    try:
        value = value.decode() if isinstance(value, bytes) else value
        number = math.nan if value is None else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not abs(number) < float(np.finfo(np.float32).max):
        raise ValueError(
            f"{where(place)}: the label {_shown(value)} must be a finite number."
        )
    return number


def _named(value: Any, where: Callable[[int], str], place: int) -> str | int:
    """The name of a class, or the whole number that stands for one."""
    if isinstance(value, np.ndarray | np.generic) and value.size == 1:
        value = value.item()
    try:
        name = class_name(value)
        return name if isinstance(value, str | bytes | bool) else int(name)
    except ValueError as error:
        raise ValueError(f"{where(place)}: {error}") from error


def class_name(value: Any) -> str:
    """Return the name of the class that a label stands for.

    **Raises:**

    A `ValueError` if it is not one name or one whole number.
    """
    if isinstance(value, np.ndarray | np.generic) and value.size == 1:
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str) and value.strip() and "\0" not in value:
        return value.strip()
    more = ""
    if isinstance(value, list | tuple | np.ndarray | float):
        kind = "numbers" if isinstance(value, float) else "classes"
        more = f" For labels of another kind use `--label-kind {kind}`."
    raise ValueError(
        f"the label {_shown(value)} must be one name or one whole number.{more}"
    )


def _shown(value: Any) -> str:
    return repr(str(value)[:60])
