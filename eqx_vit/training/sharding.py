"""Training on many devices, with JAX's own meshes and collectives."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ..layers import is_stack, replaced
from .optimizer import is_parameter


# The batch is spread over both axes of the mesh, large arrays over the second.
_BATCH = PartitionSpec(("data", "fsdp"))
_WHOLE = PartitionSpec()

# An array of fewer numbers is not worth a collective of its own.
_SMALLEST = 1024


def make_mesh(data_parallel: int | None = None, fsdp: int = 1) -> Mesh:
    """Devices in a grid, for training on all of them:

        with jax.set_mesh(eqx_vit.make_mesh(fsdp=8)):
            model, state, opt_state = eqx_vit.shard((model, state, opt_state))
            ...
            batch = eqx_vit.shard_batch((images, labels))
            model, ... = eqx_vit.train_step(model, ...)

    The batch is spread over all devices. Along the axis `"data"` every device holds the
    whole model; along the axis `"fsdp"` each holds a share of every parameter and of
    its optimiser state, gathers the parameters of a block when it comes to it, and
    keeps its share of their gradient (["ZeRO"](https://arxiv.org/abs/1910.02054),
    stage 3). With several hosts call `jax.distributed.initialize()` first.

    **Arguments:**

    - `data_parallel`: How many copies of the model there are; by default as many as the
        devices allow.
    - `fsdp`: How many devices share the parameters of a copy.

    **Raises:**

    A `ValueError` if there are not as many devices.
    """
    count = jax.device_count()
    if fsdp < 1 or (data_parallel is None and count % fsdp):
        divisors = [n for n in range(1, count + 1) if count % n == 0]
        nearest = min(divisors, key=lambda n: abs(n - fsdp))
        raise ValueError(
            f"`fsdp={fsdp}` does not divide the {count} devices; the nearest legal "
            f"value is {nearest}."
        )
    data_parallel = count // fsdp if data_parallel is None else data_parallel
    if not 1 <= data_parallel * fsdp <= count:
        raise ValueError(
            f"`data_parallel={data_parallel}` copies of `fsdp={fsdp}` shares need "
            f"{data_parallel * fsdp} devices, but there are {count}; the nearest legal "
            f"value is `data_parallel={max(1, count // fsdp)}`."
        )
    devices = jax.devices()[: data_parallel * fsdp]
    axes = ("data", "fsdp")
    shape = (data_parallel, fsdp)
    return jax.make_mesh(shape, axes, 2 * (AxisType.Auto,), devices=devices)


def shard(tree: PyTree) -> PyTree:
    """Places a model, its state and its optimiser's state on the devices of the mesh.

    An array of 1,024 numbers or more is cut along its longest axis that the `"fsdp"`
    axis of the mesh divides; in a scanned stack not along the axis of the blocks. All
    others are copied to every device. Inside a compiled function it is a constraint,
    and without a mesh it does nothing.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return tree

    def place(array, axis):
        if isinstance(array, Tracer):
            return jax.lax.with_sharding_constraint(array, _spec(axis))
        return jax.device_put(
            array, NamedSharding(jax.sharding.get_mesh(), _spec(axis))
        )

    arrays, static = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.tree.map(place, arrays, _axes(arrays, mesh)), static)


def shard_batch(batch: PyTree) -> PyTree:
    """Spreads arrays of a batch over the devices of the mesh, along their first axis.

    With several hosts each gives its own rows, which follow one another in the order of
    the processes. Without a mesh it only makes JAX arrays.

    **Arguments:**

    - `batch`: A pytree of arrays.

    **Raises:**

    A `ValueError` if the devices do not divide the batch.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return jax.tree.map(jnp.asarray, batch)
    rows = len(jax.tree.leaves(batch)[0]) * jax.process_count()
    if rows % mesh.size:
        nearest = mesh.size * max(1, round(rows / mesh.size))
        raise ValueError(
            f"A batch of {rows} does not divide among {mesh.size} devices; the nearest "
            f"legal size is {nearest}."
        )
    sharding = NamedSharding(mesh, _BATCH)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch
    )


def bytes_per_step(model: PyTree, data_parallel: int, fsdp: int) -> dict[str, int]:
    """The bytes that one device receives and sends in a training step, by collective.

    With `P` the bytes of the parameters that are cut, `R` those of the rest, `d` copies
    and `f` shares: `"all-gather"` is `(f - 1) / f * P`, for the forward pass and again
    for the backward; `"reduce-scatter"` as much once; and `"all-reduce"` of a ring
    `2 (n - 1) / n` of what it reduces, which is `P / f` among `n = d` and `R` among
    `n = d f`. (Not counted: the loss, the gradient's norm and BatchNorm's statistics,
    which are a few numbers; arrays outside scanned stacks are gathered once.)

    **Arguments:**

    - `model`: A model, or its shapes.
    - `data_parallel`, `fsdp`: As in [`eqx_vit.make_mesh`][].
    """
    parameters = eqx.filter(model, is_parameter)
    axes = _axes(parameters, None, fsdp)
    sizes = {"cut": 0, "stacked": 0, "whole": 0}
    in_stack = jax.tree.map(
        lambda x: jax.tree.map(lambda _: is_stack(x), x), parameters, is_leaf=is_stack
    )
    leaves = jax.tree.leaves(parameters)
    for x, axis, stacked in zip(
        leaves, jax.tree.leaves(axes), jax.tree.leaves(in_stack)
    ):
        size = math.prod(x.shape) * x.dtype.itemsize
        sizes["whole" if axis < 0 else "cut"] += size
        sizes["stacked"] += size if stacked and axis >= 0 else 0

    def ring(size, devices):
        return 2 * size * (devices - 1) // devices

    share = fsdp - 1
    return {
        "all-gather": (sizes["cut"] + sizes["stacked"]) * share // fsdp,
        "reduce-scatter": sizes["cut"] * share // fsdp,
        "all-reduce": ring(sizes["cut"] // fsdp, data_parallel)
        + ring(sizes["whole"], data_parallel * fsdp),
    }


def value_and_grad(
    loss: Callable, model: Any, state: eqx.nn.State, *batch: PyTree
) -> tuple[tuple[jax.Array, eqx.nn.State], PyTree]:
    """`equinox.filter_value_and_grad(loss, has_aux=True)`, spread over the devices of
    the mesh if there is one.

    **Arguments:**

    - `loss`: A function of the model, the state and a part of the batch, that returns
        the mean loss over that part and the new state.
    - `model`, `state`: As in [`eqx_vit.train_step`][].
    - `batch`: Pytrees of arrays with an axis for the batch.

    **Returns:**

    The mean loss and the new state, and the gradient, sharded as the model is.
    """
    gradient = eqx.filter_value_and_grad(loss, has_aux=True)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return gradient(model, state, *batch)
    arrays, static = eqx.partition(model, eqx.is_array)
    axes = _axes(arrays, mesh)
    specs = jax.tree.map(_spec, axes)
    state_arrays, state_static = eqx.partition(state, eqx.is_array)
    loss_specs = (_WHOLE, _WHOLE)
    parameters, constants = eqx.partition(arrays, eqx.is_inexact_array)
    parameter_specs = jax.tree.map(lambda _, spec: spec, parameters, specs)

    # Every device runs this on its rows of the batch and its shares of the arrays.
    def local(parameters, constants, state_arrays, batch):
        state = eqx.combine(state_arrays, state_static)

        def local_loss(parameters):
            arrays = eqx.combine(parameters, constants)
            model = eqx.combine(_gather(arrays, axes), static)
            value, new_state = loss(_gather_in_stacks(model, axes), state, *batch)
            return value / mesh.size, eqx.filter(new_state, eqx.is_array)

        aux = jax.value_and_grad(local_loss, has_aux=True)(parameters)
        (value, state_arrays), gradient = aux
        # Gathering has for its transpose a sum over "fsdp" of which each device keeps
        # its share; what was not gathered is summed here.
        gradient = jax.tree.map(
            lambda g, axis: jax.lax.psum(
                g, ("data", "fsdp") if axis < 0 else ("data",)
            ),
            gradient,
            jax.tree.map(lambda _, axis: axis, gradient, axes),
        )
        return (jax.lax.psum(value, ("data", "fsdp")), state_arrays), gradient

    (value, state_arrays), gradient = jax.shard_map(
        local,
        in_specs=(parameter_specs, _WHOLE, _WHOLE, _BATCH),
        out_specs=(loss_specs, parameter_specs),
        check_vma=False,
    )(parameters, constants, state_arrays, batch)
    return (value, eqx.combine(state_arrays, state_static)), gradient


def _axes(tree: PyTree, mesh: Any, shares: int | None = None) -> PyTree:
    """The axis along which every array is cut, or -1."""
    shares = mesh.shape["fsdp"] if shares is None else shares

    def axis(array, first):
        legal = [i for i in range(first, array.ndim) if array.shape[i] % shares == 0]
        if shares == 1 or array.size < _SMALLEST or not is_parameter(array):
            legal = []
        return max(legal, key=lambda i: array.shape[i], default=-1)

    def axes(x):
        first = 1 if is_stack(x) else 0
        return jax.tree.map(lambda array: axis(array, first), x)

    return jax.tree.map(axes, tree, is_leaf=is_stack)


def _spec(axis: int) -> PartitionSpec:
    return PartitionSpec(*axis * (None,), "fsdp") if axis >= 0 else _WHOLE


def _gather_along(array: jax.Array, axis: int) -> jax.Array:
    if axis < 0:
        return array
    return jax.lax.all_gather(array, "fsdp", axis=axis, tiled=True)


def _gather(arrays: PyTree, axes: PyTree) -> PyTree:
    """The whole of every array outside of scanned stacks."""
    return jax.tree.map(
        lambda x, axis: x if is_stack(x) else _gather_along(x, axis),
        arrays,
        axes,
        is_leaf=is_stack,
    )


def _gather_in_stacks(model: Any, axes: Any) -> Any:
    """The model, with stacks that gather a block's arrays when they come to it."""

    def lifted(stack, axes):
        if not is_stack(stack):
            return stack
        axes = dict(jax.tree_util.tree_leaves_with_path(axes.blocks))

        def lift(step):
            def gathering(x, layer):
                arrays, *rest = layer
                leaves, treedef = jax.tree_util.tree_flatten_with_path(arrays)
                # The axis of the blocks is gone here. (The keys of adapters have come
                # since, and are whole.)
                arrays = [
                    _gather_along(array, max(axes.get(path, 0) - 1, -1))
                    for path, array in leaves
                ]
                return step(x, (jax.tree.unflatten(treedef, arrays), *rest))

            # A gathered array is not the result of a product, so that the backward pass
            # gathers it again.
            return stack.lift(gathering)

        return replaced(stack, lift=lift)

    return jax.tree.map(lifted, model, axes, is_leaf=is_stack)
