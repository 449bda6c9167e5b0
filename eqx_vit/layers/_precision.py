import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def widen(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`x` in float32, if it is in less: statistics and losses are taken in no less."""
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def softmax(logits: Float[Array, "*leading keys"]) -> Float[Array, "*leading keys"]:
    """Softmax over the last axis, in float32 (or wider) whatever the input's dtype."""
    return _softmax(widen(logits)).astype(logits.dtype)


@jax.custom_jvp
def _softmax(logits):
    return jax.nn.softmax(logits)


@_softmax.defjvp
def _softmax_jvp(primals, tangents):
    # JAX's own derivative goes through the division: a loop more over the logits.
    x = _softmax(*primals)
    x_dot = x * tangents[0]
    return x, x_dot - x * x_dot.sum(axis=-1, keepdims=True)
