"""Each architecture's time for inference and for a training step, beside PyTorch's.

`python -m tests.benchmarks.speed` measures both in one run, in turn, on the same images
and, where the other is the same function, with the same weights. It writes
`docs/benchmarks/speed.csv` and a picture of it; the tables of `docs/benchmarks.md` are
made from the file. Needs what `tests/parity/requirements.txt` lists."""

import argparse
import contextlib
import math
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import as_completed, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import torch
from eqx_vit import count_flops, load_weights, predict
from eqx_vit.training import FlatStep, unroll
from matplotlib.figure import Figure

from ..parity import conftest  # noqa: F401 (which mends torchvision)
from .measuring import (
    alternate,
    DOCS,
    peak_memory,
    read_csv,
    spread,
    write_csv,
)
from .pairs import Pair, PAIRS


# Many processes share a GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
DEVICE = "cuda" if jax.default_backend() == "gpu" else "cpu"
MODES = ("inference", "training")
Call = Callable[[], None]
# Times that are measured together are of so many calls, for which a GPU is waited for
# once, as in training.
CALLS = 1 if DEVICE == "cpu" else 5


def our_calls(
    pair: Pair,
    theirs: torch.nn.Module,
    images: np.ndarray,
    dtype: Any,
    modes: list[str],
) -> tuple[dict[str, Call], dict[str, float], int]:
    """Inference and training steps, the seconds to compile each, and the operations of
    one image."""
    model, state = pair.ours()
    if pair.shares_weights:
        model, state = load_weights(model, theirs.state_dict(), state)
    model = model if DEVICE == "cpu" else unroll(model)
    pixels, labels, key = jnp.asarray(images, dtype), jnp.arange(len(images)), jr.key(0)
    optimizer = optax.adamw(1e-5)
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    flops = count_flops(predict, model, pixels[:1], state)
    step = FlatStep(model, state, opt_state, optimizer, compute_dtype=dtype)
    leaves = [jnp.copy(leaf) for leaf in step.leaves(model, state, opt_state)]
    programs, seconds = {}, {}
    for mode in modes:
        started = time.perf_counter()
        if mode == "inference":
            lowered: Any = predict.lower(model, pixels, state)
        else:
            lowered = step._step.lower(leaves, pixels, labels, None, key)
        programs[mode] = lowered.compile()
        seconds[mode] = time.perf_counter() - started

    def infer() -> None:
        for _ in range(CALLS):
            logits = programs["inference"](model, pixels, state)
        logits.block_until_ready()

    def train() -> None:
        nonlocal leaves
        for _ in range(CALLS):
            leaves, loss = programs["training"](leaves, pixels, labels, None, key)
        loss.block_until_ready()

    return {"inference": infer, "training": train}, seconds, flops


def their_calls(model: torch.nn.Module, images: np.ndarray, dtype: Any) -> dict:
    pixels = torch.tensor(images, device=DEVICE).permute(0, 3, 1, 2).contiguous()
    labels = torch.arange(len(images), device=DEVICE)
    optimizer = torch.optim.AdamW(
        model.parameters(), 1e-5, weight_decay=1e-4, fused=DEVICE == "cuda" or None
    )
    narrow = torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == jnp.bfloat16)

    def wait() -> None:
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    def infer() -> None:
        model.eval()
        with torch.inference_mode(), narrow:
            for _ in range(CALLS):
                model(pixels)
        wait()

    def train() -> None:
        model.train()
        for _ in range(CALLS):
            with narrow:
                loss = torch.nn.functional.cross_entropy(model(pixels), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        wait()

    return {"inference": infer, "training": train}


class TooSlow(BaseException):
    """No `Exception`, which `torch.compile` would catch and wrap."""


def first_call(call: Call, limit: float) -> float:
    """The seconds of a call; infinity where it took `limit` and was stopped. (A limit
    of 0 is none.)"""

    def stop(*_: object) -> None:
        raise TooSlow

    signal.signal(signal.SIGALRM, stop)
    started = time.perf_counter()
    try:
        signal.setitimer(signal.ITIMER_REAL, limit)
        call()
    except TooSlow:
        return math.inf
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return time.perf_counter() - started


class Turns:
    """With `--together` some models are compiled at once, and measured one by one."""

    def __init__(self, models: int, context: Any):
        self.compiled = context.Barrier(models)
        self.one = context.Lock()


def take(turns: Turns) -> None:
    global TURNS
    TURNS = turns


def measure_in_turn(name: str, batch: int, options: argparse.Namespace) -> list[dict]:
    """The rows of a model by name, since a pair's functions cannot be sent to another
    process."""
    try:
        prepared = prepare(name, PAIRS[name], batch, options)
    finally:
        with contextlib.suppress(threading.BrokenBarrierError):  # One takes too long.
            TURNS.compiled.wait(options.limit or None)
    with TURNS.one:
        return measure_prepared(name, PAIRS[name], batch, options, *prepared)


def prepare(
    name: str, pair: Pair, batch: int, options: argparse.Namespace
) -> tuple[dict[str, dict[str, Call]], dict[tuple[str, str], float], int]:
    """The calls by implementation and mode, the seconds that compiling them took, and
    the operations of one image."""
    shape = (batch, pair.image_size, pair.image_size, 3)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    dtype = jnp.dtype(options.dtype)
    legal = MODES if batch > 1 or pair.trains_alone else MODES[:1]
    modes = [mode for mode in legal if mode in options.modes]
    torch.manual_seed(0)
    theirs = pair.theirs().eval()
    ours, seconds, flops = our_calls(pair, theirs, images, dtype, modes)
    theirs = theirs.to(DEVICE)
    calls = {"ours": ours, "eager": their_calls(theirs, images, dtype)}
    compiling = {("ours", mode): seconds[mode] for mode in modes}
    if options.compile is not None and name in (options.compile or PAIRS):
        compiled: Any = torch.compile(theirs)
        slow, calls["compiled"] = their_calls(compiled, images, dtype), {}
        for mode in modes:
            compiling["compiled", mode] = first_call(slow[mode], options.limit)
            if compiling["compiled", mode] == math.inf:
                break
            calls["compiled"][mode] = slow[mode]
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
    return calls, compiling, flops


def measure_prepared(
    name: str,
    pair: Pair,
    batch: int,
    options: argparse.Namespace,
    implementations: dict[str, dict[str, Call]],
    compiling: dict[tuple[str, str], float],
    flops: int,
) -> list[dict]:
    """A row for inference and one for training, of what `prepare` returns."""
    rows = []
    for mode in MODES:
        if ("ours", mode) not in compiling:
            continue
        calls = {who: c[mode] for who, c in implementations.items() if mode in c}
        row: dict[str, Any] = {"model": name, "size": pair.size, "mode": mode}
        row |= {"batch": batch, "dtype": options.dtype, "package": pair.package}
        first = {who: s for (who, m), s in compiling.items() if m == mode}
        for who in "ours", "eager":
            first[who] = first.get(who, 0.0) + first_call(calls[who], 0)
        row |= {f"{who}_first_s": seconds for who, seconds in first.items()}
        seconds = alternate(calls, options.rounds)
        for who, values in seconds.items():
            row[f"{who}_ms"] = 1e3 * float(np.median(values)) / CALLS
            row[f"{who}_spread"] = spread(values)
            if DEVICE == "cpu":
                row[f"{who}_peak_mb"] = peak_memory(calls[who])
        times = 1 if mode == "inference" else 3
        rate = times * batch * flops / (1e-3 * row["ours_ms"])
        row["gflops"] = rate / 1e9
        rows.append({k: f"{v:.4g}" if type(v) is float else v for k, v in row.items()})
        print(*(f"{k}={v}" for k, v in rows[-1].items()), flush=True)
    return rows


def read(path: Path) -> dict[tuple, dict]:
    return {key(row): row for row in read_csv(path)}


def key(row: dict) -> tuple:
    return row["model"], row["mode"], int(row["batch"]), row["dtype"]


def write(path: Path, rows: dict[tuple, dict]) -> None:
    order = {name: i for i, name in enumerate(PAIRS)}
    write_csv(path, (rows[k] for k in sorted(rows, key=lambda k: (order[k[0]], k[1:]))))


def draw(rows: dict[tuple, dict], path: Path) -> None:
    """How many times as fast as PyTorch each model is, with whiskers of the spreads of
    both and a grey band as wide as a usual spread."""
    names = [n for n in PAIRS if any(k[0] == n for k in rows)][::-1]
    figure = Figure(figsize=(9, 1.6 + 0.3 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(MODES), sharey=True)
    for axes, mode in zip(panels, MODES):
        found = {k[0]: row for k, row in rows.items() if k[1] == mode}
        widths = []
        for i, who in enumerate(("eager", "compiled")):
            places, values, whiskers = [], [], []
            for place, name in enumerate(names):
                row = found.get(name, {})
                if row.get(f"{who}_ms"):
                    ratio = float(row[f"{who}_ms"]) / float(row["ours_ms"])
                    spreads = float(row["ours_spread"]), float(row[f"{who}_spread"])
                    places.append(place - 0.15 + 0.3 * i)
                    values.append(ratio)
                    whiskers.append(ratio * math.hypot(*spreads))
                    widths.append(math.hypot(*spreads))
            label = f"beside PyTorch {who}"
            axes.errorbar(values, places, xerr=whiskers, fmt="os"[i], ms=4, label=label)
        usual = float(np.median(widths))
        axes.axvspan(1 - usual, 1 + usual, color="0.85")
        axes.axvline(1, color="gray", lw=1)
        axes.set_xscale("log")
        axes.set_xticks([0.5, 0.7, 1, 1.5, 2, 3], ["0.5", "0.7", "1", "1.5", "2", "3"])
        axes.set_xticks([], minor=True)
        axes.set_yticks(range(len(names)), names)
        axes.set_title(mode)
        axes.set_xlabel("times as fast as PyTorch")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("models", nargs="*", help="what to measure anew (default: all)")
    add("--batch", type=int, nargs="*", default=[8], help="batch sizes")
    add("--modes", nargs="*", default=MODES, choices=MODES)
    add("--rounds", type=int, default=9, help="how often each is timed")
    add("--dtype", default="float32", choices=("float32", "bfloat16"))
    add("--compile", nargs="*", help="also `torch.compile`, of all or of these")
    add("--limit", type=float, default=300, help="seconds for its first call")
    add("--together", type=int, default=1, help="how many to compile at once")
    options = parser.parse_args()
    (DOCS / "benchmarks").mkdir(exist_ok=True)
    name = "speed" if DEVICE == "cpu" else "speed_gpu"
    path = DOCS / "benchmarks" / f"{name}.csv"
    if not options.models:  # The rows of one file are of one run.
        path.unlink(missing_ok=True)
    jobs = [(n, batch) for n in options.models or PAIRS for batch in options.batch]
    with tempfile.TemporaryDirectory() as folder:
        # (`torch.compile` keeps programs, but none of an earlier run.)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        for i in range(0, len(jobs), options.together):
            measure_group(jobs[i : i + options.together], options, path)
    draw(read(path), path.with_suffix(".png"))


def measure_group(
    jobs: list[tuple[str, int]], options: argparse.Namespace, path: Path
) -> None:
    """Writes the rows of a group of models that are compiled at the same time."""
    context = multiprocessing.get_context("spawn")
    turns = Turns(len(jobs), context)
    with contextlib.ExitStack() as stack:
        futures = {}
        for job in jobs:
            # Each in a process of its own, so that none finds the memory of another.
            pool = ProcessPoolExecutor(1, context, take, (turns,))
            stack.enter_context(pool)
            futures[pool.submit(measure_in_turn, *job, options)] = job, pool
        for future in as_completed(futures):
            job, pool = futures[future]
            pool.shutdown()
            if future.exception():
                print(f"{job} failed: {future.exception()!r}", flush=True)
            else:
                write(path, read(path) | {key(row): row for row in future.result()})


if __name__ == "__main__":
    main()
