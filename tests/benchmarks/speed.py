"""Each architecture's time for inference and for a training step, beside PyTorch's.

`python -m tests.benchmarks.speed` measures both in one run, in turn, on the same images
and, where the other is the same function, with the same weights. It writes
`docs/benchmarks/speed.csv`, a picture of the ratios, and the table of
`docs/benchmarks.md`. Needs what `tests/parity/requirements.txt` lists."""

import argparse
import math
import multiprocessing
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import torch
from eqx_vit import count_flops, load_weights, predict, train_step
from eqx_vit.flops import matmul_peak
from matplotlib.figure import Figure

from ..parity import conftest  # noqa: F401 (which mends torchvision)
from .measuring import (
    alternate,
    DOCS,
    peak_memory,
    read_csv,
    spread,
    write_csv,
    write_table,
)
from .pairs import Pair, PAIRS


DEVICE = "cuda" if jax.default_backend() == "gpu" else "cpu"
Call = Callable[[], None]


def our_calls(
    pair: Pair, theirs: torch.nn.Module, images: np.ndarray, dtype: Any
) -> tuple[dict[str, Call], int]:
    """Inference and a training step, and the operations of one image."""
    model, state = pair.ours()
    if pair.shares_weights:
        model, state = load_weights(model, state, theirs.state_dict())
    pixels = jnp.asarray(images, dtype)
    labels = jnp.arange(len(images))
    optimizer = optax.adamw(1e-5)
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    flops = count_flops(predict, model, state, pixels[:1])
    keys = iter(jr.split(jr.key(0), 10_000))
    trained = jax.tree.map(
        lambda x: jnp.copy(x) if eqx.is_array(x) else x, (model, state, opt_state)
    )

    def infer() -> None:
        predict(model, state, pixels).block_until_ready()

    def train() -> None:
        nonlocal trained
        *trained, loss = train_step(
            *trained, jnp.asarray(images), labels, optimizer, compute_dtype=dtype,
            key=next(keys),
        )  # fmt: skip
        loss.block_until_ready()

    return {"inference": infer, "training": train}, flops


def their_calls(model: torch.nn.Module, images: np.ndarray, dtype: Any) -> dict:
    pixels = torch.tensor(images, device=DEVICE).permute(0, 3, 1, 2).contiguous()
    labels = torch.arange(len(images), device=DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, weight_decay=1e-4)
    narrow = torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == jnp.bfloat16)

    def wait() -> None:
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    def infer() -> None:
        model.eval()
        with torch.inference_mode(), narrow:
            model(pixels)
        wait()

    def train() -> None:
        model.train()
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


def measure_by_name(name: str, batch: int, options: argparse.Namespace) -> list[dict]:
    """As `measure`, for another process, to which a pair's functions cannot be sent."""
    return measure(name, PAIRS[name], batch, options)


def measure(
    name: str, pair: Pair, batch: int, options: argparse.Namespace
) -> list[dict]:
    """A row for inference and one for training."""
    shape = (batch, pair.image_size, pair.image_size, 3)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    dtype = jnp.dtype(options.dtype)
    torch.manual_seed(0)
    theirs = pair.theirs().eval()
    ours, flops = our_calls(pair, theirs, images, dtype)
    theirs = theirs.to(DEVICE)
    implementations = {"ours": ours, "eager": their_calls(theirs, images, dtype)}
    if options.compile:
        compiled: Any = torch.compile(theirs)
        implementations["compiled"] = their_calls(compiled, images, dtype)
    rows = []
    modes = ("inference", "training")
    for mode in modes if batch > 1 or pair.trains_alone else modes[:1]:
        calls = {who: calls[mode] for who, calls in implementations.items()}
        row: dict[str, Any] = {"model": name, "size": pair.size, "mode": mode}
        row |= {"batch": batch, "dtype": options.dtype, "package": pair.package}
        for who, call in calls.items():
            limit = options.limit if who == "compiled" else 0
            row[f"{who}_first_s"] = first_call(call, limit)
        if row.get("compiled_first_s") == math.inf:
            del calls["compiled"], implementations["compiled"]
        peak = matmul_peak(dtype)
        seconds = alternate(calls, options.rounds)
        peak = max(peak, matmul_peak(dtype))
        for who, values in seconds.items():
            row[f"{who}_ms"] = 1e3 * float(np.median(values))
            row[f"{who}_spread"] = spread(values)
            if who != "ours":
                row[f"ratio_{who}"] = float(np.median(seconds["ours"] / values))
            if DEVICE == "cpu":
                row[f"{who}_peak_mb"] = peak_memory(calls[who])
        times = 1 if mode == "inference" else 3
        rate = times * batch * flops / float(np.median(seconds["ours"]))
        row |= {"gflops": rate / 1e9, "share_of_peak": rate / peak}
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
    """The ratios to PyTorch eager, of the largest batch."""
    batch = max(k[2] for k in rows)
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    names = [n for n in PAIRS if any(k[0] == n and k[2] == batch for k in rows)]
    for i, mode in enumerate(("inference", "training")):
        found = [rows.get((n, mode, batch, "float32"), {}) for n in names]
        ratios = [float(row.get("ratio_eager") or "nan") for row in found]
        places = np.arange(len(names)) + 0.4 * i - 0.2
        axes.bar(places, ratios, 0.38, label=mode)
    axes.axhline(1, color="gray", lw=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_ylabel(f"time / PyTorch eager's, batch {batch}")
    axes.legend()
    figure.savefig(path, dpi=100)


def table(rows: dict[tuple, dict]) -> list[str]:
    """Markdown, a line for a model and a batch size, and the geometric means (of the
    seventeen: without the second ViT)."""
    head = ["model", "size", "beside", "batch", "peak"]
    for mode in ("inference", "training"):
        head += [mode, "eager", "ratio", "of peak"]
    head += ["first"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    ratios: dict[tuple, list[float]] = {}
    for name, mode, batch, dtype in sorted(rows, key=lambda k: k[2]):
        if mode != "inference":
            continue
        row = rows[name, mode, batch, dtype]
        peak = float(row["gflops"]) / float(row["share_of_peak"])
        cells = [name, row["size"], row["package"], str(batch), f"{peak:.0f}"]
        for mode in ("inference", "training"):
            row = rows.get((name, mode, batch, dtype))
            if row is None:
                cells += ["-"] * 5
                continue
            ratio = float(row["ratio_eager"])
            if name != "ViT-B":
                ratios.setdefault((batch, mode), []).append(ratio)
            cells += [f"{float(row['ours_ms']):.3g} ms"]
            cells += [f"{float(row['eager_ms']):.3g} ms", f"**{ratio:.2f}**"]
            if compiled := row.get("ratio_compiled"):
                cells[-1] += f" ({float(compiled):.2f})"
            cells += [f"{float(row['share_of_peak']):.0%}"]
            if mode == "training":
                cells += [f"{float(row['ours_first_s']):.3g} s"]
        lines.append("| " + " | ".join(cells) + " |")
    for batch in sorted({batch for batch, _ in ratios}):
        means = [
            f"{np.exp(np.mean(np.log(ratios[batch, mode]))):.2f}"
            for mode in ("inference", "training")
        ]
        lines.append(
            f"| geometric mean | | | {batch} | | | | **{means[0]}** | | | | "
            f"**{means[1]}** | | |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("models", nargs="*", help="what to measure anew (default: all)")
    add("--batch", type=int, nargs="*", default=[1, 8], help="batch sizes")
    add("--rounds", type=int, default=9, help="how often each is timed")
    add("--dtype", default="float32", choices=("float32", "bfloat16"))
    add("--compile", action="store_true", help="also `torch.compile`")
    add("--limit", type=float, default=300, help="seconds for its first call")
    options = parser.parse_args()
    (DOCS / "benchmarks").mkdir(exist_ok=True)
    path = DOCS / "benchmarks" / "speed.csv"
    # Each in a process of its own, so that none finds the memory of another.
    context = multiprocessing.get_context("spawn")
    for name in options.models or PAIRS:
        for batch in options.batch:
            with ProcessPoolExecutor(1, context) as pool:
                found = pool.submit(measure_by_name, name, batch, options).result()
            write(path, read(path) | {key(row): row for row in found})
    rows = read(path)
    draw(rows, DOCS / "benchmarks" / "speed.png")
    write_table("table", f"Float32, PyTorch {torch.__version__}", table(rows))


if __name__ == "__main__":
    main()
