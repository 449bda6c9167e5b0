"""The command `eqx-vit`."""

import argparse
import logging
from collections.abc import Callable
from types import ModuleType

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


def parser() -> argparse.ArgumentParser:
    """The arguments of all commands."""
    top = argparse.ArgumentParser(
        prog="eqx-vit", description="Vision transformers in JAX and Equinox."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        text = module.__doc__ or ""
        command = commands.add_parser(
            name,
            help=text.splitlines()[0].rstrip(".").lower(),
            description=text,
        )
        module.add_arguments(command)
        command.set_defaults(command=module.run)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    **Arguments:**

    - `arguments`: Without the name of the program; by default those of the process.

    **Returns:**

    The exit status: 0, or 2 after an error, or 130 after an interrupt.
    """
    options = parser().parse_args(arguments)
    console = Console()
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells of every file
    command: Callable[[argparse.Namespace, Console], int] = options.command
    try:
        return command(options, console)
    except (ValueError, OSError, ImportError) as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        return 130
