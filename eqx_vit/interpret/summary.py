"""The modules of a model in a table: shapes, parameters, operations."""

import math
import re
import types
from dataclasses import dataclass, fields
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float

from ..layers import call_with_state, check_at_least
from ..training.optimizer import is_parameter
from .flops import product_flops


@dataclass(frozen=True)
class Row:
    """A module of a model.

    - `path`: Where it is in the model; the model itself is `""`.
    - `kind`: Its class.
    - `shape`: The shape of its output for one image, or `None` if it is not called.
    - `parameters`: How many numbers it learns, all blocks of a scanned stack together.
    - `flops`: The floating-point operations of its products for one image, likewise.
    """

    path: str
    kind: str
    shape: tuple[int, ...] | None
    parameters: int
    flops: int


@dataclass(frozen=True)
class Summary:
    """Rows that print as a table."""

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        cells = [("module", "class", "output", "parameters", "GFLOPs")]
        for row in self.rows:
            level = sum(not part.isdigit() for part in row.path.split(".") if part)
            name = "  " * level + (row.path or "model")
            shape = "" if row.shape is None else " x ".join(map(str, row.shape))
            flops = f"{row.flops / 1e9:.3f}" if row.flops else ""
            cells.append((name, row.kind, shape, f"{row.parameters:,}", flops))
        widths = [max(map(len, column)) for column in zip(*cells)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i < 3 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths))
            ).rstrip()
            for line in cells
        )


def summary(
    model: eqx.Module,
    image: Float[Array, "height width channels"] | jax.ShapeDtypeStruct,
    state: eqx.nn.State | None = None,
    *,
    depth: int = 2,
) -> Summary:
    """Return a table of a model's modules: output shapes, parameters, operations.

    The model is traced once, not run: shapes will do for the model and the image.

    **Arguments:**

    - `model`: A model.
    - `image`: A single image, or its shape.
    - `state`: The model's running statistics, from
        `equinox.nn.make_with_state(Model)(...)`; not needed by a model without any.
    - `depth`: How many levels of modules to show, from 0. (Keyword only argument.)

    **Raises:**

    A `ValueError` if `depth` is negative.
    """
    check_at_least(0, depth=depth)
    shapes: dict[str, tuple[int, ...]] = {}
    kinds: dict[str, str] = {}
    parameters: dict[str, int] = {}

    def traced(x, path):
        """`x`, whose modules note their shape and put their path on what they do."""
        if isinstance(x, tuple):
            return tuple(traced(y, _join(path, str(i))) for i, y in enumerate(x))
        if not isinstance(x, eqx.Module) or _is_index(x):
            return x
        kind = type(x)
        kinds[path] = kind.__name__
        leaves = jax.tree.leaves(x, is_leaf=_is_index)
        sizes = [math.prod(leaf.shape) for leaf in leaves if is_parameter(leaf)]
        parameters[path] = sum(sizes)

        def call(self, *arguments, **keywords):
            with jax.named_scope(f"@{path}@"):
                out = kind.__call__(self, *arguments, **keywords)
            arrays = [leaf for leaf in jax.tree.leaves(out) if eqx.is_array(leaf)]
            shapes.setdefault(path, arrays[0].shape if arrays else ())
            return out

        # A class of its own for every module, since a scan makes its modules anew.
        members = {"__call__": call} if callable(x) else {}
        noting = types.new_class(
            kind.__name__, (kind,), {}, lambda n: n.update(members)
        )
        new = object.__new__(noting)
        for field in fields(x):
            value = getattr(x, field.name)
            if not field.metadata.get("static"):
                value = traced(value, _join(path, field.name))
            object.__setattr__(new, field.name, value)
        return new

    root: Any = traced(eqx.nn.inference_mode(model), "")
    function = lambda model, image, state: call_with_state(model, image, state)[0]
    jaxpr, *_ = eqx.filter_make_jaxpr(function)(root, image, state)
    flops = dict.fromkeys(kinds, 0)
    for scope, count in product_flops(jaxpr.jaxpr):
        for path in set(re.findall("@([^@]*)@", scope)):
            flops[path] += count
    shown = [
        path
        for path in kinds
        if sum(not part.isdigit() for part in path.split(".") if part) <= depth
        and (parameters[path] or flops[path])
    ]
    return Summary(
        tuple(
            Row(path, kinds[path], shapes.get(path), parameters[path], flops[path])
            for path in shown
        )
    )


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _is_index(x: Any) -> bool:
    return isinstance(x, eqx.nn.StateIndex)
