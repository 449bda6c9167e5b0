import equinox.internal as eqxi
import jax
import pytest


jax.config.update("jax_numpy_dtype_promotion", "strict")
# Compiling is most of what these tests do: this halves it.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    # What shares a compiled model runs in one process of pytest-xdist.
    for item in items:
        name = getattr(item, "callspec", None) and item.callspec.params.get("name")
        group = name if isinstance(name, str) else item.module.__name__
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture
def getkey():
    return eqxi.GetKey(seed=0)
