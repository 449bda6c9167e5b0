import equinox.internal as eqxi
import jax
import pytest


jax.config.update("jax_numpy_dtype_promotion", "strict")
# Compiling is most of what these tests do: this halves it.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def getkey():
    return eqxi.GetKey(seed=0)
