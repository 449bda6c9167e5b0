"""The command `eqx-vit`."""

import argparse
import logging
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn

from rich.console import Console

from . import (
    _augment,
    _evaluate,
    _explain,
    _export,
    _features,
    _models,
    _predict,
    _summary,
    _train,
)
from .runs._output import fail


COMMANDS: dict[str, ModuleType] = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "explain": _explain,
    "features": _features,
    "export": _export,
    "augment": _augment,
    "summary": _summary,
    "models": _models,
}


class _WrongOptions(ValueError):
    """Options that the parser does not take."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _WrongOptions(f"{message} (`{self.prog} --help` explains the options)")


def parser() -> argparse.ArgumentParser:
    """The arguments of all commands."""
    top = _Parser(prog="eqx-vit", description="Vision transformers in JAX and Equinox.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        text = module.__doc__ or ""
        command = commands.add_parser(
            name,
            help=text.splitlines()[0].rstrip(".").lower(),
            description=text,
        )
        module.add_arguments(command)
        command.add_argument(
            "--debug",
            action="store_true",
            help="show the traceback of an error, and all of its lines",
        )
        command.set_defaults(command=module.run)
    return top


def _given(arguments: list[str] | None) -> frozenset[str]:
    """The names of the options that were given, not left at their defaults."""
    top = parser()
    (commands,) = (a.choices for a in top._actions if isinstance(a.choices, dict))
    for command in commands.values():
        command._defaults.clear()
        for action in command._actions:
            action.default = argparse.SUPPRESS
    return frozenset(vars(top.parse_args(arguments)))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    **Arguments:**

    - `arguments`: Without the name of the program; by default those of the process.

    **Returns:**

    The exit status: 0, or 2 after an error, which is one line on standard error, or 130
    after an interrupt.
    """
    console = Console()
    try:
        options = parser().parse_args(arguments)
    except _WrongOptions as error:
        fail(error)
        return 2
    options.given = _given(arguments)
    # They tell of every file and try, and of what is raised too.
    for name in ("absl", "huggingface_hub"):
        level = logging.ERROR if options.debug else logging.CRITICAL
        logging.getLogger(name).setLevel(level)
    command: Callable[[argparse.Namespace, Console], int] = options.command
    try:
        return command(options, console)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # the last resort: no traceback that nobody asked for
        if options.debug:
            raise
        # (Errors of our own say all that is to be said; others are named.)
        known = isinstance(error, ValueError | OSError | ImportError)
        fail(error if known else f"{type(error).__name__}: {error}")
        return 2
