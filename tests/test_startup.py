"""Programs that are kept for the next command, and signatures checked when called."""

import inspect
import os
import pickle
import subprocess
import sys
from typing import Any

import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import pytest
from eqx_vit._checks import checked
from eqx_vit.cli._cache import keep_programs, program_folder
from eqx_vit.layers import Linear, pair


CONFIG: Any = jax.config
NAMES = ("dir", "max_size")
OPTIONS = [f"jax_compilation_cache_{name}" for name in NAMES]
OPTIONS += [
    "jax_persistent_cache_min_compile_time_secs",
    "jax_enable_compilation_cache",
]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A cache folder of its own; JAX's options are put back."""
    before = {name: getattr(CONFIG, name) for name in OPTIONS}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    CONFIG.update("jax_compilation_cache_dir", None)
    yield tmp_path / "cache"
    for name, value in before.items():
        CONFIG.update(name, value)


def test_programs_are_kept_in_the_users_folder(home):
    keep_programs()
    assert CONFIG.jax_compilation_cache_dir == str(program_folder())
    assert home in program_folder().parents and program_folder().is_dir()


def test_the_users_choice_stays(home, tmp_path):
    CONFIG.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    keep_programs()
    assert CONFIG.jax_compilation_cache_dir == str(tmp_path / "own")
    CONFIG.update("jax_compilation_cache_dir", None)
    CONFIG.update("jax_enable_compilation_cache", False)
    keep_programs()
    assert CONFIG.jax_compilation_cache_dir is None and not home.exists()


def test_a_folder_that_cannot_be_made_is_a_warning(home, capsys):
    home.write_text("a file")
    keep_programs()
    assert CONFIG.jax_compilation_cache_dir is None
    assert f"`{program_folder()}` cannot be made" in capsys.readouterr().err


def test_a_folder_that_is_read_only_is_a_warning(monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    keep_programs()
    assert CONFIG.jax_compilation_cache_dir is None
    assert "is read-only" in capsys.readouterr().err


def test_a_user_without_a_home_has_no_programs(home, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("eqx_vit.cli._cache.Path.home", no_home)
    keep_programs()
    assert CONFIG.jax_compilation_cache_dir is None


def test_a_full_disk_is_a_warning(monkeypatch, capsys):
    monkeypatch.setattr("eqx_vit.cli._cache.LEAST_FREE", 2**60)
    keep_programs()
    assert CONFIG.jax_compilation_cache_dir is None
    assert "almost full" in capsys.readouterr().err


def test_half_a_program_is_removed():
    program_folder().mkdir(parents=True)
    half, whole, new = (program_folder() / f"{x}-cache" for x in "abc")
    for path in (half, whole, new):
        path.touch()
    (program_folder() / "b-atime").touch()
    for path in (half, whole):
        os.utime(path, (0, 0))
    keep_programs()
    assert [path.exists() for path in (half, whole, new)] == [False, True, True]


def test_machines_with_other_instructions_share_nothing(monkeypatch):
    here = program_folder()
    monkeypatch.setattr("platform.machine", lambda: "another")
    assert program_folder() != here and program_folder().parent == here.parent


@pytest.mark.slow
def test_the_second_command_compiles_nothing(home, tmp_path):
    # (All programs are kept: some take about as long as the least time to be kept.)
    environment = os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    del environment["JAX_COMPILATION_CACHE_DIR"]
    command = [sys.executable, "-m", "eqx_vit", "train", "--epochs", "1"]
    command += "--batch-size 500 --set dim=8 heads=2 dim_head=4 depth=1".split()

    def kept(out):
        done = subprocess.run([*command, "--out", str(tmp_path / out)], env=environment)
        assert done.returncode == 0
        return {path.name for path in home.rglob("*-cache")}

    first = kept("one")
    assert first and kept("two") == first


def test_a_library_import_keeps_nothing(home):
    code = (
        "import eqx_vit, jax; eqx_vit.ViT; print(jax.config.jax_compilation_cache_dir)"
    )
    environment = dict(os.environ)
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["None"] and not home.exists()


def test_beartype_sees_a_function_at_its_first_call(monkeypatch):
    seen = []
    monkeypatch.setattr("eqx_vit._checks._beartype", lambda f: seen.append(f) or f)
    call = checked(abs)
    assert not seen
    assert (call(-1), call(-2), seen) == (1, 2, [abs])


def test_functions_keep_their_names_and_are_pickled():
    assert pair.__name__ == "pair" and pair.__module__ == "eqx_vit.layers._checks"
    assert pickle.loads(pickle.dumps(pair)) is pair
    signature = inspect.signature(Linear.__call__)
    assert list(signature.parameters)[:2] == ["self", "x"]


def test_the_message_names_argument_and_shapes():
    layer = Linear(3, 4, key=jr.key(0))
    with pytest.raises(jaxtyping.TypeCheckError) as error:
        layer(jnp.zeros((2, 5)))
    for text in ("_linear.Linear.__call__", "parameter 'x'", "f32[2,5]"):
        assert text in str(error.value)


def test_an_int_passes_for_a_float():
    model = eqx_vit.ViT(
        image_size=8, patch_size=4, dim=8, depth=1, heads=1, dropout=0, key=jr.key(0)
    )
    assert model(jnp.zeros((8, 8, 3))).shape == (1000,)
