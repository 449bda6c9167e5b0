"""How a ViT-S/16 grows with depth, tokens, batch and devices, beside PyTorch's.

`python -m tests.benchmarks.growth` writes `docs/benchmarks/growth.csv`, and a picture
of each cost: the time of a call, its memory, and the time until the first result. By
depth `torch.compile` is measured too. One run makes all rows, unless it names some."""

import argparse
from pathlib import Path
from typing import Any

import jax
import torch
from matplotlib.figure import Figure

from ..parity import conftest  # noqa: F401 (which mends torchvision)
from . import devices
from .measuring import DOCS, read_csv, write_csv, write_table
from .pairs import vit
from .speed import measure_prepared, MODES, prepare


# What varies: the rest is 12 blocks, 224 x 224, batch 1; by devices batch 8.
DEPTHS, SIDES, BATCHES = (3, 6, 12, 24, 48), (112, 160, 224, 320), (1, 2, 4, 8)
CASES: dict[str, list[tuple[int, dict[str, int], int]]] = {
    "depth": [(depth, dict(depth=depth), 1) for depth in DEPTHS],
    "tokens": [((s // 16) ** 2 + 1, dict(image_size=s), 1) for s in SIDES],
    "batch": [(batch, {}, batch) for batch in BATCHES],
    "devices": [(number, {}, devices.BATCH) for number in (1, 2, 4, 8)],
}
COSTS = {
    "time": ("ms", "ms a call", MODES),
    # (Inference takes less than what allocators hold anyway.)
    "memory": ("peak_mb", "MB in a training step", MODES[1:]),
    "first": ("first_s", "seconds until the first result", MODES),
}
WHO = {
    "ours": "eqx_vit",
    "eager": "PyTorch eager",
    "compiled": "torch.compile",
}


def measure(by: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for value, sizes, batch in CASES[by]:
        if by == "devices":
            row = devices.measure(value, options.rounds)
            found = [dict(mode="training", batch=batch, dtype="float32") | row]
        else:
            options.compile = [] if by == "depth" else None
            case = "ViT", vit(**sizes), batch, options
            calls, compiling, flops = prepare(*case)
            found = measure_prepared(*case, calls, compiling, flops)
            jax.clear_caches()
            torch.compiler.reset()  # It compiles a model for eight sizes at most.
        rows += [{"by": by, "value": value} | row for row in found]
        print(rows[-1], flush=True)
    return rows


def draw(rows: list[dict[str, Any]], cost: str, path: Path) -> None:
    """A panel for each of what varies: training in full lines, inference in dashes."""
    column, label, modes = COSTS[cost]
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    panels = figure.subplots(1, len(CASES), sharey=True)
    for axes, by in zip(panels, CASES):
        for mode in modes:
            line = "o-" if mode == "training" else "s--"
            found = [r for r in rows if r["by"] == by and r["mode"] == mode]
            for color, (who, name) in enumerate(WHO.items()):
                points = [
                    (int(r["value"]), float(r[f"{who}_{column}"]))
                    for r in found
                    if r.get(f"{who}_{column}")
                ]
                if not points:
                    continue
                named = f"{name}, {mode}" if by == "depth" else None
                axes.plot(*zip(*points), line, ms=4, c=f"C{color}", label=named)
        places = [value for value, _, _ in CASES[by]]
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(places, places, minor=False)
        axes.set_xticks([], minor=True)
        axes.set_xlabel(by)
    panels[0].set_ylabel(label)
    figure.legend(loc="outside upper center", ncols=3)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("by", nargs="*", default=list(CASES), help="what varies")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    options.dtype, options.modes, options.limit = "float32", MODES, 300
    folder = DOCS / "benchmarks"
    path = folder / "growth.csv"
    rows = read_csv(path)
    for by in options.by:
        measured = measure(by, options)
        # What is not measured anew stays, also if a later one is stopped.
        rows = [row for row in rows if row["by"] != by] + measured
        write_csv(path, rows)
    rows = read_csv(path)
    for cost in COSTS:
        draw(rows, cost, folder / f"growth_{cost}.png")
    lines = ["| blocks | eqx_vit | PyTorch eager | `torch.compile` | a later step |"]
    lines.append("|---|---|---|---|---|")
    for row in rows:
        if row["by"] == "depth" and row["mode"] == "training":
            first = (f"{float(row[f'{who}_first_s']):.3g} s" for who in WHO)
            later = f"{float(row['ours_ms']) / 1e3:.3g} s"
            lines.append(f"| {row['value']} | {' | '.join(first)} | {later} |")
    write_table("growth", "ViT-S/16, one image, float32", lines)


if __name__ == "__main__":
    main()
