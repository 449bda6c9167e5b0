"""The benchmarks need more than the tests; here is enough to see that they start."""

import importlib
import pkgutil

import pytest

from tests import benchmarks


@pytest.mark.parametrize(
    "name", [m.name for m in pkgutil.iter_modules(benchmarks.__path__)]
)
def test_a_benchmark_is_imported(name):
    importlib.import_module(f"tests.benchmarks.{name}")
