"""A training step for which the host does next to nothing."""

from collections.abc import Callable
from typing import Any, no_type_check

import equinox as eqx
import jax
import optax
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray, PyTree

from .distillation import Distillation
from .losses import Labels, LossFunction
from .step import train_step, unshared


class FlatStep:
    """[`eqx_vit.train_step`][] on a list of arrays, which stays flat between the steps.

    A call of `train_step` takes models apart and puts them together, and, being an
    `equinox.filter_jit`, waits until the device is done. This one returns as soon as
    the device has its orders, so that the host can prepare the next batch meanwhile:

        step = eqx_vit.training.FlatStep(model, state, opt_state, optimizer)
        leaves = step.leaves(model, state, opt_state)
        for images, labels in batches:
            leaves, loss = step(leaves, images, labels, key=key)
        model, state, opt_state = step.trees(leaves)
    """

    def __init__(
        self,
        model: Callable,
        state: eqx.nn.State,
        opt_state: PyTree,
        optimizer: optax.GradientTransformation,
        *,
        loss: str | LossFunction = "softmax",
        label_smoothing: float = 0.0,
        distillation: Distillation | None = None,
        compute_dtype: DTypeLike | None = None,
    ):
        """**Arguments:** as [`eqx_vit.train_step`][]. Of `model`, `state` and
        `opt_state` all but the arrays is kept.
        """
        arrays, self._static = eqx.partition((model, state, opt_state), eqx.is_array)
        self._treedef = jax.tree.structure(arrays)

        def step(leaves, images, labels, teacher_logits, key):
            model, state, opt_state, value = train_step(
                *self.trees(leaves),
                images,
                labels,
                optimizer,
                loss=loss,
                label_smoothing=label_smoothing,
                distillation=distillation,
                teacher_logits=teacher_logits,
                compute_dtype=compute_dtype,
                key=key,
            )
            return self.leaves(model, state, opt_state), value

        self._step: Any = jax.jit(step, donate_argnums=0)

    def leaves(
        self, model: Callable, state: eqx.nn.State, opt_state: PyTree
    ) -> list[Array]:
        """The arrays of all three, to call this with.

        **Raises:**

        A `ValueError` if they are not built as those that this was made for.
        """
        arrays = eqx.filter((model, state, opt_state), eqx.is_array)
        leaves, treedef = jax.tree.flatten(arrays)
        if treedef != self._treedef:
            raise ValueError(
                "`model`, `state` and `opt_state` are not built as those that this "
                "`FlatStep` was made for; make another one for them."
            )
        return unshared(leaves)

    def trees(self, leaves: list[Array]) -> tuple[Any, eqx.nn.State, PyTree]:
        """`(model, state, opt_state)` of their arrays."""
        return eqx.combine(jax.tree.unflatten(self._treedef, leaves), self._static)

    @no_type_check  # (`train_step` has its arguments checked when it is traced.)
    def __call__(
        self,
        leaves: list[Array],
        images: Float[Array, "batch height width channels"],
        labels: Labels,
        teacher_logits: Float[Array, "batch classes"] | None = None,
        *,
        key: PRNGKeyArray,
    ) -> tuple[list[Array], Float[Array, ""]]:
        """**Arguments:**

        - `leaves`: From `leaves(...)`, or from the last step. They are
            donated.
        - `images`, `labels`, `teacher_logits`, `key`: As [`eqx_vit.train_step`][].

        **Returns:**

        The new leaves, and the mean loss over the batch before the step.

        **Raises:** as [`eqx_vit.train_step`][].
        """
        return self._step(leaves, images, labels, teacher_logits, key)
