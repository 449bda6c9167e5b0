import gc
import os

import equinox.internal as eqxi
import jax
import pytest


jax.config.update("jax_numpy_dtype_promotion", "strict")
# Compiling is most of what these tests do: this halves it, and halves it again. (XLA
# ends the process if it does not know a flag.)
jax.config.update("jax_disable_most_optimizations", True)
if jax.__version__.startswith("0.10."):
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = flags + " --xla_cpu_use_fusion_emitters=false"


def pytest_configure(config):
    # What one process has compiled, the others need not: those of a test, those of
    # pytest-xdist, and those of the next run.
    folder = os.environ.setdefault(
        "JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir("jax"))
    )
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def pytest_collection_finish():
    # What was imported is no garbage: to look for some in it takes a tenth of the time.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    # What shares a compiled model runs in one process of pytest-xdist.
    for item in items:
        name = getattr(item, "callspec", None) and item.callspec.params.get("name")
        group = name if isinstance(name, str) else item.module.__name__
        slow_for = item.get_closest_marker("slow_for")
        if slow_for is not None and name in slow_for.args:
            item.add_marker(pytest.mark.slow)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture
def getkey():
    return eqxi.GetKey(seed=0)
