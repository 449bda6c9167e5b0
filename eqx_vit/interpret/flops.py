"""How much a function computes, read off its jaxpr."""

import math
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters.partial_eval import dce_jaxpr
from jaxtyping import Array, DTypeLike, PyTree

from ..layers._observation import FOR_OBSERVERS
from ..training.memory import rematerialise
from ..training.optimizer import trained_parameters
from ..training.step import predict
from .jaxprs import jaxprs_in


def count_flops(function: Callable, *arguments: Any) -> int:
    """The floating-point operations of the products in a call: of linear layers,
    attention and convolutions, a multiplication and an addition each.

    This is what papers count, twice the "MACs" of many (element-wise operations,
    depthwise convolutions by shifted products, and on a GPU mixtures of fewer than 8
    heads, are not products). The function is traced, not run.

    **Arguments:**

    - `function`, `arguments`: As they would be called; shapes will do for arrays.
    """
    jaxpr, *_ = eqx.filter_make_jaxpr(function)(*arguments)
    return sum(flops for _, flops in product_flops(jaxpr.jaxpr))


def count_training_flops(
    model: Any, images: Any, state: eqx.nn.State | None, opt_state: PyTree
) -> int:
    """The floating-point operations of the products in the forward and backward pass of
    a training step, counted as by `count_flops`.

    The backward pass has the gradients of the parameters that are trained, and of the
    activations from the first of these on: for a model that is trained whole, that is
    three times the forward pass, less the gradient of the image. What is computed a
    second time to save memory, and what the optimiser computes, does not count. The
    step is traced, not run.

    **Arguments:**

    - `model`, `state`: The model; it is counted in inference mode, which has the same
        products.
    - `images`: A batch of images; a shape will do.
    - `opt_state`: The optimiser's state, which says what [`eqx_vit.freeze`][] froze.
    """
    model = rematerialise(model, jax.checkpoint_policies.everything_saveable)
    where = trained_parameters(model, opt_state)
    if not any(jax.tree.leaves(where)):
        return count_flops(predict, model, images, state)
    trained, rest = eqx.partition(model, where)

    def value(trained, rest, images, state):
        return predict(eqx.combine(trained, rest), images, state).sum()

    gradient = eqx.filter_value_and_grad(value)
    jaxpr, *_ = eqx.filter_make_jaxpr(gradient)(trained, rest, images, state)
    # (Such as the gradient of the image, which custom derivatives have too.)
    used, _ = dce_jaxpr(jaxpr.jaxpr, len(jaxpr.jaxpr.outvars) * [True])
    return sum(flops for _, flops in product_flops(used))


def product_flops(jaxpr: core.Jaxpr, times: int = 1, path: str = ""):
    """Each product of a jaxpr: under which `jax.named_scope`, and its operations.

    **Arguments:**

    - `jaxpr`: Which may hold others: of `jit`, `scan`, custom derivatives.
    - `times`: How often it is run.
    - `path`: The scope around it.
    """
    for equation in jaxpr.eqns:
        scope = str(equation.source_info.name_stack)
        if FOR_OBSERVERS in scope:
            continue
        here = f"{path}/{scope}" if path and scope else path or scope
        inner_times = times * equation.params.get("length", 1)
        for inner in jaxprs_in(equation):
            yield from product_flops(inner, inner_times, here)
        if not equation.outvars:
            continue
        size = 2 * times * math.prod(_shape(equation.outvars[0]))
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = _shape(equation.invars[0])
            yield here, size * math.prod(shape[i] for i in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = _shape(equation.invars[1])
            out_axis = equation.params["dimension_numbers"].rhs_spec[0]
            # (Zeros between the pixels, in the gradient of a stride, do not count.)
            zeros = math.prod(equation.params["lhs_dilation"])
            yield here, size * math.prod(kernel) // (kernel[out_axis] * zeros)


def _shape(variable: Any) -> tuple[int, ...]:
    return getattr(variable.aval, "shape", ())


def matmul_peak(dtype: DTypeLike = jnp.float32, seconds: float = 0.3) -> float:
    """The floating-point operations a second of one device in a product of two large
    matrices, measured.

    **Arguments:**

    - `dtype`: The type of the matrices.
    - `seconds`: How long to measure.
    """
    side = 1024 if jax.default_backend() == "cpu" else 8192
    # (Of equal numbers a GPU needs less power, and multiplies them faster.)
    x = jax.random.normal(jax.random.key(0), (side, side), dtype) / side**0.5

    @jax.jit
    def multiply(x: Array) -> Array:
        return x @ x

    multiply(x).block_until_ready()
    best, started = math.inf, time.perf_counter()
    while time.perf_counter() - started < seconds:
        begun = time.perf_counter()
        multiply(x).block_until_ready()
        best = min(best, time.perf_counter() - begun)
    return 2 * side**3 / best
