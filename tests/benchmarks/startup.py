"""Processor time before the first step: of imports and of the command's help.

    python -m tests.benchmarks.startup

Each command runs in a fresh process, in turn with `import jax, equinox`. Printed are
the median time and the median of the ratios to it. `--no-bytecode` measures as in a
container where Python writes no bytecode: the dependencies have theirs from pip, the
checked modules have none. `--epoch` measures one epoch of `eqx-vit train` instead, with
compiled programs kept and not. `--models` measures the time until models of fourteen
architectures have made their first training step, and writes the table of
`docs/benchmarks.md`."""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import equinox as eqx
import eqx_vit
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from .measuring import write_table


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
MODELS = """vit_small_patch16_224 vit_small_patch16_18x2_224 deepvit_24 cait_xxs24_224
crossvit_small_240 t2t_vit_t_14 pit_s_224 cvt_13 levit_256 crossformer_small
nest_tiny_jx regionvit_small scalablevit_s twins_svt_small""".split()
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


def first_step(name: str) -> None:
    """Print the seconds that it takes to make a model, of its first training step on 8
    images, and of a later one."""
    times = [time.perf_counter()]
    model, state = eqx_vit.create_model(name, key=jr.key(0))
    times.append(time.perf_counter())
    optimizer = optax.adamw(1e-5)
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    batch = jnp.zeros((8, *eqx_vit.zoo[name].image_size, 3)), jnp.arange(8)
    for key in jr.split(jr.key(1), 3):
        model, state, opt_state, loss = eqx_vit.train_step(
            model, state, opt_state, *batch, optimizer, key=key
        )
        loss.block_until_ready()
        times.append(time.perf_counter())
    print(*np.diff(times)[[0, 1, -1]])


def first_steps() -> None:
    lines = ["| model | to make it | first training step | a later one |"]
    lines.append("|---|---|---|---|")
    code = "from tests.benchmarks.startup import first_step; first_step({!r})"
    for name in MODELS:
        command = [sys.executable, "-c", code.format(name)]
        out = subprocess.run(command, check=True, capture_output=True, text=True)
        made, first, later = map(float, out.stdout.split())
        lines.append(f"| `{name}` | {made:.1f} s | {first:.1f} s | {later:.2f} s |")
        print(lines[-1], flush=True)
    write_table("first step", "8 images, float32, no program kept", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epoch", action="store_true")
    parser.add_argument("--models", action="store_true")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--no-bytecode", action="store_true")
    options = parser.parse_args()
    if options.epoch:
        return epochs()
    if options.models:
        return first_steps()
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
