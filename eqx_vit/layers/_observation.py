"""Attention probabilities that can be observed, and cost nothing otherwise.

`attend` computes the mixture of values in whatever way is fast: block by block, or by a
kernel that never holds the probabilities. For those who look it computes them again,
named `"attention"`. XLA drops unused values, and FLOPs are counted without them.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from ._cudnn import with_rows
from ._precision import softmax, widen


# The scope of operations for observers only.
FOR_OBSERVERS = "for_observers"


def attention_logits(
    q: Float[Array, "*windows heads queries dim_key"],
    k: Float[Array, "*windows heads keys dim_key"],
    bias: Float[Array, "..."] | None,
) -> Float[Array, "*windows heads queries keys"]:
    """The logits of scaled queries, in float32 or wider if there is a bias."""
    logits = jnp.einsum("...hqd,...hkd->...hqk", q, k)
    return logits if bias is None else widen(logits) + bias


def observed(
    x: Float[Array, "*windows heads rows dim_value"],
    q: Float[Array, "*windows heads queries dim_key"],
    k: Float[Array, "*windows heads keys dim_key"],
    v: Float[Array, "*windows heads keys dim_value"],
    bias: Float[Array, "..."] | None,
) -> Float[Array, "*windows heads rows dim_value"]:
    """Returns a mixture of values as it is, beside probabilities that can be observed.

    A gradient in the named probabilities is the one that the mixture would have.

    **Arguments:**

    - `x`: The mixture; it may have more rows than there are queries.
    - `q`, `k`, `v`: Scaled queries, keys and values.
    - `bias`: Added to the logits.
    """
    with jax.named_scope(FOR_OBSERVERS):
        logits = attention_logits(*jax.lax.stop_gradient((q, k, bias)))
        probabilities = checkpoint_name(softmax(logits).astype(v.dtype), "attention")
    return _beside(x, probabilities, v)


@jax.custom_jvp
def _beside(x, probabilities, v):
    return x


@functools.partial(_beside.defjvp, symbolic_zeros=True)
def _beside_jvp(primals, tangents):
    (x, _, v), (x_dot, probabilities_dot, _) = primals, tangents
    if isinstance(probabilities_dot, SymbolicZero):
        return x, x_dot
    through = probabilities_dot @ v
    through = with_rows(through, x.shape[-2] - through.shape[-2])
    return x, through if isinstance(x_dot, SymbolicZero) else x_dot + through
