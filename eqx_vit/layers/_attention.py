import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from ._linear import Linear
from ._precision import softmax, widen
from ._random import split_key


def attend(
    q: Float[Array, "*windows heads queries dim_key"],
    k: Float[Array, "*windows heads keys dim_key"],
    v: Float[Array, "*windows heads keys dim_value"],
    bias: Float[Array, "..."] | None = None,
    scale: float | None = None,
    dropout: eqx.nn.Dropout | None = None,
    *,
    key: PRNGKeyArray | None = None,
) -> Float[Array, "*windows queries inner_dim"]:
    """Softmax attention per head, in each window by itself.

    **Arguments:**

    - `q`, `k`, `v`: Queries, keys and values.
    - `bias`: Added to the logits, in float32 (or wider); broadcast to
        `*windows heads queries keys`.
    - `scale`: What the logits are multiplied by; by default `dim_key**-0.5`.
    - `dropout`: Applied to the attention probabilities.
    - `key`: Randomness for the dropout. (Keyword only argument.)

    **Returns:**

    The mixture of values, with the heads joined on the last axis.
    """
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    logits = jnp.einsum("...hqd,...hkd->...hqk", q, k)
    if bias is not None:
        logits = widen(logits) + bias
    x = softmax_mixture(logits, v, dropout, key=key)
    return rearrange(x, "... h n d -> ... n (h d)")


def softmax_mixture(
    logits: Float[Array, "*windows heads queries keys"],
    v: Float[Array, "*windows heads keys dim_value"],
    dropout: eqx.nn.Dropout | None = None,
    *,
    key: PRNGKeyArray | None = None,
) -> Float[Array, "*windows heads queries dim_value"]:
    """`softmax(logits) @ v`, with the probabilities named `"attention"`.

    **Arguments:** as [`eqx_vit.layers.attend`][].
    """
    probabilities = checkpoint_name(softmax(logits).astype(v.dtype), "attention")
    logits = jax.lax.stop_gradient(widen(logits))
    exponentials = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    total = exponentials.sum(axis=-1, keepdims=True)
    exponentials = exponentials.astype(v.dtype)
    if dropout is not None:  # The same key is the same mask.
        probabilities = dropout(probabilities, key=key)
        exponentials = dropout(exponentials, key=key)
    return _mixture(probabilities, exponentials, total, v)


@jax.custom_jvp
def _mixture(probabilities, exponentials, total, v):
    # `probabilities @ v`, but the sum divides the product, not the exponentials, so
    # that XLA makes one loop of products and softmax (see docs/speed_notes.md). The
    # probabilities are there for who looks at them, and for gradients.
    return (widen(exponentials @ v) / total).astype(v.dtype)


@_mixture.defjvp
def _(primals, tangents):
    (probabilities, *_, v), (probabilities_dot, *_, v_dot) = primals, tangents
    return _mixture(*primals), probabilities_dot @ v + probabilities @ v_dot


class Attention(eqx.Module):
    """Multi-head self-attention; among the tokens of each window, if there are windows.

    [Attention Is All You Need](https://arxiv.org/abs/1706.03762).
    """

    qkv: Linear
    output: Linear
    dropout: eqx.nn.Dropout
    heads: int = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        heads: int,
        dim_head: int,
        dropout: float = 0.0,
        qkv_bias: bool = False,
        output_bias: bool = True,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: The size of a token.
        - `heads`: The number of heads.
        - `dim_head`: The size of a query, a key or a value, per head.
        - `dropout`: Dropout rate, on the attention probabilities and on the output.
        - `qkv_bias`: Whether queries, keys and values have a bias.
        - `output_bias`: Whether the output projection has a bias.
        - `key`: Randomness for the parameters. (Keyword only argument.)
        """
        qkv_key, output_key = jr.split(key)
        inner_dim = heads * dim_head
        # Rows in the order of published models: queries, keys, values; each by head.
        self.qkv = Linear(dim, 3 * inner_dim, qkv_bias, key=qkv_key)
        self.output = Linear(inner_dim, dim, output_bias, key=output_key)
        self.dropout = eqx.nn.Dropout(dropout)
        self.heads = heads

    def __call__(
        self,
        x: Float[Array, "*windows tokens dim"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*windows tokens dim"]:
        probability_key, output_key = split_key(key, 2)
        q, k, v = self.project(x)
        x = attend(q, k, v, dropout=self.dropout, key=probability_key)
        return self.merge(x, key=output_key)

    def project(
        self, x: Float[Array, "*windows tokens dim"]
    ) -> tuple[Float[Array, "*windows heads tokens dim_head"], ...]:
        """Queries, keys and values, for [`eqx_vit.layers.attend`][]."""
        pattern = "... n (qkv h d) -> qkv ... h n d"
        q, k, v = rearrange(self.qkv(x), pattern, qkv=3, h=self.heads)
        return q, k, v

    def merge(
        self,
        x: Float[Array, "*windows tokens inner_dim"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*windows tokens dim"]:
        """The output projection of what the heads have attended to."""
        return checkpoint_name(
            self.dropout(self.output(x), key=key), "attention_output"
        )


class CrossAttention(eqx.Module):
    """Multi-head attention of some tokens to others."""

    query: Linear
    key_value: Linear
    output: Linear
    dropout: eqx.nn.Dropout
    heads: int = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        heads: int,
        dim_head: int,
        dropout: float = 0.0,
        qkv_bias: bool = False,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** as [`eqx_vit.layers.Attention`][]."""
        query_key, key_value_key, output_key = jr.split(key, 3)
        inner_dim = heads * dim_head
        self.query = Linear(dim, inner_dim, qkv_bias, key=query_key)
        self.key_value = Linear(dim, 2 * inner_dim, qkv_bias, key=key_value_key)
        self.output = Linear(inner_dim, dim, key=output_key)
        self.dropout = eqx.nn.Dropout(dropout)
        self.heads = heads

    def __call__(
        self,
        queries: Float[Array, "queries dim"],
        tokens: Float[Array, "tokens dim"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "queries dim"]:
        probability_key, output_key = split_key(key, 2)
        q = rearrange(self.query(queries), "n (h d) -> h n d", h=self.heads)
        k, v = rearrange(
            self.key_value(tokens), "n (kv h d) -> kv h n d", kv=2, h=self.heads
        )
        x = attend(q, k, v, dropout=self.dropout, key=probability_key)
        x = self.dropout(self.output(x), key=output_key)
        return checkpoint_name(x, "attention_output")
