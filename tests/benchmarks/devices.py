"""A training step of a ViT-S/16 on 8 images, shared by 1 to 8 devices simulated on the
CPU, beside PyTorch's `DistributedDataParallel` in as many processes (gloo).

`growth.py` runs it. What runs in fresh processes stands here: XLA counts its devices
once, and each process of PyTorch is a device."""

import functools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import torch

from ..parity import conftest  # noqa: F401 (which mends torchvision)
from .measuring import peak_memory, spread


BATCH = 8


def measure(devices: int, rounds: int) -> dict[str, Any]:
    """The columns of a row of `growth.csv`; memory is of all processes together."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    row: dict[str, Any] = {}
    for who, part, processes, environment in (
        ("ours", _ours, 1, {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}),
        ("eager", _theirs, devices, {}),
    ):
        os.environ.update(environment)  # which the new processes inherit
        with tempfile.TemporaryDirectory() as folder:
            meeting = f"file://{folder}/meeting"
            task = functools.partial(part, devices, rounds, meeting)
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(processes, context) as pool:
                found = list(pool.map(task, range(processes)))
        first, seconds, memory = zip(*found)
        times = np.max(seconds, axis=0)  # a step ends with its last process
        row |= {f"{who}_first_s": max(first), f"{who}_ms": 1e3 * np.median(times)}
        row |= {f"{who}_spread": spread(times), f"{who}_peak_mb": sum(memory)}
    return {name: f"{value:.4g}" for name, value in row.items()}


def _timed(step: Callable[[], None], rounds: int) -> tuple[float, list[float], float]:
    """The seconds of the first call and of later ones, and the memory of one."""
    seconds = []
    for _ in range(rounds + 2):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return seconds[0], seconds[2:], peak_memory(step)


def _ours(devices: int, rounds: int, meeting: str, rank: int):
    del meeting, rank
    optimizer = optax.adamw(1e-5)
    with jax.set_mesh(eqx_vit.make_mesh()):
        model, state = eqx_vit.create_model("vit_small_patch16_224", key=jr.key(0))
        opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
        trees = eqx_vit.shard((model, state, opt_state))
        images = jnp.zeros((BATCH, 224, 224, 3))
        batch = eqx_vit.shard_batch((images, jnp.arange(BATCH)))

        def step() -> None:
            nonlocal trees
            *trees, loss = eqx_vit.train_step(*trees, *batch, optimizer, key=jr.key(1))
            loss.block_until_ready()

        return _timed(step, rounds)


def _theirs(devices: int, rounds: int, meeting: str, rank: int):

    import timm  # after `conftest` has mended torchvision

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // devices))
    torch.distributed.init_process_group(
        "gloo", init_method=meeting, world_size=devices, rank=rank
    )
    model = timm.create_model("vit_small_patch16_224").train()
    model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, weight_decay=1e-4)
    rows = BATCH // devices
    images, labels = torch.zeros(rows, 3, 224, 224), torch.arange(rows)

    def step() -> None:
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    try:
        return _timed(step, rounds)
    finally:
        torch.distributed.destroy_process_group()
