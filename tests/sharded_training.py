"""What `test_sharding.py` runs in processes of its own."""

import contextlib
import json
import math
import re
import signal
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from eqx_vit.training.step import _train_step

from .helpers import images_for, models


# A ViT whose arrays are mostly large enough to be cut.
SETTINGS = {"ViT": dict(dim=64, mlp_dim=256, heads=4, dim_head=16, dropout=0.1)}
BITS = {"f32": 4, "u32": 4, "s32": 4, "pred": 1}


def collectives(program):
    """The bytes that a device sends, by collective, of a compiled program."""
    found, body = {}, ""
    for line in program.splitlines():
        if line and not line.startswith(" "):
            body = line
        match = re.search(r"= (.*?) (all-reduce|all-gather|reduce-scatter)\(", line)
        if match is None:
            continue
        shapes, kind = match.groups()
        size = sum(
            BITS[dtype] * math.prod(map(int, filter(None, dims.split(","))))
            for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
        )
        group = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
        devices = len(group[1].split(",")) if group else jax.device_count()
        sent = {
            "all-gather": size * (devices - 1) // devices,
            "reduce-scatter": size * (devices - 1),
            "all-reduce": 2 * size * (devices - 1) // devices,
        }[kind]
        # A block's collectives are in the body of a loop that runs once a block.
        times = 1 if body.startswith("ENTRY") else 2
        found[kind] = found.get(kind, 0) + times * sent
    return found


def train(name, mesh, steps=3):
    make = eqx.nn.make_with_state(models[name])
    model, state = make(**SETTINGS.get(name, {}), key=jr.key(0))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    images, labels = images_for(name, 16), jnp.arange(16) % 10
    result: dict = {"losses": []}
    with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
        if mesh is not None:
            sizes = mesh.shape["data"], mesh.shape["fsdp"]
            result["stated"] = eqx_vit.training.bytes_per_step(model, *sizes)
        model, state, opt_state = eqx_vit.shard((model, state, opt_state))
        images, labels = eqx_vit.shard_batch((images, labels))
        if mesh is not None and name == "ViT":
            settings = (optimizer, eqx_vit.Loss(), None, None)
            batch = ((images, labels, None), settings, jr.key(0))
            step: Any = _train_step
            lowered = step.lower(batch, model, state, opt_state)
            result["collectives"] = collectives(lowered.compile().compiled.as_text())
        for i in range(steps):
            model, state, opt_state, loss = eqx_vit.train_step(
                model, state, opt_state, images, labels, optimizer, key=jr.key(i)
            )
            result["losses"].append(float(loss))
    arrays = jax.tree.leaves(eqx.filter((model, opt_state), eqx.is_array))
    result["bytes"] = sum(a.addressable_shards[0].data.nbytes for a in arrays)
    return result


def meshes():
    grids = {"8x1": (8, 1), "1x8": (1, 8), "2x4": (2, 4)}
    made = {name: eqx_vit.make_mesh(*grid) for name, grid in grids.items()}
    made = {"single": None} | made
    return {
        # (LeViT for its BatchNorm, to which all meshes are alike.)
        "ViT": {name: train("ViT", mesh) for name, mesh in made.items()},
        "LeViT": {name: train("LeViT", made[name]) for name in ("single", "2x4")},
    }


def host(process, processes, port, folder, stop):
    """The command's own loop, with the rows, checkpoints and weights of two hosts.
    With `stop` the second one is pre-empted after a step; a folder that is there goes
    on."""
    from eqx_vit.cli import main

    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{port}", processes, process)
    losses, step = [], eqx_vit.training.FlatStep.__call__

    def noted(*arguments, **settings):
        leaves, loss = step(*arguments, **settings)
        losses.append(float(loss))
        if stop and process == 1:
            signal.raise_signal(signal.SIGTERM)
        return leaves, loss

    eqx_vit.training.FlatStep.__call__ = noted
    options = "--epochs 2 --batch-size 2000 --data-parallel 1 --fsdp 2 --watch 1 --out"
    small = ["--set", "dim=32", "heads=2", "depth=1", "mlp_dim=64", "patch_size=14"]
    arguments = [*options.split(), folder, *small]
    if Path(folder, "config.json").exists():
        arguments = ["--resume", folder]
    assert main(["train", *arguments]) == 0
    return {"losses": losses}


if __name__ == "__main__":
    jax.config.update("jax_disable_most_optimizations", True)
    kind, *arguments = sys.argv[1:]
    if kind == "meshes":
        print(json.dumps(meshes()))
    else:
        process, processes, port, folder, stop = arguments
        result = host(int(process), int(processes), int(port), folder, stop == "True")
        print(json.dumps(result))
