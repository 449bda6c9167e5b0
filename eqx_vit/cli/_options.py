"""Types of options, and an option of many commands. The error for a wrong value names
it and the legal values."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any


def integer(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """Return the type of a whole number in `[least, most]`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"{text!r} must be a whole number from {least} to {most}"
            )
        return value

    return read


def number(
    least: float, most: float, excluded: tuple[float, ...] = ()
) -> Callable[[str], float]:
    """Return the type of a number in `[least, most]` that is none of `excluded`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or value in excluded:
            but = "".join(f", but not {x:g}" for x in excluded)
            raise argparse.ArgumentTypeError(
                f"{text!r} must be a number from {least:g} to {most:g}{but}"
            )
        return value

    return read


class Several(argparse.Action):
    """Keeps all values of an option that may be given several times."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest, self.default)
        is_first = before is self.default
        setattr(namespace, self.dest, values if is_first else [*before, *values])


class Size(argparse.Action):
    """Keeps one number as the side of a square, and two as `(height, width)`."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if len(values) not in (1, 2):
            parser.error(
                f"argument {option_string}: {len(values)} numbers; it must be one, the "
                "side of a square, or two, height and width"
            )
        height, width = values[0], values[-1]
        setattr(namespace, self.dest, (height, width))


def add_image_size(
    parser: argparse.ArgumentParser, default: Any = argparse.SUPPRESS
) -> None:
    """Add the option `--image-size`.

    **Arguments:**

    - `parser`: Where to add it.
    - `default`: Its value where it is not given; by default the options have no entry
        of its name then.
    """
    parser.add_argument(
        "--image-size",
        type=integer(1, 8192),
        nargs="+",
        action=Size,
        default=default,
        metavar="PIXELS",
        help="side of the images for the model, or height and width (default: its own)",
    )


def text(value: str) -> str:
    """Return the value if it is not empty."""
    if not value.strip() or "\0" in value:
        raise argparse.ArgumentTypeError(f"{value!r} must be a name")
    return value


def path(value: str) -> Path:
    """Return the value as a path."""
    return Path(text(value))
