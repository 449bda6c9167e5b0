"""How lists of names are ordered and shown."""

import re
from collections.abc import Iterable, Sequence


def sorted_classes(names: Iterable[str]) -> list[str]:
    """Return names in order: of numbers, if all are whole numbers, else of letters."""
    names = list(names)
    if all(re.fullmatch(r"-?[0-9]+", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def listed(names: Sequence[str], most: int = 8) -> str:
    """Return the first names, and how many more there are."""
    shown = ", ".join(f"`{name}`" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
