import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jax.core import Tracer
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray, PyTree

from ..layers import AnyArray, call_with_state, check_choice, RATE, widen
from .adapters import with_lora_keys
from .distillation import Distillation
from .losses import (
    as_floats,
    as_loss,
    check_distillation,
    Labels,
    Logits,
    Loss,
    LossFunction,
)
from .optimizer import frozen_in_inference
from .sharding import shard, value_and_grad


Model = TypeVar("Model", bound=Callable)
Images = Float[AnyArray, "batch height width channels"]


def _batched(model: Callable) -> Callable:
    def call(image, state, key):
        return call_with_state(with_lora_keys(model, key), image, state, key=key)

    axes: Any = dict(in_axes=(0, None, 0), out_axes=(0, None))
    return jax.vmap(call, axis_name="batch", **axes)


class _Heads(eqx.nn.StatefulLayer):
    """A model that returns the logits of each of its heads."""

    model: Any

    def is_stateful(self) -> bool:
        return isinstance(self.model, eqx.nn.StatefulLayer)

    def __call__(self, image, state=None, *, key):
        inputs = (image,) if state is None else (image, state)
        return self.model.head_logits(*inputs, key=key)


def train_step(
    model: Model,
    state: eqx.nn.State,
    opt_state: PyTree,
    images: Images,
    labels: Labels,
    optimizer: optax.GradientTransformation,
    *,
    loss: str | LossFunction = "softmax",
    label_smoothing: float = 0.0,
    distillation: Distillation | None = None,
    teacher_logits: Logits | None = None,
    compute_dtype: DTypeLike | None = None,
    key: PRNGKeyArray,
) -> tuple[Model, eqx.nn.State, PyTree, Float[Array, ""]]:
    """One step of gradient descent on a loss: the same for every model.

    It compiles at the first call and then once for every new shape, optimiser or
    setting. Under `jax.set_mesh` it runs on all devices of the mesh, see
    [`eqx_vit.make_mesh`][], and computes the same as one device would. The buffers of
    `model`, `state` and `opt_state` are donated: use the returned ones, the arguments
    are gone.

    **Arguments:**

    - `model`, `state`: As returned by `equinox.nn.make_with_state(Model)(...)`. Also a
        module of your own, if it takes one example and, as an
        `equinox.nn.StatefulLayer`, the state.
    - `opt_state`: As returned by
        `optimizer.init(equinox.filter(model, equinox.is_inexact_array))`.
    - `images`: A batch of images, channels last, of one floating-point dtype.
    - `labels`: A class per image, or a distribution over classes per image; what other
        losses take, see [`eqx_vit.Loss`][].
    - `optimizer`: From Optax. Gradient clipping is one link of its chain:
        `optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))`. One that wants
        the loss, the gradient, or functions of the parameters that return them is given
        these (`value`, `grad`, `value_fn`; or `grad_fn`, which
        `optax.contrib.sam(..., opaque_mode=True)` takes). One that looks at the shapes
        of arrays belongs in [`eqx_vit.training.per_layer`][].
    - `loss`: `"softmax"`, cross-entropy with one class of several; `"sigmoid"` or
        `"focal"`, with any number of classes an image; `"squared"` or `"absolute"`, the
        error of numbers; an [`eqx_vit.Loss`][], which has their settings; or a function
        of your own from the logits and labels of a batch to a loss per image.
    - `label_smoothing`: The share of every label that is spread over all classes, in
        [0, 1).
    - `distillation`: How to learn from `teacher_logits` too.
    - `teacher_logits`: A teacher's logits for the images:
        `eqx_vit.predict(teacher, images, teacher_state)`.
    - `compute_dtype`: The type to compute in, `jnp.bfloat16` for mixed precision.
        Parameters, their gradients, softmax, normalisations and the loss stay in
        float32. By default the dtype of `images`, or float32 for float16, whose range
        is too small for gradients.
    - `key`: Randomness, split into a key per image. (Keyword only argument.)

    **Returns:**

    The new `model`, `state` and `opt_state`, and the mean loss over the batch before
    the step. A label outside the classes makes the loss NaN.

    **Raises:**

    A `ValueError` if only one of `distillation` and `teacher_logits` is there, or they
    are there with another loss than softmax cross-entropy; if a row of `labels` is not
    legal; if the model has one output, for softmax cross-entropy; or if `compute_dtype`
    is neither bfloat16 nor float32 or wider.
    """
    if (distillation is None) != (teacher_logits is None):
        raise ValueError(
            "`distillation` and `teacher_logits` go together; give both or neither."
        )
    RATE.check("label_smoothing", label_smoothing)
    loss, labels = as_loss(loss, label_smoothing), as_floats(labels)
    if distillation is not None:
        check_distillation(loss)
    if compute_dtype is not None:
        legal = ("bfloat16", "float32", "float64")
        check_choice("compute_dtype", jnp.dtype(compute_dtype).name, legal)
    if isinstance(loss, Loss):
        loss.check(labels)
    arrays = jax.tree.map(jnp.asarray, (images, labels, teacher_logits))
    settings = (optimizer, loss, distillation, compute_dtype)
    trees = (model, state, opt_state)
    if (own := unshared(trees)) is not trees and unshared(model) is not model:
        _warn_of_shared()
    return _train_step((arrays, settings, key), *own)


def _per_image(
    loss: LossFunction, logits: Logits, labels: Labels
) -> Float[Array, " batch"]:
    losses = loss(widen(jnp.asarray(logits)), labels)
    if losses.shape != logits.shape[:1]:
        raise ValueError(
            f"`loss` returned an array of shape {losses.shape} for a batch of "
            f"{len(logits)}; it must return a loss per image, {logits.shape[:1]}."
        )
    return losses


def unshared(tree: PyTree) -> PyTree:
    """Return the tree with copies of an array that stands at several places, since a
    buffer can be donated once; the tree itself if there is none."""
    leaves, treedef = jax.tree.flatten(tree)
    seen, copied = set(), False
    for place, leaf in enumerate(leaves):
        if not isinstance(leaf, jax.Array) or isinstance(leaf, Tracer):
            continue
        if id(leaf) in seen:
            leaves[place], copied = jnp.copy(leaf), True
        seen.add(id(leaf))
    return jax.tree.unflatten(treedef, leaves) if copied else tree


@functools.cache
def _warn_of_shared() -> None:
    warnings.warn(
        "`model` holds one array at several places. `train_step` trains them as "
        "parameters of their own; `equinox.nn.Shared` makes one of them.",
        stacklevel=4,
    )


@eqx.filter_jit(donate="all-except-first")
def _train_step(batch, model, state, opt_state):
    (images, labels, teacher_logits), settings, key = batch
    optimizer, loss_of, distillation, compute_dtype = settings
    # Every layer computes in the dtype of its input, so this is the whole policy.
    if compute_dtype is None and images.dtype == jnp.float16:
        compute_dtype = jnp.float32
    images = images if compute_dtype is None else images.astype(compute_dtype)
    keys = jr.split(key, len(images))

    def mean_loss(model, state, images, labels, teacher_logits, keys):
        model = frozen_in_inference(model, opt_state)
        has_heads = distillation is not None and hasattr(model, "head_logits")
        called: Any = _Heads(model) if has_heads else model  # pyright: ignore
        function = _batched(called)
        logits, state = function(images, state, keys)
        first, last = (logits[0], logits[-1]) if has_heads else (logits, logits)
        losses = _per_image(loss_of, first, labels)
        if distillation is not None:
            taught = distillation.losses(widen(last), teacher_logits)
            losses += distillation.weight * (taught - losses)
        return losses.mean(), state

    arrays = (images, labels, teacher_logits, keys)
    (loss, new_state), gradient = value_and_grad(mean_loss, model, state, *arrays)
    parameters, static = eqx.partition(model, eqx.is_inexact_array)

    def value(parameters):
        return mean_loss(eqx.combine(parameters, static), state, *arrays)[0]

    def gradient_at(parameters, number=0):
        del number  # of the inner step that asks
        return jax.grad(value)(parameters)

    extra = dict(value=loss, grad=gradient, value_fn=value)
    updates, opt_state = _update(
        optimizer, gradient, opt_state, parameters, (extra, {"grad_fn": gradient_at})
    )
    model = eqx.apply_updates(model, updates)
    return *shard((model, new_state, opt_state)), loss


def _update(optimizer, gradient, opt_state, parameters, offers):
    """The update of an optimiser that is offered what some want besides the gradient:
    a learning rate that looks at the loss, a line search, a step to a neighbour and
    back. One that does not take an offer is made the next, and then none."""
    update = optax.with_extra_args_support(optimizer).update
    for extra in offers:
        try:
            return update(gradient, opt_state, parameters, **extra)
        except TypeError:  # an argument that it does not know
            continue
    return update(gradient, opt_state, parameters)


@eqx.filter_jit
def predict(
    model: Callable,
    images: Images,
    state: eqx.nn.State | None = None,
) -> Float[Array, "batch classes"]:
    """The logits of a batch of images, in inference mode.

    **Arguments:**

    - `model`: A model.
    - `images`: A batch of images, channels last.
    - `state`: The model's running statistics, from
        `equinox.nn.make_with_state(Model)(...)`; not needed by a model without any.

    **Raises:**

    A `ValueError` if the model has running statistics and `state` is `None`.
    """
    return _batched(eqx.nn.inference_mode(model))(images, state, None)[0]


def evaluate(
    model: Callable,
    images: Images,
    labels: Labels,
    state: eqx.nn.State | None = None,
    *,
    weights: Float[AnyArray, " batch"] | None = None,
    loss: str | LossFunction = "softmax",
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean loss and the accuracy on a batch of images, in inference mode.

    **Arguments:**

    - `model`: A model.
    - `images`: A batch of images, channels last.
    - `labels`: As in [`eqx_vit.train_step`][].
    - `state`: The model's running statistics, from
        `equinox.nn.make_with_state(Model)(...)`; not needed by a model without any.
    - `weights`: How much every image counts: 0 for one that fills up a batch. (Keyword
        only argument.)
    - `loss`: As in [`eqx_vit.train_step`][]. (Keyword only argument.)

    **Returns:**

    The mean loss, and the share of images whose most probable class is the label's.
    Where an image can be of several classes, and its label is a row, that is the share
    of its classes of which the model says rightly whether it is of them; where labels
    are numbers, it is the mean absolute error instead; for a loss of your own with
    labels that are not classes it is NaN. An image whose logits are NaN or
    infinite makes the loss NaN, and is not counted as right.

    **Raises:**

    A `ValueError` for labels that are not legal, a model with one output for softmax
    cross-entropy, or one with running statistics if `state` is `None`.
    """
    loss, labels = as_loss(loss), as_floats(labels)
    if isinstance(loss, Loss):
        loss.check(labels, weights)
    return _evaluate(model, images, labels, state, weights, loss)


@eqx.filter_jit
def _evaluate(model, images, labels, state, weights, loss):
    logits = predict(model, images, state)
    losses, scores = _per_image(loss, logits, labels), _scores(loss, logits, labels)
    if weights is None:
        return losses.mean(), scores.mean()
    # (`where`, since an image that does not count may have any label.)
    counted = lambda x: (weights * jnp.where(weights > 0, x, 0)).sum()
    total = jnp.maximum(weights.sum(), jnp.finfo(weights.dtype).tiny)
    return counted(losses) / total, counted(scores) / total


def _scores(loss, logits, labels):
    """How right the model is about every image; see `evaluate`."""
    logits, is_whole = widen(logits), jnp.issubdtype(labels.dtype, jnp.integer)
    if not isinstance(loss, Loss) and not is_whole:
        return jnp.full(len(logits), jnp.nan, logits.dtype)  # there is no such score
    if isinstance(loss, Loss) and not loss.has_classes:
        wanted = labels[:, None] if labels.ndim == 1 else labels
        return jnp.abs(logits - wanted.astype(logits.dtype)).mean(-1)
    if isinstance(loss, Loss) and loss.has_many and logits.shape[-1] == 1:
        right = (logits > 0) == (labels.reshape(logits.shape) > 0.5)
    elif isinstance(loss, Loss) and loss.has_many and not is_whole:
        right = (logits > 0) == (labels > 0.5)
    else:
        classes = labels if labels.ndim == 1 else labels.argmax(axis=-1)
        right = (logits.argmax(axis=-1) == classes)[:, None]
    finite = jnp.isfinite(logits).all(axis=-1)
    return jnp.where(finite, right.mean(axis=-1, dtype=logits.dtype), 0)
