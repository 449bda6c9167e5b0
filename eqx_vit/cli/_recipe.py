"""The options of a recipe and of the model that it trains."""

import argparse
import ast
import dataclasses
from typing import Any

from ..data import count_channels, Splits
from ..families import families
from ..pretrained import Architecture
from ..training.recipe import ALIASES, Range, Recipe, recipe, recipes
from ._options import add_image_size, Several, text


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """A recipe, and every field of it."""
    parser.add_argument(
        "--recipe",
        type=text,
        default="default",
        metavar="NAME",
        help=f"{', '.join(recipes())}, a TOML file or a run folder (default: default); "
        "what follows changes it",
    )
    for field in dataclasses.fields(Recipe):
        if field.name == "expected":
            continue
        many, legal = field.type == tuple[str, ...], field.metadata["legal"]
        kinds = {int: int, float: float, int | None: int, float | None: float}
        kind = kinds.get(field.type, str)
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            *("--" + alias for alias, name in ALIASES.items() if name == field.name),
            type=kind,
            nargs="*" if many else None,
            action=Several if many else "store",
            choices=legal if isinstance(legal, tuple) and not many else None,
            default=argparse.SUPPRESS,
            help=field.metadata["help"]
            + (f" ({legal})" if isinstance(legal, Range) else ""),
        )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """A model, its size and settings."""
    parser.add_argument(
        "--model",
        type=text,
        default=next(iter(families())),
        metavar="NAME",
        help="published model (`eqx-vit models`), or a run folder to go on from its "
        "weights, or a class for a tiny size of it, of "
        f"{', '.join(families())} or by the path `package.module:Class` of one that is "
        "registered there (default: %(default)s)",
    )
    add_image_size(parser)
    parser.add_argument(
        "--set",
        nargs="*",
        action=Several,
        default=[],
        metavar="SETTING=VALUE",
        help="further arguments of the model's class, as `depth=4 distilled=True`",
    )


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The recipe with the changes that the options make."""
    names = {field.name for field in dataclasses.fields(Recipe)}
    changes = {name: value for name, value in vars(options).items() if name in names}
    return recipe(options.recipe, **changes)


def architecture_of(
    options: argparse.Namespace, splits: Splits, stochastic_depth: float = 0.0
) -> Architecture:
    """The model of the options, for some data."""
    return Architecture.of(
        options.model,
        len(splits.train.classes),
        vars(options).get("image_size"),
        count_channels(splits.train),
        dict(map(setting, options.set)),
        stochastic_depth,
    )


def setting(given: str) -> tuple[str, Any]:
    """The name and the value in an argument of `--set`."""
    name, equals, value = given.partition("=")
    if not equals:
        raise ValueError(f"`--set {given}` must look like `depth=4`.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
