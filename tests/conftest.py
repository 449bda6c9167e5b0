import equinox.internal as eqxi
import jax
import pytest


jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def getkey():
    return eqxi.GetKey(seed=0)
