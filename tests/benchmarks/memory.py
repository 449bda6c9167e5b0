"""What rematerialisation saves and costs: a table of `docs/benchmarks.md`, which
`python -m tests.benchmarks.memory` writes."""

import argparse
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from eqx_vit import create_model, train_step
from eqx_vit.training import rematerialise

from .measuring import alternate, write_table


KEPT: dict[str, Any] = {
    "all": jax.checkpoint_policies.everything_saveable,
    "products (default)": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "`attention_output`, `mlp`": ("attention_output", "mlp"),
    "`attention_output`": ("attention_output",),
    "nothing": (),
}


def measure(name: str, batch: int, rounds: int) -> list[str]:
    """The rows of a model: planned memory besides what goes in and out, and time."""
    images = jnp.zeros((batch, 224, 224, 3))
    labels, key, optimizer = jnp.arange(batch), jr.key(0), optax.adamw(1e-5)
    model, state = create_model(name, key=key)

    def step(model, state, opt_state):
        return train_step(model, state, opt_state, images, labels, optimizer, key=key)

    calls, megabytes = {}, {}
    for choice, keep in KEPT.items():
        again = rematerialise(model, keep)
        opt_state = optimizer.init(eqx.filter(again, eqx.is_inexact_array))
        inputs = again, state, opt_state
        jitted: Any = eqx.filter_jit(step)
        compiled = jitted.lower(*inputs).compile()
        plan = compiled.compiled.memory_analysis()
        megabytes[choice] = plan.temp_size_in_bytes / 1e6
        calls[choice] = lambda c=compiled, i=inputs: jax.block_until_ready(c(*i)[-1])
    seconds = alternate(calls, rounds)
    rows = []
    for choice, values in seconds.items():
        ratio = float(np.median(values / seconds["all"]))
        rows.append(f"| {name} | {choice} | {megabytes[choice]:.0f} MB | {ratio:.2f} |")
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["vit_small_patch16_224"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    batch, rounds = options.batch, options.rounds
    rows = [row for n in options.models for row in measure(n, batch, rounds)]
    head = ["| model | kept | memory | time |", "|---|---|---|---|"]
    write_table("memory", f"Batch {batch}, float32", head + rows)


if __name__ == "__main__":
    main()
