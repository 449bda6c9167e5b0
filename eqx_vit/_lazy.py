"""Public names that are imported at their first use."""

import ast
import importlib
import sys
from collections.abc import Callable
from importlib.resources import files
from typing import Any


def attach(
    package: str,
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return the `__getattr__`, `__dir__` and `__all__` of a package whose public names
    are the imports in its stub, `__init__.pyi`.

    So `eqx-vit --help` and the processes that load images do without JAX, and a part
    that needs an extra is missed only by those who use it.
    """
    tree = ast.parse((files(package) / "__init__.pyi").read_text(encoding="utf-8"))
    modules: dict[str, str | None] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            modules |= {alias.name: node.module for alias in node.names}

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if modules[name] is None:
            return importlib.import_module(f"{package}.{name}")
        value = getattr(importlib.import_module(f"{package}.{modules[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*modules, *vars(sys.modules[package])})

    return get, names, sorted(modules)
