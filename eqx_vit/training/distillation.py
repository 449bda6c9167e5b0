"""A student that learns from a teacher."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ..layers import check_choice, POSITIVE, SHARE


@dataclass(frozen=True)
class Distillation:
    """How a student learns from the logits of a teacher, for [`eqx_vit.train_step`][].

    The loss is `(1 - weight)` times the cross-entropy with the labels plus `weight`
    times the loss with the teacher. A model with a distillation token or head (`ViT`,
    `PiT` and `LeViT` with `distilled=True`) learns the labels with its first head and
    the teacher with the second; any other learns both with its one head.

    From [Training data-efficient image transformers & distillation through
    attention](https://arxiv.org/abs/2012.12877), section 4. (The authors' code divides
    the soft loss by the number of classes too; the paper's equation 2 does not.)

    - `kind`: `"hard"`, cross-entropy with the teacher's most probable class; or
        `"soft"`, `temperature**2` times the Kullback-Leibler divergence from the
        teacher's probabilities, both sides' logits divided by `temperature`.
    - `weight`: The share of the teacher in the loss, in [0, 1].
    - `temperature`: The temperature of the soft loss.
    """

    kind: str = "hard"
    weight: float = 0.5
    temperature: float = 3.0

    def __post_init__(self):
        check_choice("kind", self.kind, ("hard", "soft"))
        SHARE.check("weight", self.weight)
        POSITIVE.check("temperature", self.temperature)

    def losses(
        self,
        logits: Float[Array, "batch classes"],
        teacher_logits: Float[Array, "batch classes"],
    ) -> Float[Array, " batch"]:
        """The loss of every image with the teacher.

        **Arguments:**

        - `logits`: The student's.
        - `teacher_logits`: The teacher's, through which no gradient flows. Where they
            are NaN or infinite, so is the loss.
        """
        teacher_logits = jax.lax.stop_gradient(teacher_logits.astype(logits.dtype))
        if self.kind == "hard":
            classes = teacher_logits.argmax(axis=-1)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, classes)
            # (The most probable class of NaNs would be the first.)
            is_taught = jnp.isfinite(teacher_logits).all(axis=-1)
            return jnp.where(is_taught, losses, jnp.nan)
        ours = jax.nn.log_softmax(logits / self.temperature)
        theirs = jax.nn.log_softmax(teacher_logits / self.temperature)
        divergence = jnp.sum(jnp.exp(theirs) * (theirs - ours), axis=-1)
        return self.temperature**2 * divergence
