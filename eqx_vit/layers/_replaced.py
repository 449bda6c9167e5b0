import dataclasses
from typing import Any, TypeVar

import equinox as eqx


Module = TypeVar("Module", bound=eqx.Module)


def replaced(module: Module, **fields: Any) -> Module:
    """A copy of a module with other fields, static ones included, which
    `equinox.tree_at` does not reach."""
    new = object.__new__(type(module))
    for field in dataclasses.fields(module):
        value = fields.get(field.name, getattr(module, field.name))
        object.__setattr__(new, field.name, value)
    return new
