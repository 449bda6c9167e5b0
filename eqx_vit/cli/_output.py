"""Printing: results on standard output, everything else on standard error."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track


T = TypeVar("T")


def plain(name: object) -> str:
    """Return a name as it is, but for control characters, which are escaped."""
    return "".join(
        c
        if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else ascii(c)[1:-1]
        for c in str(name)
    )


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line as it is: not folded, and without markup."""
    console.print(
        text, style=style, markup=False, highlight=False, emoji=False, soft_wrap=True
    )


def warn(text: str) -> None:
    """Print a warning on standard error."""
    say(Console(stderr=True), f"warning: {plain(text)}", "yellow")


def fail(error: BaseException | str, most: int = 8) -> None:
    """Print an error in one line on standard error.

    **Arguments:**

    - `error`: The error, or its text.
    - `most`: How many further lines of its text to show in that line.
    """
    text = str(error).strip() or type(error).__name__
    first, *rest = [line.strip() for line in text.splitlines() if line.strip()]
    shown = [first, "; ".join(rest[:most])] if rest else [first]
    if len(rest) > most:
        shown[1] += f"; and {len(rest) - most} more (`--debug` shows all)"
    say(Console(stderr=True), f"error: {plain(' '.join(shown))}", "red")


def print_table(console: Console, rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns, of which the first row is the head."""
    rows = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        say(console, "  ".join(map(str.ljust, row, widths)).rstrip())


def track(items: Iterable[T], text: str, total: int, console: Console) -> Iterator[T]:
    """Yield the items, with a bar on a terminal, else with a line on standard error
    for every tenth of them; with neither if there is one only."""
    if total < 2:
        yield from items
        return
    if console.is_terminal:
        yield from rich_track(items, text, total, console=console)
        return
    errors, tenth = Console(stderr=True), 0
    for number, item in enumerate(items, start=1):
        yield item
        if 10 * number // total > tenth:
            tenth = 10 * number // total
            say(errors, f"{text}: {10 * tenth}%")
