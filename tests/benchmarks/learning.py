"""What every architecture learns with the default recipe: the table of
`docs/training.md`, which `python -m tests.benchmarks.learning` writes."""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import equinox as eqx
import jax
from eqx_vit.cli.runs import Run
from eqx_vit.families import families


PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def train(name: str, arguments: list[str]) -> str:
    """The row of a model, trained in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "eqx_vit", "train", "--model", name]
        started = time.monotonic()
        subprocess.run([*command, "--out", str(out), *arguments], check=True)
        seconds = time.monotonic() - started
        run = Run.open(out)
        model, _ = run.architecture.shapes()
        rows = run.metrics()
    leaves = jax.tree.leaves(eqx.filter(model, lambda x: hasattr(x, "dtype")))
    parameters = sum(leaf.size for leaf in leaves)
    accuracies = [float(row["test_accuracy"]) for row in rows]
    first = next((i + 1 for i, x in enumerate(accuracies) if x >= 0.85), "never")
    height, width = run.architecture.image_size
    cells = [name, f"{height} x {width}", f"{parameters:,}", f"{accuracies[-1]:.1%}"]
    cells += [str(first), f"{seconds:.0f} s"]
    print(*cells, flush=True)
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="whose rows to renew (default: all)")
    options, arguments = parser.parse_known_args()
    head, mark, table = PAGE.read_text().partition("<!-- table -->\n")
    rows = {row.split()[1]: row for row in table.splitlines() if row.startswith("| ")}
    rows |= {name: train(name, arguments) for name in options.models or families()}
    lines = [
        f"(On {os.cpu_count()} cores, {platform.machine()}, JAX {jax.__version__}, one "
        "after the other; the time is that of the whole command.)",
        "",
        "| model | image | parameters | accuracy | 85 % in epoch | time |",
        "|---|---|---|---|---|---|",
        *(rows[name] for name in families() if name in rows),
    ]
    PAGE.write_text(head + mark + "\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
