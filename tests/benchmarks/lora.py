"""What adapters save and cost beside full fine-tuning: `docs/benchmarks/lora.csv`,
which `python -m tests.benchmarks.lora` writes."""

import argparse
from typing import Any

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from eqx_vit.training import lora_patterns

from .measuring import alternate, DOCS, write_csv


def measure(name: str, batch: int, rank: int, rounds: int) -> list[dict]:
    """A row for each way to train a model: memory besides what goes in and out, memory
    of the parameters and the optimiser's state, operations, and time."""
    images = jnp.zeros((batch, 224, 224, 3))
    labels, key, adamw = jnp.arange(batch), jr.key(0), optax.adamw(1e-5)
    model, state = eqx_vit.create_model(name, key=key)
    adapted = eqx_vit.lora(model, rank, key=key)
    head = eqx_vit.freeze(adamw, model, ["*", "!head.*"])
    adapters = eqx_vit.freeze(adamw, adapted, lora_patterns(adapted))
    ways = {
        "full": (model, adamw),
        f"LoRA, rank {rank}": (adapted, adapters),
        "head": (model, head),
    }
    calls, plans = {}, {}
    for way, (model, optimizer) in ways.items():

        def step(model, state, opt_state, optimizer=optimizer):
            return eqx_vit.train_step(
                model, state, opt_state, images, labels, optimizer, key=key
            )

        opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
        inputs = model, state, opt_state
        jitted: Any = eqx.filter_jit(step)
        compiled = jitted.lower(*inputs).compile()
        plans[way] = compiled.compiled, inputs
        calls[way] = lambda c=compiled, i=inputs: jax.block_until_ready(c(*i)[-1])
    seconds = alternate(calls, rounds)
    rows = []
    for way, (compiled, inputs) in plans.items():
        arrays = jax.tree.leaves(eqx.filter(inputs, eqx.is_array))
        row = dict(
            model=name,
            batch=batch,
            trained=way,
            seconds=f"{np.median(seconds[way]):.3f}",
            time=f"{np.median(seconds[way] / seconds['full']):.2f}",
            temporary_mb=f"{compiled.memory_analysis().temp_size_in_bytes / 1e6:.0f}",
            arrays_mb=f"{sum(array.nbytes for array in arrays) / 1e6:.0f}",
            gflops=f"{compiled.cost_analysis()['flops'] / 1e9:.0f}",
        )
        rows.append(row)
        print(row, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["vit_small_patch16_224"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    batch, rank, rounds = options.batch, options.rank, options.rounds
    rows = [row for n in options.models for row in measure(n, batch, rank, rounds)]
    write_csv(DOCS / "benchmarks" / "lora.csv", rows)


if __name__ == "__main__":
    main()
