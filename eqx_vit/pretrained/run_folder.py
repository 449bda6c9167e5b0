"""Run folders, as `eqx-vit train` writes them."""

import json
import math
from pathlib import Path
from typing import Any


_WEIGHTS = "weights.safetensors"


def run_config(folder: Any) -> dict[str, Any] | None:
    """Return the `config.json` of a run folder, which may also be given by its file of
    weights; or `None` for anything else.

    **Raises:**

    A `ValueError` if it is damaged.
    """
    try:
        folder = Path(folder)
        folder = folder.parent if folder.name == _WEIGHTS else folder
        path = folder / "config.json"
        is_file = path.is_file()
    except (OSError, TypeError, ValueError):  # no name of a file at all
        return None
    if not is_file:
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`{path}` is damaged: {error}.") from error
    if not isinstance(config, dict) or "recipe" not in config:
        return None
    for name, is_legal in _CONFIG.items():
        value: Any = config
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not is_legal(value):
            raise ValueError(
                f"`{path}` is damaged: its `{name}` is {str(value)[:60]!r}."
            )
    return config


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _are_numbers(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) in (1, 3) and all(map(_is_number, value))
    )


def _are_classes(value: Any) -> bool:
    is_list = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return is_list and len(value) == len(set(value)) > 0


# The legal values of `config.json`, by name.
_CONFIG = {
    "recipe": lambda value: isinstance(value, dict),
    "model": lambda value: isinstance(value, dict) and len(value) == 5,
    "model.name": lambda value: isinstance(value, str),
    "model.num_classes": _is_size,
    "model.image_size": lambda value: (
        isinstance(value, list) and len(value) == 2 and all(map(_is_size, value))
    ),
    "model.channels": lambda value: value in (1, 3),
    "model.settings": lambda value: isinstance(value, dict),
    "classes": _are_classes,
    "mean": _are_numbers,
    "std": lambda value: _are_numbers(value) and min(value) > 0,
    "crop": lambda value: _is_number(value) and 0 < value <= 1,
    "options": lambda value: isinstance(value, dict),
    "options.data": lambda value: isinstance(value, str),
    "options.holdout": lambda value: _is_number(value) and 0 < value < 1,
}


def run_weights(folder: Path) -> Path:
    """Return the file with the weights of a run folder.

    **Raises:**

    A `ValueError` if there is none yet.
    """
    path = folder if folder.name == _WEIGHTS else folder / _WEIGHTS
    if not path.exists():
        raise ValueError(
            f"`{folder}` has no weights yet: they are written after the first epoch. "
            f"Go on with `eqx-vit train --resume {folder}`."
        )
    return path
