"""How long a training step holds up the host: a table of `docs/benchmarks.md`, which
`python -m tests.benchmarks.dispatch` writes."""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from eqx_vit import create_model, train_step
from eqx_vit.training import FlatStep

from .measuring import write_table


CALLS = 20


def main() -> None:
    key, optimizer = jr.key(0), optax.adamw(1e-5)
    batch = jnp.zeros((1, 224, 224, 3)), jnp.arange(1)
    model, state = create_model("vit_small_patch16_224", key=key)
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    flat = FlatStep(model, state, opt_state, optimizer)
    copied = jax.tree.map(jnp.copy, flat.leaves(model, state, opt_state))

    def step(trees):
        model, state, opt_state = trees
        *trees, loss = train_step(model, state, opt_state, *batch, optimizer, key=key)
        return trees, loss

    cases: dict[str, tuple[Any, Any]] = {
        "`train_step`": ([model, state, opt_state], step),
        "`FlatStep`": (copied, lambda leaves: flat(leaves, *batch, key=key)),
    }
    rows = []
    for name, (trees, step) in cases.items():
        host, whole = [], []
        for _ in range(CALLS):
            started = time.perf_counter()
            trees, loss = step(trees)
            host.append(time.perf_counter() - started)
            jax.block_until_ready((eqx.filter(trees, eqx.is_array), loss))
            whole.append(time.perf_counter() - started)
        # (The first calls compile.)
        host, whole = (1e3 * float(np.median(times[2:])) for times in (host, whole))
        rows.append(f"| {name} | {host:.2f} ms | {whole:.0f} ms |")
        print(rows[-1])
    head = ["| | until the call returns | until the step is done |", "|---|---|---|"]
    write_table("dispatch", "ViT-S/16, one image, float32", head + rows)


if __name__ == "__main__":
    main()
