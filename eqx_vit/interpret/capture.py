"""Looking inside a model: the values that are named where they arise."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, Float, PRNGKeyArray

from ..layers import AnyArray, call_with_state
from .jaxprs import jaxprs_in


def capture(
    model: Callable, names: Sequence[str], *, depth: int | None = None
) -> Callable[..., tuple[Array, dict[str, Array | tuple[Array, ...]]]]:
    """Return a function that gives the logits and the named values inside a model.

    The values are collected by interpreting the jaxpr of the model, which stays as it
    is:

        vit = eqx.nn.inference_mode(vit)
        logits, inside = eqx_vit.capture(vit, ["attention"])(image)
        inside["attention"].shape  # (depth, heads, queries, keys)

    The function composes with `jax.jit`, `jax.grad`, and `jax.vmap` for a batch. Under
    `jax.jit` nothing is computed that is not asked for: if the logits are dropped and a
    `depth` is given, blocks after it are not computed.

    **Arguments:**

    - `model`: A model.
    - `names`: What to collect, see [`eqx_vit.named_values`][].
    - `depth`: Only the value number `depth` of every name, counted from 0, or from the
        end if negative. (Keyword only argument.)

    **Returns:**

    A function that is called as the model and returns the logits and, by name, the
    values. Those of a scanned stack are one array with a leading axis of depth. A name
    that stands at several places, as in the stages of a pyramid, has a tuple of arrays
    in their order. With `depth` it has the one value.

    **Raises:**

    The function raises a `ValueError` that lists the names there are if one is unknown,
    or says how many values there are if `depth` is beyond them.
    """

    def captured(
        image: Float[Array, "height width channels"],
        state: eqx.nn.State | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Array, dict[str, Array | tuple[Array, ...]]]:
        return _captured((model, image, state, key), tuple(names), depth)

    return captured


@eqx.filter_jit
def _captured(inputs, names, depth):
    model, image, state, key = inputs
    logits, found = interpret(model, names, image, state, key=key, depth=depth)
    values = {name: [v for n, v in found if n == name] for name in names}
    return logits, {
        name: arrays[0] if len(arrays) == 1 else tuple(arrays)
        for name, arrays in values.items()
    }


def named_values(
    model: Callable,
    image: Float[AnyArray, "height width channels"] | jax.ShapeDtypeStruct,
    state: eqx.nn.State | None = None,
) -> dict[str, int]:
    """The names inside a model, and how many values have each.

    - `"attention"`: Probabilities after the softmax, `heads queries keys`, with windows
        in front if there are any.
    - `"attention_output"`, `"mlp"`: What attention and feed-forward network return.
    - `"block"`: The tokens, or the map, after a block.
    - `"stage"`: The map after a stage, `height width dim`.

    **Arguments:**

    - `model`: A model.
    - `image`: A single image, or its shape.
    - `state`: The model's running statistics, from
        `equinox.nn.make_with_state(Model)(...)`; not needed by a model without any.
    """
    model = eqx.nn.inference_mode(model)
    closed, *_ = eqx.filter_make_jaxpr(_logits)(model, image, state, None)
    return dict(_names(closed.jaxpr))


def interpret(
    model: Callable,
    names: Sequence[str],
    image: Any,
    state: eqx.nn.State | None = None,
    *,
    key: PRNGKeyArray | None = None,
    depth: int | None = None,
    unstack: bool = False,
    offsets: Sequence[Array] = (),
    strict: bool = True,
) -> tuple[Array, list[tuple[str, Array]]]:
    """The logits, and the names and values in the order in which they arise: as in
    `capture`, or, with `unstack`, those of every block by themselves. Then `offsets`,
    as many, are added to the values: a gradient in them is one in the values. Without
    `strict` a name may be unknown."""
    inputs = (model, image, state, key)
    closed, shapes, static = eqx.filter_make_jaxpr(_logits)(*inputs)
    counts = _names(closed.jaxpr)
    _check_primitives(closed.jaxpr, names)
    names = names if strict else [name for name in names if name in counts]
    for name in names:
        if name not in counts:
            known = ", ".join(sorted(counts)) or "none"
            raise ValueError(f"The model has no value {name!r}; its names: {known}.")
        if depth is not None and not -counts[name] <= depth < counts[name]:
            raise ValueError(
                f"`depth={depth}`, but of {name!r} there are {counts[name]} values."
            )
    wanted = {n: None if depth is None else depth % counts[n] for n in names}
    leaves = jax.tree.leaves(eqx.filter(inputs, eqx.is_array))
    reader = _Reader(unstack)
    leaves, found = reader.read(closed, leaves, wanted, list(offsets))
    out = eqx.combine(jax.tree.unflatten(jax.tree.structure(shapes), leaves), static)
    return out, found


def _logits(model, image, state, key):
    out, _ = call_with_state(model, image, state, key=key)
    return out[0] if isinstance(out, tuple) else out  # a function may return its state


# Of each name all values, `None`, or the one of this number.
_Wanted = dict[str, int | None]
_Read = tuple[list, list[tuple[str, Array]]]


class _Reader:
    """Evaluates a jaxpr, and returns its outputs and the named values in it."""

    def __init__(self, unstack: bool):
        self.unstack = unstack

    def read(
        self, closed: core.ClosedJaxpr, inputs: list, wanted: _Wanted, offsets: list
    ) -> _Read:
        jaxpr = closed.jaxpr
        values: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts))
        values |= zip(jaxpr.invars, inputs)
        get = lambda atom: atom.val if isinstance(atom, core.Literal) else values[atom]
        found = []
        for equation in jaxpr.eqns:
            here, inside = _names_of(equation), {}
            for name, number in wanted.items():
                if here[name] if number is None else 0 <= number < here[name]:
                    inside[name] = number
            wanted = {n: i if i is None else i - here[n] for n, i in wanted.items()}
            given = list(map(get, equation.invars))
            if inside:
                outputs, more = self._look_inside(equation, given, inside, offsets)
                found += more
            else:
                outputs = _evaluate(jaxpr, equation, given)
            values |= zip(equation.outvars, outputs)
        return list(map(get, jaxpr.outvars)), found

    def _look_inside(
        self, equation: core.JaxprEqn, inputs: list, wanted: _Wanted, offsets: list
    ) -> _Read:
        kind, inner = equation.primitive.name, _inner(equation)
        if kind == "name":
            value = inputs[0] + offsets.pop(0) if offsets else inputs[0]
            return [value], [(equation.params["name"], value)]
        assert inner is not None
        if kind == "scan":
            return self._look_inside_scan(equation, inputs, wanted, offsets)
        if kind not in ("checkpoint", "remat2"):
            return self.read(inner, inputs, wanted, offsets)
        names: list[str] = []

        def again(inputs, offsets):
            outputs, found = self.read(inner, inputs, wanted, list(offsets))
            names[:] = [name for name, _ in found]
            return outputs, [value for _, value in found]

        options = {n: equation.params[n] for n in ("policy", "prevent_cse")}
        mine = [offsets.pop(0) for _ in range(_size(inner, wanted))] if offsets else []
        outputs, found = jax.checkpoint(again, **options)(inputs, mine)
        return outputs, list(zip(names, found))

    def _look_inside_scan(
        self, equation: core.JaxprEqn, inputs: list, wanted: _Wanted, offsets: list
    ) -> _Read:
        parameters, inner = equation.params, _inner(equation)
        assert inner is not None
        num_consts, num_carry = parameters["num_consts"], parameters["num_carry"]
        consts, carry = inputs[:num_consts], inputs[num_consts : num_consts + num_carry]
        rows, length = inputs[num_consts + num_carry :], parameters["length"]
        names: list[str] = []

        def run(carry, rows, length, wanted, offsets):
            def step(carry, row):
                row, mine = row
                given = [*consts, *carry, *row]
                outputs, found = self.read(inner, given, wanted, list(mine))
                names[:] = [name for name, _ in found]
                values = [value for _, value in found]
                return outputs[:num_carry], (outputs[num_carry:], values)

            options = {name: parameters[name] for name in ("reverse", "unroll")}
            return jax.lax.scan(step, carry, (rows, offsets), length, **options)

        if all(number is None for number in wanted.values()):
            mine: list = []
            if offsets:
                size = _size(inner, wanted)
                taken = [offsets.pop(0) for _ in range(size * length)]
                mine = [jnp.stack(taken[i::size]) for i in range(size)]
            carry, (outputs, values) = run(carry, rows, length, wanted, mine)
            found = list(zip(names, values))
            if self.unstack:
                found = [(name, x[i]) for i in range(length) for name, x in found]
            return [*carry, *outputs], found

        # Up to a step with something wanted, that step, and so on, and the rest.
        per_step, found, pieces, start = _names(inner.jaxpr), [], [], 0
        steps = {name: divmod(n or 0, per_step[name]) for name, n in wanted.items()}
        for i in [*sorted({i for i, _ in steps.values()}), length]:
            for first, last in ((start, i), (i, min(i + 1, length))):
                if first == last:
                    continue
                here = {n: k for n, (j, k) in steps.items() if first == i == j}
                cut = [row[first:last] for row in rows]
                carry, (outputs, values) = run(carry, cut, last - first, here, [])
                pieces.append(outputs)
                found += [(name, value[0]) for name, value in zip(names, values)]
            start = i + 1
        outputs = [jnp.concatenate(arrays) for arrays in zip(*pieces)]
        return [*carry, *outputs], found


def _evaluate(jaxpr: core.Jaxpr, equation: core.JaxprEqn, inputs: list) -> list:
    pairs = zip(equation.invars, inputs)
    given = {v: x for v, x in pairs if not isinstance(v, core.Literal)}
    info = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    alone = core.Jaxpr([], list(given), equation.outvars, [equation], debug_info=info)
    return core.jaxpr_as_fun(core.ClosedJaxpr(alone, ()))(*given.values())


def _check_primitives(jaxpr: core.Jaxpr, names: Sequence[str]) -> None:
    """Raises if one of the names stands in a primitive that is not looked into."""
    for equation in jaxpr.eqns:
        kind = equation.primitive.name
        for inner in jaxprs_in(equation):
            if kind in _CALLS:
                _check_primitives(inner, names)
            elif hidden := sorted(_all_names(inner) & set(names)):
                raise ValueError(
                    f"The model has {hidden[0]!r} inside JAX's primitive {kind!r}, "
                    f"which is not looked into (JAX {jax.__version__}; tested with 0.9 "
                    "and 0.10). Leave the name out, or name values outside of it."
                )


def _all_names(jaxpr: core.Jaxpr) -> set[str]:
    """The names inside any primitive."""
    found = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name == "name":
            found.add(equation.params["name"])
        found |= set().union(*map(_all_names, jaxprs_in(equation)))
    return found


def _size(closed: core.ClosedJaxpr, wanted: _Wanted) -> int:
    counts = _names(closed.jaxpr)
    return sum(counts[name] for name in wanted)


def _names(jaxpr: core.Jaxpr) -> Counter[str]:
    """How many values of each name a jaxpr has."""
    return sum(map(_names_of, jaxpr.eqns), Counter())


def _names_of(equation: core.JaxprEqn) -> Counter[str]:
    if equation.primitive.name == "name":
        return Counter([equation.params["name"]])
    inner = _inner(equation)
    counts = Counter() if inner is None else _names(inner.jaxpr)
    times = equation.params["length"] if equation.primitive.name == "scan" else 1
    return Counter({name: times * count for name, count in counts.items()})


# The primitives of JAX 0.9 to 0.10 that call a jaxpr once, or in a loop. (Those with
# custom derivatives are looked into too, and then differentiated by their bodies.)
_CALLS = ("jit", "scan", "checkpoint", "closed_call", "core_call", "custom_jvp_call")
_CALLS += ("custom_vjp_call", "remat2")


def _inner(equation: core.JaxprEqn) -> core.ClosedJaxpr | None:
    """The jaxpr that an equation calls, if it is one to look into."""
    if equation.primitive.name not in _CALLS:
        return None
    parameters = equation.params
    inner = parameters["jaxpr" if "jaxpr" in parameters else "call_jaxpr"]
    return inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())
