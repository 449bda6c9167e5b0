"""Processor time before the first step: of imports and of the command's help.

    python -m tests.benchmarks.startup

Each command runs in a fresh process, in turn with `import jax, equinox`. Printed are
the median time and the median of the ratios to it. `--no-bytecode` measures as in a
container where Python writes no bytecode: the dependencies have theirs from pip, the
checked modules have none. `--epoch` measures one epoch of `eqx-vit train` instead, with
compiled programs kept and not."""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import eqx_vit


COMMANDS = {
    "import eqx_vit": ["-c", "import eqx_vit"],
    "eqx_vit.ViT": ["-c", "import eqx_vit; eqx_vit.ViT"],
    "all public names": [
        "-c",
        "import eqx_vit; [getattr(eqx_vit, n) for n in eqx_vit.__all__ if n != 'data']",
    ],
    "eqx-vit --help": ["-m", "eqx_vit", "--help"],
    "eqx-vit train --help": ["-m", "eqx_vit", "train", "--help"],
}
REFERENCE = ["-c", "import jax, equinox"]


def seconds(arguments: list[str], environment: dict[str, str]) -> float:
    """Processor time of a Python process, of the user and of the system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, *arguments]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def epochs() -> None:
    """Print the processor time of one epoch, with and without compiled programs."""
    train = "-m eqx_vit train --epochs 1 --set depth=4 --out".split()
    with tempfile.TemporaryDirectory() as folder:
        kept = os.environ | {"XDG_CACHE_HOME": folder}
        off = kept | {"JAX_ENABLE_COMPILATION_CACHE": "0"}
        runs = {"an empty cache": kept, "a full cache": kept, "no cache": off}
        for i, (name, environment) in enumerate(runs.items()):
            spent = seconds([*train, f"{folder}/run{i}"], environment)
            print(f"one epoch with {name}: {spent:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epoch", action="store_true")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--no-bytecode", action="store_true")
    options = parser.parse_args()
    if options.epoch:
        return epochs()
    environment = dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    for arguments in (REFERENCE, *COMMANDS.values()):  # writes the bytecode
        seconds(arguments, environment)
    if options.no_bytecode:
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        for path in Path(eqx_vit.__file__).parent.rglob("*.opt-jaxtyping*.pyc"):
            path.unlink()
    print(f"{'':22}  seconds  ratio")
    for name, arguments in COMMANDS.items():
        pairs = [
            (seconds(REFERENCE, environment), seconds(arguments, environment))
            for _ in range(options.repeats)
        ]
        time = statistics.median(own for _, own in pairs)
        ratio = statistics.median(own / reference for reference, own in pairs)
        print(f"{name:22}  {time:7.2f}  {ratio:5.2f}", flush=True)


if __name__ == "__main__":
    main()
