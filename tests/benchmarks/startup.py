"""Processor time before the first step: of imports and of the command's help.

    python -m tests.benchmarks.startup

Each command runs in a fresh process, in turn with `import jax, equinox`. Printed are
the median time and the median of the ratios to it. `--no-bytecode` measures as in a
container where Python writes no bytecode: that of the dependencies is there, since pip
wrote it, and that of the checked modules is not."""

import argparse
import os
import resource
import statistics
import subprocess
import sys
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--no-bytecode", action="store_true")
    options = parser.parse_args()
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
