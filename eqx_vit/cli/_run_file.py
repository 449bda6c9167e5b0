"""Run files: the options of `eqx-vit train` in TOML."""

import argparse
import dataclasses
import difflib
import json
import os
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data import is_pattern
from ..pretrained import run_config
from ..pretrained.architecture import as_tuples
from ..pretrained.files import whole_file
from ..pretrained.repository import is_repository
from ..training.recipe import ALIASES, Recipe, recipe


RUN_FILE = "run.toml"

_RECIPE = [field.name for field in dataclasses.fields(Recipe)]
# What a file has besides: the recipe that its fields change, by either name.
_BASES = ("base", "recipe")
# Options that say what to do with a file, not what it trains.
_NOT_IN_FILES = ("help", "file", "resume", "debug")


def read_run_file(source: str, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The options that a file gives, by name, as if the parser had read them; `recipe`
    is there if any field of one is.

    **Arguments:**

    - `source`: A TOML file, or a run folder.
    - `parser`: With the options of the command.

    **Raises:**

    A `ValueError` that names the file, the key and what is legal.
    """
    path = _path(source)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"`{path}` is not a TOML file: {error}.") from error
    actions = {
        action.dest: action
        for action in parser._actions
        if action.dest not in (*_NOT_IN_FILES, *_RECIPE, *_BASES)
    }
    legal = [*actions, *_RECIPE, *ALIASES, *_BASES]
    for key in values:
        if key not in legal:
            nearest = difflib.get_close_matches(key, legal, n=1, cutoff=0)[0]
            raise ValueError(
                f"`{path}` has `{key}`, which is not an option; the nearest is "
                f"`{nearest}`. (`eqx-vit train --help` lists them.)"
            )
    options = {}
    for key in values.keys() & actions.keys():
        try:
            options[key] = _value(actions[key], values[key])
        except (ValueError, argparse.ArgumentTypeError) as error:
            shown = json.dumps(values[key], default=str, ensure_ascii=False)[:60]
            raise ValueError(f"In `{path}`, `{key} = {shown}`: {error}.") from error
    return options | _recipe_options(path, values)


def _path(source: str) -> Path:
    try:
        path = Path(source)
        path = path / RUN_FILE if path.is_dir() else path
        if path.suffix == ".toml" and path.is_file():
            return path
    except (OSError, ValueError):  # no name of a file at all
        pass
    raise ValueError(
        f"{source!r} is neither a TOML file with options nor a run folder with a "
        f"`{RUN_FILE}`. (Images are given by `--data`.)"
    )


def _value(action: argparse.Action, value: Any) -> Any:
    """A value of a file as an option has it. Raises without its name."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError("it must be true or false")
        return value
    if action.dest == "set":
        return _settings(value)
    is_repeated = isinstance(action, argparse._AppendAction)
    if action.nargs is None and not is_repeated:
        return _one(action, value)
    many = value if isinstance(value, list) else [value]
    many = [_one(action, part) for part in many]
    if action.dest == "image_size":
        if len(many) not in (1, 2):
            raise ValueError("it must be one number, or two, height and width")
        return many[0], many[-1]
    return many


def _one(action: argparse.Action, value: Any) -> Any:
    read: Any = action.type or str
    kind = str if read is str else typing.get_type_hints(read)["return"]
    types = {int: int, float: (int, float)}.get(kind, str)
    if isinstance(value, bool) or not isinstance(value, types):
        wanted = {int: "a whole number", float: "a number"}.get(kind, "a text")
        raise ValueError(f"it must be {wanted}")
    found = read(str(value))
    if action.choices is not None and found not in action.choices:
        raise ValueError(f"{value!r} must be one of {', '.join(action.choices)}")
    return found


def _settings(value: Any) -> list[str]:
    if not isinstance(value, dict):
        raise ValueError("it must be a table, as `{ depth = 4, distilled = true }`")
    for name, setting in value.items():
        if not isinstance(setting, bool | int | float | str | list):
            raise ValueError(
                f"`{name}` must be a number, a text, true, false or a list"
            )
    return [f"{name}={as_tuples(setting)!r}" for name, setting in value.items()]


def _recipe_options(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    if all(name in values for name in _BASES):
        raise ValueError(f"`{path}` has `base` and `recipe`, which are one; keep one.")
    base = values.get("base", values.get("recipe", "default"))
    fields = {k: v for k, v in values.items() if k in (*_RECIPE, *ALIASES)}
    if not isinstance(base, str):
        raise ValueError(f"`{path}` has `base={base!r}`, not the name of a recipe.")
    try:
        read = recipe(base, **fields)
    except (ValueError, OSError) as error:
        raise ValueError(f"In `{path}`: {error}") from error
    names = [ALIASES.get(name, name) for name in fields]
    found = {name: getattr(read, name) for name in names}
    is_named = bool(found) or any(name in values for name in _BASES)
    return ({"recipe": base} if is_named else {}) | found


def run_values(options: Mapping[str, Any], wanted: Recipe) -> dict[str, Any]:
    """What a file has that starts a run with some options and recipe: names of files
    are absolute.

    **Arguments:**

    - `options`: The options of `eqx-vit train`, by name, with `set` as a mapping.
    - `wanted`: The whole recipe.
    """
    legal = {k: v for k, v in options.items() if k not in (*_RECIPE, "recipe")}
    values = legal | {name: getattr(wanted, name) for name in _RECIPE}
    return {k: absolute(k, v) for k, v in values.items() if v is not None}


def absolute(option: str, value: Any) -> Any:
    """The value of an option, absolute if it is the name of a file.

    **Arguments:**

    - `option`: The name of the option.
    - `value`: Its value.
    """
    if option not in ("data", "model", "weights", "teacher", "teacher_weights"):
        return value
    text = str(value)
    if option in ("model", "teacher"):
        is_file = run_config(text) is not None or is_repository(text)
    else:
        is_file = text != "digits"
    prefix = "local-dir:" if text.startswith("local-dir:") else ""
    name = text.removeprefix(prefix)
    if is_file and (Path(name).exists() or is_pattern(name)):
        return prefix + os.path.abspath(name)
    return value


def write_run_file(path: Path, values: Mapping[str, Any]) -> None:
    """Write options as `read_run_file` reads them.

    **Arguments:**

    - `path`: The file.
    - `values`: From `run_values`, or read from such a file and changed.
    """
    is_recipe = lambda name: name in _RECIPE
    names = sorted(values, key=is_recipe)  # (a stable sort)
    parts = [
        "# Starts this run again, into another folder: `eqx-vit train THIS_FILE`.\n"
        "# Options given after it win. A relative path is relative to the folder in\n"
        "# which the command is run.\n\n",
        *(_line(n, values[n]) for n in names if not is_recipe(n)),
        "\n# The recipe.\n\n",
        *(_line(n, values[n]) for n in names if is_recipe(n)),
    ]
    with whole_file(path) as new:
        new.write_text("".join(parts), encoding="utf-8")


def _line(name: str, value: Any) -> str:
    return f"{name} = {_toml(value)}\n"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        parts = (f"{_toml(str(k))} = {_toml(v)}" for k, v in value.items())
        return f"{{ {', '.join(parts)} }}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    # (A text of JSON is one of TOML.)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
