"""A trained model as an ONNX file."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend import core
from jaxtyping import Array, Float

from ..layers import check_at_least, pair
from ..training.step import predict


# The largest size of a protocol buffer, less room for the graph.
_LARGEST_FILE = 2**31 - 2**26


def export_onnx(
    model: Callable,
    path: str | Path,
    image_size: int | tuple[int, int],
    state: eqx.nn.State | None = None,
    *,
    channels: int = 3,
    batch_size: int | None = None,
) -> None:
    """Write inference as an ONNX file with its weights inside, through `jax2onnx`
    (`pip install jax2onnx onnx onnxruntime`).

        eqx_vit.export_onnx(model, "vit.onnx", 224)

    ONNX Runtime, and whatever else reads ONNX, runs it:

        session = onnxruntime.InferenceSession("vit.onnx")
        (logits,) = session.run(None, {"images": images})

    Its input is called `images`, its output `logits`, both float32. Stacks of blocks
    are unrolled, and what does not depend on the images is computed beforehand.

    **Arguments:**

    - `model`: A model, with float32 parameters. One with batch normalisation gives a
        faster file after [`eqx_vit.fuse_batch_norm`][].
    - `path`: The file to write. Weights of 2 GB or more, which one ONNX file cannot
        hold, go to a second file of its name and `.data`.
    - `image_size`: The side of the images in pixels, or their `(height, width)`.
    - `state`: The model's running statistics, from
        `equinox.nn.make_with_state(Model)(...)`; not needed by a model without any.
    - `channels`: The number of channels of the images. (This and the rest are keyword
        only arguments.)
    - `batch_size`: The number of images in a batch; by default any.

    **Raises:**

    An `ImportError` without `jax2onnx`, a `ValueError` if it does not know an operation
    of the model, an `OSError` that names `path` if it cannot be written, and what the
    model raises if it does not take such images.
    """
    check_at_least(1, image_size=image_size, channels=channels)
    if batch_size is not None:
        check_at_least(1, batch_size=batch_size)
    try:
        from jax2onnx import to_onnx  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "`export_onnx` needs `jax2onnx`; install it with "
            "`pip install jax2onnx onnx onnxruntime`."
        ) from error

    def infer(
        images: Float[Array, "batch height width channels"],
    ) -> Float[Array, "batch classes"]:
        return predict(model, images, state)

    shape = (batch_size or "batch", *pair(image_size), channels)
    try:
        # As on a CPU, whatever there is: without the kernels of one version of cuDNN.
        with jax.default_device(jax.devices("cpu")[0]), _quiet("onnx_ir"):
            proto = to_onnx(
                _simplified(infer),
                [shape],
                model_name=type(model).__name__,
                input_names=["images"],
                output_names=["logits"],
            )
    except NotImplementedError as error:
        raise ValueError(
            f"`jax2onnx` does not convert `model`: {str(error).rstrip('.')}. Write it "
            "with `eqx_vit.export` instead, or save its weights with `save_pretrained` "
            "and convert the model of timm or transformers by `torch.onnx.export`."
        ) from error
    _save(proto, Path(path))


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without the warnings of a logger: one for each array without a type, which it
    then infers."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _save(proto: Any, path: Path) -> None:
    """Write the whole file, or leave the old one as it was."""
    import onnx  # pyright: ignore[reportMissingImports]

    is_large = sum(len(x.raw_data) for x in proto.graph.initializer) > _LARGEST_FILE
    aside = [f"{path.name}.data"] if is_large else []
    try:
        with tempfile.TemporaryDirectory(prefix=".onnx-", dir=path.parent) as folder:
            whole = Path(folder, path.name)
            location = aside[0] if aside else None
            onnx.save_model(
                proto, whole, save_as_external_data=is_large, location=location
            )
            for name in (*aside, path.name):
                os.replace(Path(folder, name), path.with_name(name))
    except OSError as error:
        raise OSError(f"Cannot write `{path}`: {error.strerror or error}") from error


# Calls, and the parameter that holds the called function.
_CALLS = dict.fromkeys(
    ("jit", "pjit", "remat2", "checkpoint"), "jaxpr"
) | dict.fromkeys(("closed_call", "custom_jvp_call", "custom_vjp_call"), "call_jaxpr")
_IDENTITIES = ("layout_constraint", "name", "optimization_barrier", "stop_gradient")


def _simplified(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same function of fewer kinds of operations, all of which `jax2onnx` converts
    for batches of any size: without calls and loops, `pad`, arrays of no elements, and
    operations on constants."""

    def call(x):
        jaxpr = jax.make_jaxpr(function)(x)
        (y,) = _evaluate(jaxpr, [x])
        return y

    return call


def _evaluate(jaxpr: core.Jaxpr | core.ClosedJaxpr, inputs: Sequence[Any]) -> list[Any]:
    if isinstance(jaxpr, core.ClosedJaxpr):
        jaxpr, constants = jaxpr.jaxpr, jaxpr.consts
    else:
        constants = []
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *inputs)))

    def read(variable):
        is_literal = isinstance(variable, core.Literal)
        return variable.val if is_literal else values[variable]

    for equation in jaxpr.eqns:
        outputs = _apply(equation, [read(variable) for variable in equation.invars])
        values |= zip(equation.outvars, outputs)
    return [read(variable) for variable in jaxpr.outvars]


def _apply(equation: core.JaxprEqn, inputs: list[Any]) -> Sequence[Any]:
    name, settings = equation.primitive.name, equation.params
    if name in _CALLS:
        return _evaluate(settings[_CALLS[name]], inputs)
    if name == "scan":
        return _unrolled(inputs, **settings)
    if name in _IDENTITIES:
        return inputs
    if _is_constant(equation, inputs):
        with jax.ensure_compile_time_eval():
            return _bind(equation, inputs)
    if name == "pad":
        return [_padded(*inputs, **settings)]
    if name == "concatenate":  # an ONNX shape cannot say 0
        axis = settings["dimension"]
        parts = [x for x in inputs if x.shape[axis] != 0]
        return parts if len(parts) == 1 else [lax.concatenate(parts, axis)]
    return _bind(equation, inputs)


def _bind(equation: core.JaxprEqn, inputs: list[Any]) -> Sequence[Any]:
    outputs = equation.primitive.bind(*inputs, **equation.params)
    return outputs if equation.primitive.multiple_results else [outputs]


def _is_constant(equation: core.JaxprEqn, inputs: list[Any]) -> bool:
    """Whether the outcome can be a constant in the file: it is one, and no larger than
    the inputs by being repeated."""
    output: Any = equation.outvars[0].aval
    return (
        all(isinstance(size, int) for size in output.shape)
        and not any(isinstance(x, Tracer) for x in inputs)
        and not (
            equation.primitive.name == "broadcast_in_dim"
            and output.size > max(np.size(inputs[0]), 64)
        )
    )


def _unrolled(
    inputs: list[Any],
    *,
    jaxpr: core.ClosedJaxpr,
    length: int,
    reverse: bool,
    num_consts: int,
    num_carry: int,
    **_: Any,
) -> list[Any]:
    """The loop of a `scan`, written out."""
    constants = inputs[:num_consts]
    carry = inputs[num_consts : num_consts + num_carry]
    stacks = [
        x if isinstance(x, Tracer) else np.asarray(x)
        for x in inputs[num_consts + num_carry :]
    ]
    steps = []
    for i in reversed(range(length)) if reverse else range(length):
        outputs = _evaluate(jaxpr, [*constants, *carry, *(x[i] for x in stacks)])
        carry = outputs[:num_carry]
        steps.append(outputs[num_carry:])
    steps = reversed(steps) if reverse else steps
    return [*carry, *(jnp.stack(outputs) for outputs in zip(*steps))]


def _padded(x: Any, value: Any, *, padding_config: Any) -> Any:
    """`jax.lax.pad` by concatenation, since `jax2onnx` pads only arrays whose sizes are
    all known."""
    for axis, (before, after, between) in enumerate(padding_config):
        if between:
            raise NotImplementedError(f"`pad` with {between} between the elements")
        size = x.shape[axis]
        if before < 0 or after < 0:
            stop = size - max(0, -after)
            x = lax.slice_in_dim(x, max(0, -before), stop, axis=axis)
        parts = [x]
        for more, place in ((before, 0), (after, 2)):
            if more > 0:
                shape = (*x.shape[:axis], more, *x.shape[axis + 1 :])
                parts.insert(place, jnp.broadcast_to(value, shape))
        x = lax.concatenate(parts, axis) if len(parts) > 1 else x
    return x
