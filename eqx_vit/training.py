from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, DTypeLike, Float, Int, PRNGKeyArray, PyTree

from .distilling import Distillation
from .layers import widen
from .sharding import shard, value_and_grad


Model = TypeVar("Model", bound=Callable)
Labels = Int[Array, " batch"] | Float[Array, "batch classes"]


def _batched(model: Callable) -> Callable:
    # `eqx.nn.Sequential` hands the state to a `StatefulLayer` and past any other
    # module, so that wrapping a model in one gives all models the same signature.
    return jax.vmap(
        eqx.nn.Sequential([model]),
        axis_name="batch",
        in_axes=(0, None),
        out_axes=(0, None),
    )


class _Heads(eqx.nn.StatefulLayer):
    """A model that returns the logits of each of its heads."""

    model: Any

    def is_stateful(self) -> bool:
        return isinstance(self.model, eqx.nn.StatefulLayer)

    def __call__(self, image, state=None, *, key):
        inputs = (image,) if state is None else (image, state)
        return self.model.head_logits(*inputs, key=key)


def _losses(
    logits: Float[Array, "batch classes"], labels: Labels, label_smoothing: float
) -> Float[Array, " batch"]:
    logits = widen(logits)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        # A label that is no class gives NaN, not a loss that quietly leaves it out.
        legal = (labels >= 0) & (labels < logits.shape[-1])
        labels = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
        labels = jnp.where(legal[:, None], labels, jnp.nan)
    labels = optax.smooth_labels(labels.astype(logits.dtype), label_smoothing)
    return optax.softmax_cross_entropy(logits, labels)


def train_step(
    model: Model,
    state: eqx.nn.State,
    opt_state: PyTree,
    images: Float[Array, "batch height width channels"],
    labels: Labels,
    optimizer: optax.GradientTransformation,
    *,
    label_smoothing: float = 0.0,
    distillation: Distillation | None = None,
    teacher_logits: Float[Array, "batch classes"] | None = None,
    compute_dtype: DTypeLike | None = None,
    key: PRNGKeyArray,
) -> tuple[Model, eqx.nn.State, PyTree, Float[Array, ""]]:
    """One step of gradient descent on the cross-entropy: the same for every model.

    It compiles at the first call and then once for every new shape, optimiser or
    setting. Under `jax.set_mesh` it runs on all devices of the mesh, see
    [`eqx_vit.make_mesh`][], and computes what one device would. The buffers of `model`,
    `state` and `opt_state` are donated: use what is returned, the arguments are gone.

    **Arguments:**

    - `model`, `state`: As returned by `equinox.nn.make_with_state(Model)(...)`. Also a
        module of your own, if it takes one example and, as an
        `equinox.nn.StatefulLayer`, the state.
    - `opt_state`: As returned by
        `optimizer.init(equinox.filter(model, equinox.is_inexact_array))`.
    - `images`: A batch of images, channels last, of one floating-point dtype.
    - `labels`: A class per image, or a distribution over classes per image.
    - `optimizer`: From Optax. Gradient clipping is one link of its chain:
        `optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))`.
    - `label_smoothing`: The share of every label that is spread over all classes.
    - `distillation`: How to learn from `teacher_logits` too.
    - `teacher_logits`: What a teacher makes of the images:
        `eqx_vit.predict(teacher, teacher_state, images)`.
    - `compute_dtype`: What the model computes in, `jnp.bfloat16` for mixed precision.
        Parameters, their gradients, softmax, normalisations and the loss stay in
        float32. By default the dtype of `images`.
    - `key`: Randomness, split into a key per image. (Keyword only argument.)

    **Returns:**

    The new `model`, `state` and `opt_state`, and the mean loss over the batch before
    the step. A label that is no class makes the loss NaN.

    **Raises:**

    A `ValueError` if only one of `distillation` and `teacher_logits` is there.
    """
    if (distillation is None) != (teacher_logits is None):
        raise ValueError(
            "`distillation` and `teacher_logits` go together; give both or neither."
        )
    arrays = (images, labels, teacher_logits)
    settings = (optimizer, label_smoothing, distillation, compute_dtype)
    return _train_step((arrays, settings, key), model, state, opt_state)


@eqx.filter_jit(donate="all-except-first")
def _train_step(batch, model, state, opt_state):
    (images, labels, teacher_logits), settings, key = batch
    optimizer, label_smoothing, distillation, compute_dtype = settings
    # Every layer computes in the dtype of its input, so this is the whole policy.
    images = images if compute_dtype is None else images.astype(compute_dtype)
    keys = jr.split(key, len(images))

    def mean_loss(model, state, images, labels, teacher_logits, keys):
        has_heads = distillation is not None and hasattr(model, "head_logits")
        called: Any = _Heads(model) if has_heads else model  # pyright: ignore
        function = _batched(called)
        logits, state = function(images, state, key=keys)
        first, last = (logits[0], logits[-1]) if has_heads else (logits, logits)
        losses = _losses(first, labels, label_smoothing)
        if distillation is not None:
            taught = distillation.losses(widen(last), teacher_logits)
            losses += distillation.weight * (taught - losses)
        return losses.mean(), state

    arrays = (images, labels, teacher_logits, keys)
    (loss, state), gradient = value_and_grad(mean_loss, model, state, *arrays)
    parameters = eqx.filter(model, eqx.is_inexact_array)
    updates, opt_state = optimizer.update(gradient, opt_state, parameters)
    model = eqx.apply_updates(model, updates)
    return *shard((model, state, opt_state)), loss


@eqx.filter_jit
def predict(
    model: Callable,
    state: eqx.nn.State,
    images: Float[Array, "batch height width channels"],
) -> Float[Array, "batch classes"]:
    """The logits of a batch of images, in inference mode.

    **Arguments:**

    - `model`, `state`: As returned by `equinox.nn.make_with_state(Model)(...)`.
    - `images`: A batch of images, channels last.
    """
    return _batched(eqx.nn.inference_mode(model))(images, state)[0]


@eqx.filter_jit
def evaluate(
    model: Callable,
    state: eqx.nn.State,
    images: Float[Array, "batch height width channels"],
    labels: Labels,
    weights: Float[Array, " batch"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean loss and the accuracy on a batch of images, in inference mode.

    **Arguments:**

    - `model`, `state`: As returned by `equinox.nn.make_with_state(Model)(...)`.
    - `images`: A batch of images, channels last.
    - `labels`: A class per image, or a distribution over classes per image.
    - `weights`: How much every image counts: 0 for one that fills up a batch.

    **Returns:**

    The mean cross-entropy, and the share of images whose most probable class is the
    label's.
    """
    logits = predict(model, state, images)
    classes = labels if labels.ndim == 1 else labels.argmax(axis=-1)
    right = logits.argmax(axis=-1) == classes
    losses = _losses(logits, labels, 0.0)
    if weights is None:
        return losses.mean(), right.mean()
    # (`where`, since an image that does not count may have a label that is no class.)
    losses = jnp.where(weights > 0, losses, 0)
    total = jnp.maximum(weights.sum(), jnp.finfo(weights.dtype).tiny)
    right = right.astype(weights.dtype)
    return (weights * losses).sum() / total, (weights * right).sum() / total
