"""How a ViT-S/16 grows with depth, tokens and batch, beside timm's.

`python -m tests.benchmarks.growth` writes `docs/benchmarks/growth.csv` and a picture:
time of inference, of a training step and, by depth, of the step's compilation."""

import argparse
from pathlib import Path
from typing import Any

import jax
from matplotlib.figure import Figure

from ..parity import conftest  # noqa: F401 (which mends torchvision)
from .measuring import DOCS, read_csv, write_csv, write_table
from .pairs import vit
from .speed import measure_prepared, MODES, prepare


# What varies: the rest is 12 blocks, 224 x 224, batch 1.
DEPTHS, SIDES, BATCHES = (3, 6, 12, 24, 48), (112, 160, 224, 320), (1, 2, 4, 8)
CASES: dict[str, list[tuple[int, dict[str, int], int]]] = {
    "depth": [(depth, dict(depth=depth), 1) for depth in DEPTHS],
    "tokens": [((s // 16) ** 2 + 1, dict(image_size=s), 1) for s in SIDES],
    "batch": [(batch, {}, batch) for batch in BATCHES],
}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(10, 6), layout="constrained")
    grid = figure.subplots(2, 3, sharey="row")
    for column, by in enumerate(CASES):
        for line, mode in enumerate(MODES):
            axes = grid[line, column]
            found = [r for r in rows if r["by"] == by and r["mode"] == mode]
            places = [int(r["value"]) for r in found]
            for who, label in (("ours", "eqx_vit"), ("eager", "PyTorch eager")):
                times = [float(r[f"{who}_ms"]) for r in found]
                axes.loglog(places, times, "o-", label=label)
            axes.set_xticks(places, places, minor=False)
            axes.set_xticks([], minor=True)
            axes.set_xlabel(by)
            axes.set_ylabel(f"{mode}, ms" if column == 0 else "")
    grid[0, 0].legend()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("by", nargs="*", default=list(CASES), help="what varies")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    options.dtype, options.compile, options.modes = "float32", None, MODES
    folder = DOCS / "benchmarks"
    path = folder / "growth.csv"
    rows = read_csv(path)
    for by in options.by:
        measured = []
        for value, sizes, batch in CASES[by]:
            case = "ViT", vit(**sizes), batch, options
            calls, compiling, flops = prepare(*case)
            found = measure_prepared(*case, calls, compiling, flops)
            found[-1]["compiling_s"] = f"{compiling['ours', 'training']:.4g}"
            jax.clear_caches()
            measured += [{"by": by, "value": value} | row for row in found]
        # What is not measured anew stays, also if a later one is stopped.
        rows = [row for row in rows if row["by"] != by] + measured
        write_csv(path, rows)
    draw(rows, folder / "growth.png")
    compiled = [r for r in rows if r["by"] == "depth" and r["mode"] == "training"]
    lines = [
        f"| {r['value']} | {float(r['compiling_s']):.3g} s | "
        f"{float(r['ours_first_s']):.3g} s | {float(r['ours_ms']) / 1e3:.3g} s |"
        for r in compiled
    ]
    head = [
        "| blocks | compiling | first training step | a later one |",
        "|---|---|---|---|",
    ]
    write_table("growth", "ViT-S/16, one image, float32", head + lines)


if __name__ == "__main__":
    main()
