"""Checkpoints that survive: kills, full disks, damage."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from eqx_vit.cli import main
from eqx_vit.cli.runs import Checkpoints, Run
from eqx_vit.cli.runs._events import Events
from safetensors.numpy import load_file

from .helpers import models


@pytest.fixture(scope="module", autouse=True)
def _promotion():
    with jax.numpy_dtype_promotion("standard"):  # Optax needs it
        yield


def tree(number=0.0):
    return {"weight": jnp.arange(5000.0) + number, "count": jnp.array(3)}


def filled(folder, accuracies):
    checkpoints = Checkpoints(folder, keep=2)
    for step, accuracy in enumerate(accuracies, start=1):
        metrics = None if accuracy is None else {"test_accuracy": accuracy}
        checkpoints.save(step, tree(step), {"next": step}, metrics)
    checkpoints.wait()
    return checkpoints


def restored_from(folder) -> Any:
    return Checkpoints(folder).restore(tree())


def test_the_last_and_the_best_are_kept(tmp_path):
    checkpoints = filled(tmp_path, [0.1, 0.9, None, 0.4, None])
    assert checkpoints.steps == [2, 4, 5]
    step, restored, position = restored_from(tmp_path)
    assert step == 5 and position == {"next": 5}
    assert eqx.tree_equal(restored, tree(5))
    assert Checkpoints(tmp_path / "none").restore(tree()) is None


def test_what_changes_after_a_save_is_not_saved(tmp_path):
    checkpoints, losses = Checkpoints(tmp_path), [1.0]
    for step in range(1, 6):
        checkpoints.save(step, tree(), {"losses": losses}, None)
        losses += [2.0]
    checkpoints.wait()
    assert restored_from(tmp_path)[2] == {"losses": [1.0] + 4 * [2.0]}


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_damage_is_named_and_the_one_before_loads(tmp_path, damage):
    filled(tmp_path, [0.1, 0.2])
    files = [path for path in (tmp_path / "2" / "arrays").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    if damage == "gone":
        largest.unlink()
    elif damage == "cut":
        largest.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 0xFF
        largest.write_bytes(data)
    message = "2` is damaged: .* Delete that folder, .* goes on from step 1"
    with pytest.raises(ValueError, match=message) as error:
        Checkpoints(tmp_path).restore(tree())
    assert "\n" not in str(error.value)
    shutil.rmtree(tmp_path / "2")
    step, restored, _ = restored_from(tmp_path)
    assert step == 1 and eqx.tree_equal(restored, tree(1))


def test_other_shapes_are_refused(tmp_path):
    filled(tmp_path, [0.1])
    with pytest.raises(ValueError, match="is damaged: .* There is no earlier one"):
        Checkpoints(tmp_path).restore(tree() | {"weight": jnp.zeros(7)})


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount; CI has it")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(small_disk):
    checkpoints = filled(small_disk / "run", [0.1])
    rng = np.random.default_rng(0)
    large = tree() | {"weight": jnp.asarray(rng.normal(size=200_000))}
    with pytest.raises(OSError, match="Cannot write .* last whole one is of step 1"):
        checkpoints.save(2, large, {}, None)
        checkpoints.wait()
    assert restored_from(small_disk / "run")[0] == 1


def test_a_read_only_folder(small_disk):
    filled(small_disk / "run", [0.1])
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(remount, check=True)
    with pytest.raises(
        OSError, match="Cannot write the checkpoint 2 .*read-only.* is of step 1"
    ):
        checkpoints = Checkpoints(small_disk / "run")
        checkpoints.save(2, tree(), {}, None)
        checkpoints.wait()
    with pytest.raises(OSError, match="Cannot open the checkpoints in .*Read-only"):
        Checkpoints(small_disk / "other")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.npz"])
def test_weights_on_a_full_disk(small_disk, name):
    model = models["ViT"](key=jr.key(0))
    eqx_vit.save_weights(model, small_disk / name)
    before = (small_disk / name).read_bytes()
    larger = models["ViT"](mlp_dim=2000, key=jr.key(0))
    with pytest.raises(OSError, match=rf"Cannot write `.*{name}`: .*No space left"):
        eqx_vit.save_weights(larger, small_disk / name)
    assert [path.name for path in small_disk.iterdir()] == [name]
    assert (small_disk / name).read_bytes() == before


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("pause", [0, 0.002])
def test_events_on_a_full_disk(small_disk, pause):
    # The thread that writes meets the full disk in `close`, or long before.
    events = Events(small_disk, 0)
    (small_disk / "rest").write_bytes(bytes(280_000))
    with pytest.raises(OSError, match="Cannot write TensorBoard's events in .*space"):
        for step in range(3000):
            events.add({"loss": 1.0}, step)
            time.sleep(pause)
        assert not pause
        events.close()
    with pytest.raises(OSError, match="Cannot write TensorBoard's events"):
        events.close()


@pytest.mark.slow
def test_a_process_ends_after_its_events_failed(tmp_path):
    code = (
        "import pathlib, resource, sys; from eqx_vit.cli.runs._events import Events\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "events = Events(pathlib.Path(sys.argv[1]), 0)\n"
        "try:\n"
        "    for step in range(20_000): events.add({'loss': 1.0}, step)\n"
        "    events.close()\n"
        "except OSError:\n"
        "    try: events.close()\n"
        "    except OSError: print('failed')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "failed\n"), done.stderr


TRAIN = "--epochs 4 --batch-size 250 --save-every 2 --watch 1 --average 0.9".split()
TRAIN += ["--set", "dim=16", "heads=2", "dim_head=8", "depth=1", "mlp_dim=16"]
TRAIN += ["patch_size=14", "dropout=0.1"]


def training(folder, cache):
    """Starts or goes on with the training, in a process of its own."""
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    known = (folder / "config.json").exists()
    out = ["--resume", str(folder)] if known else ["--out", str(folder), *TRAIN]
    os._exit(main(["train", *out]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "limit, file",
    [(100, "config.json"), (6000, "weights.safetensors")],
)
def test_a_run_on_a_full_disk(tmp_path, limit, file):
    code = (
        "import resource, sys; from eqx_vit.cli import main\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    train = ["train", *TRAIN, "--epochs", "1", "--out", str(tmp_path / "run")]
    train += ["--save-every", "0"]
    # (Without the tests' cache of compiled programs, whose files are larger.)
    environment = {k: v for k, v in os.environ.items() if "CACHE" not in k}
    command = [sys.executable, "-c", code, *train]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    errors = run.stderr.splitlines()
    assert run.returncode == 2 and errors[-1].startswith("error: Cannot write")
    assert file in errors[-1] and "Traceback" not in run.stderr
    assert not list(tmp_path.glob("run/.*"))  # nothing half-written


def at_step(folder):
    names = [path.name for path in (folder / "checkpoints").glob("*")]
    return max([int(name) for name in names if name.isdigit()], default=0)


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_weights(tmp_path):
    # Processes are forked off one that has imported all, before JAX starts in it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tensorboardX", __name__])
    rng, cache = random.Random(0), tmp_path / "cache"

    def start(name):
        process = context.Process(target=training, args=(tmp_path / name, cache))
        process.start()
        return process

    whole = start("whole")
    whole.join(300)
    assert whole.exitcode == 0
    kills, during_a_save, folder = 0, 0, tmp_path / "killed"
    while True:
        process, before = start("killed"), at_step(folder)
        if kills < 20:
            # Now and then before anything is saved; else within a few saves, half of
            # the time while one is being written.
            deadline = time.monotonic() + rng.uniform(0.5, 4 if kills % 5 == 0 else 60)
            ahead, wants_save = rng.choice([0, 0, 2]), rng.random() < 0.5
            while process.is_alive() and time.monotonic() < deadline:
                saving = any((folder / "checkpoints").glob("*tmp*"))
                if at_step(folder) > before + ahead and (saving or not wants_save):
                    break
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.02))
            if process.is_alive():
                during_a_save += any((folder / "checkpoints").glob("*tmp*"))
                process.kill()
                kills += 1
        process.join(300)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    print(f"{kills} kills, {during_a_save} of them during a save")
    assert kills >= 20 and during_a_save >= 3
    names = [tmp_path / name / "weights.safetensors" for name in ("whole", "killed")]
    expected, found = map(load_file, names)
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    rows = [Run.open(tmp_path / name).metrics() for name in ("whole", "killed")]
    for name in ("step", "train_loss", "test_loss", "test_accuracy"):
        assert [row[name] for row in rows[0]] == [row[name] for row in rows[1]]


@pytest.mark.slow
def test_a_loss_that_is_no_number(tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = [*TRAIN, "--out", str(folder), "--learning-rate", "1e30", "--clip", "0"]
    assert main(["train", *arguments, "--warmup", "0"]) == 2
    out = capsys.readouterr().err
    assert "image " in out and "lower `--learning-rate` than 1e+30" in out
    kept = Path(folder / "checkpoints")
    assert out.count("error:") == 1 and kept.is_dir()
