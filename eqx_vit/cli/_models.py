"""List the published models.

Their names, sizes and accuracies; or those whose names match."""

import argparse

from rich.console import Console

from ..pretrained import list_models, Zoo
from ..pretrained.zoo import zoo
from ._output import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pattern",
        nargs="?",
        default="*",
        help="what the names look like, as `cait_*` (default: all)",
    )


def run(options: argparse.Namespace, console: Console) -> int:
    names = list_models(options.pattern)
    if not names:
        raise ValueError(
            f"No name matches {options.pattern!r}: {zoo.unknown(options.pattern)}"
        )
    say(console, str(Zoo({name: zoo[name] for name in names})))
    return 0
