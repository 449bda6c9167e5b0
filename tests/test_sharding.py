"""Training on 8 simulated devices, and on two processes, in processes of their own:
the number of devices is fixed when JAX starts."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import eqx_vit
import jax.random as jr
import pytest

from .helpers import models


PROGRAM = Path(__file__).parent / "sharded_training.py"


def started(*arguments, devices=1):
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.sharded_training", *map(str, arguments)]
    root = PROGRAM.parent.parent
    return subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True
    )


def finished(process):
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def results():
    return finished(started("meshes", devices=8))


@pytest.mark.slow
@pytest.mark.parametrize(
    "model, mesh",
    [("ViT", "8x1"), ("ViT", "1x8"), ("ViT", "2x4"), ("LeViT", "2x4")],
)
def test_losses_are_those_of_one_device(results, model, mesh):
    single, sharded = results[model]["single"], results[model][mesh]
    assert single["losses"][-1] < single["losses"][0]
    assert sharded["losses"] == pytest.approx(single["losses"], abs=1e-5)


@pytest.mark.slow
def test_the_compiled_program_holds_the_collectives(results):
    vit = results["ViT"]
    assert vit["8x1"]["collectives"].keys() == {"all-reduce"}
    for mesh in ("1x8", "2x4"):
        kinds = {"all-reduce", "all-gather", "reduce-scatter"}
        assert vit[mesh]["collectives"].keys() == kinds


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["8x1", "1x8", "2x4"])
def test_bytes_per_step(results, mesh):
    counted, stated = (results["ViT"][mesh][n] for n in ("collectives", "stated"))
    for name, size in counted.items():
        # Beside the gradient the loss is summed.
        assert size == pytest.approx(stated[name], rel=0.01, abs=64)


@pytest.mark.slow
def test_memory_falls(results):
    vit = results["ViT"]
    whole = vit["single"]["bytes"]
    assert vit["8x1"]["bytes"] == whole
    assert vit["1x8"]["bytes"] < whole / 8 * 1.15
    assert vit["2x4"]["bytes"] < whole / 4 * 1.15


@pytest.mark.slow
def test_two_processes(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    one, two = (tmp_path / name for name in ("one", "two"))
    single = finished(started("host", 0, 1, port, one, False, devices=2))["losses"]
    # The pre-emption of one of them stops both, and they go on together.
    for stop, losses in ((True, single[:1]), (False, single[1:])):
        both = [started("host", i, 2, port, two, stop) for i in range(2)]
        for process in both:
            assert finished(process)["losses"] == pytest.approx(losses, abs=1e-5)
    # Weights and checkpoints are written once, and whole.
    assert (two / "weights.safetensors").exists()
    kept = [path.name for path in (two / "checkpoints").iterdir()]
    assert {"2", "4"} <= set(kept)


def test_wrong_meshes():
    with pytest.raises(ValueError, match="`fsdp=3` does not divide the 1 devices"):
        eqx_vit.make_mesh(fsdp=3)
    with pytest.raises(ValueError, match="need 4 devices, but there are 1"):
        eqx_vit.make_mesh(2, 2)


def test_without_a_mesh_nothing_is_moved():
    model = models["ViT"](key=jr.key(0))
    assert eqx_vit.shard(model) is model
    moved = eqx_vit.training.bytes_per_step(eqx.filter(model, eqx.is_array), 1, 1)
    assert set(moved.values()) == {0}
