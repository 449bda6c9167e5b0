"""The command `eqx-vit`."""

import argparse
import ast
import functools
import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from importlib.resources import files
from types import ModuleType
from typing import NoReturn

from rich.console import Console

from .. import __version__
from ._output import fail


# Each is a module of this package, which is imported when the command is run.
COMMANDS = (
    "train",
    "evaluate",
    "predict",
    "explain",
    "features",
    "export",
    "augment",
    "summary",
    "models",
)


class _WrongOptions(ValueError):
    """Options that the parser does not take."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _WrongOptions(f"{message} (`{self.prog} --help` explains the options)")


def import_command(arguments: Sequence[str]) -> ModuleType | None:
    """The module of the command that is to run; `None` if there is none.

    **Arguments:**

    - `arguments`: Without the name of the program.
    """
    name = _command(arguments)
    return importlib.import_module(f"._{name}", __name__) if name else None


def _command(arguments: Sequence[str]) -> str | None:
    name = next((text for text in arguments if not text.startswith("-")), None)
    return name if name in COMMANDS else None


@functools.cache
def _docstring(name: str) -> str:
    """The docstring of a command, read without importing its module, which needs
    JAX."""
    text = (files(__name__) / f"_{name}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(text)) or ""


def parser(arguments: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The parser of the command line.

    **Arguments:**

    - `arguments`: Those to parse, which need the options of one command only; by
        default it has the options of all.
    """
    top = _Parser(prog="eqx-vit", description="Vision transformers in JAX and Equinox.")
    version = f"%(prog)s {__version__}"
    top.add_argument("--version", action="version", version=version)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    wanted = COMMANDS if arguments is None else (_command(arguments),)
    for name in COMMANDS:
        text = _docstring(name)
        command = commands.add_parser(
            name,
            help=text.splitlines()[0].rstrip(".").lower(),
            description=text,
        )
        if name not in wanted:
            continue
        module = importlib.import_module(f"._{name}", __name__)
        module.add_arguments(command)
        command.add_argument(
            "--debug",
            action="store_true",
            help="show the traceback of an error, and all of its lines",
        )
        command.set_defaults(command=module.run)
    return top


def _given(arguments: Sequence[str]) -> frozenset[str]:
    """The names of the options that were given, not left at their defaults."""
    top = parser(arguments)
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
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = parser(arguments).parse_args(arguments)
    except _WrongOptions as error:
        fail(error)
        return 2
    options.given = _given(arguments)
    # They tell of every file and try, and of what is raised too.
    for name in ("absl", "huggingface_hub"):
        level = logging.ERROR if options.debug else logging.CRITICAL
        logging.getLogger(name).setLevel(level)
    command: Callable[[argparse.Namespace, Console], int] = options.command
    from ._cache import keep_programs  # (It takes JAX, which the command has imported.)

    keep_programs()
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
