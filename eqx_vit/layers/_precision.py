import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def widen(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`x` in float32, if it is in less: statistics and losses are taken in no less."""
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def softmax(logits: Float[Array, "*leading keys"]) -> Float[Array, "*leading keys"]:
    """Softmax over the last axis, in float32 (or wider) whatever the input's dtype."""
    return jax.nn.softmax(widen(logits)).astype(logits.dtype)
