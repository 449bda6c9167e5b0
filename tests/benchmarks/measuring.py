"""Time and memory of calls, measured side by side."""

import csv
import ctypes
import gc
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import jax
import numpy as np


DOCS = Path(__file__).parents[2] / "docs"


def alternate(
    functions: Mapping[str, Callable[[], None]], rounds: int
) -> dict[str, np.ndarray]:
    """The seconds that each function took in each round.

    In every round each is called once, in turn forwards and backwards, so that what
    slows the machine down slows all of them. The calls before are not counted.
    """
    seconds = {name: [] for name in functions}
    for function in functions.values():
        function()
        function()
    for i in range(rounds):
        for name in list(functions)[:: 1 if i % 2 else -1]:
            started = time.perf_counter()
            functions[name]()
            seconds[name].append(time.perf_counter() - started)
    return {name: np.array(values) for name, values in seconds.items()}


def spread(values: np.ndarray) -> float:
    """Half of the range between the quartiles, as a share of the median."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float((high - low) / 2 / middle)


def peak_memory(function: Callable[[], None]) -> float:
    """Megabytes that the process holds more while the function runs (on Linux)."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest so far
    before = _status("VmRSS")
    function()
    return (_status("VmHWM") - before) / 1e3


def read_csv(path: Path) -> list[dict]:
    """The rows of a file that `write_csv` wrote; none where there is no file yet."""
    return list(csv.DictReader(path.open())) if path.is_file() else []


def write_csv(path: Path, rows: Iterable[dict]) -> None:
    """The rows, under all the names that one of them has."""
    rows = list(rows)
    with path.open("w", newline="") as file:
        names = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_table(name: str, what: str, lines: list[str]) -> None:
    """Puts a table in `docs/benchmarks.md`, between the comments of its name and `end`,
    with what was measured, and where, above it."""
    page = DOCS / "benchmarks.md"
    head, mark, rest = page.read_text().partition(f"<!-- {name} -->\n")
    if not mark:
        raise ValueError(f"{page} has no comment `<!-- {name} -->` for the table.")
    _, end, after = rest.partition("<!-- end -->\n")
    device = f"{os.cpu_count()} cores, {platform.machine()}"
    if jax.default_backend() != "cpu":
        device = jax.devices()[0].device_kind
    note = f"({what}; {device}, JAX {jax.__version__}.)"
    page.write_text(
        head + mark + "\n".join(["", note, "", *lines, "", ""]) + end + after
    )


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return float(line.split()[1])
    raise ValueError(name)
