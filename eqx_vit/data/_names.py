"""How lists of names are ordered and shown."""

import re
from collections.abc import Iterable, Sequence


def sorted_classes(names: Iterable[str]) -> list[str]:
    """Return names in order: of numbers, if all are whole numbers, else of letters."""
    names = list(names)
    if all(re.fullmatch(r"-?[0-9]+", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def first_of(parts: Sequence[str], separator: str = ", ", most: int = 8) -> str:
    """Return the first parts of a list, and how many more there are."""
    shown = separator.join(parts[:most])
    return shown + (f" and {len(parts) - most} more" if len(parts) > most else "")


def listed(names: Sequence[str]) -> str:
    """Return the first names of a list, quoted, and how many more there are."""
    return first_of([f"`{name}`" for name in names])
