"""The benchmarks need more than the tests; here is enough to see that they start."""

import importlib
import pkgutil

import pytest
from eqx_vit import load_weights

from tests import benchmarks
from tests.benchmarks.pairs import PAIRS


@pytest.mark.parametrize(
    "name", [m.name for m in pkgutil.iter_modules(benchmarks.__path__)]
)
def test_a_benchmark_is_imported(name):
    importlib.import_module(f"tests.benchmarks.{name}")


@pytest.mark.parametrize(
    "name", [n for n, pair in PAIRS.items() if pair.shares_weights]
)
def test_a_pair_has_the_same_weights(name):
    model, state = PAIRS[name].ours()
    load_weights(model, PAIRS[name].theirs().state_dict(), state)
