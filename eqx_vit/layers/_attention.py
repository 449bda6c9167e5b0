import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from ._cudnn import is_for_cudnn, mix_in_cudnn, with_rows
from ._linear import Linear
from ._observation import attention_logits, observed
from ._precision import softmax, widen
from ._random import split_key
from ._ranges import check_numbers


# With more queries and keys than this their logits are larger than a cache, and are
# computed for some queries at a time: half the time for 730 tokens, and no memory
# that grows with the square of their number. See docs/contributing/performance.md.
_MAX_WHOLE = 256
_MAX_BLOCK = 128


def attend(
    q: Float[Array, "*windows heads queries dim_key"],
    k: Float[Array, "*windows heads keys dim_key"],
    v: Float[Array, "*windows heads keys dim_value"],
    bias: Float[Array, "..."] | None = None,
    scale: float | None = None,
    dropout: eqx.nn.Dropout | None = None,
    padding: int = 0,
    *,
    key: PRNGKeyArray | None = None,
) -> Float[Array, "*windows queries inner_dim"]:
    """Softmax attention per head, in each window by itself.

    **Arguments:**

    - `q`, `k`, `v`: Queries, keys and values.
    - `bias`: Added to the logits, in float32 (or wider); broadcast to
        `*windows heads queries keys`.
    - `scale`: The factor of the logits; by default `dim_key**-0.5`.
    - `dropout`: Applied to the attention probabilities.
    - `padding`: How many of the last queries and keys (as many of both) are there for
        their number only: nothing attends to them, and they return nothing of use.
    - `key`: Randomness for the dropout. (Keyword only argument.)

    **Returns:**

    The mixture of values, with the heads joined on the last axis. The probabilities
    (before the dropout) are named `"attention"`; a long row of queries is taken
    block by block, in which case they are computed only for who looks at them.

    On an NVIDIA GPU, in bfloat16 or float16, without bias and dropout, with more than
    one query and with keys and values of one size, a multiple of 8 up to 128, it is
    cuDNN's fused attention.
    """
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    fuses = bias is None and q.shape[-2] > 1
    fuses = fuses and is_for_cudnn(q.dtype, q.shape[-1], v.shape[-1], dropout)
    x = mix_in_cudnn(q, k, v, factor, padding) if fuses else None
    queries, keys = q.shape[-2] - padding, k.shape[-2] - padding
    q, k, v = q * factor, k[..., :keys, :], v[..., :keys, :]
    if x is None:
        is_large = min(queries, keys) > _MAX_WHOLE
        mix = _mix_in_blocks if is_large else _mix
        x = mix(q, k, v, bias, dropout, key)
    x = observed(x, q[..., :queries, :], k, v, bias)
    return rearrange(x, "... h n d -> ... n (h d)")


def _mix(q, k, v, bias, dropout, key):
    logits = attention_logits(q, k, bias)
    probabilities = softmax(logits).astype(v.dtype)
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
    # that XLA makes one loop of products and softmax (see
    # docs/contributing/performance.md). The probabilities are there for gradients.
    return (widen(exponentials @ v) / total).astype(v.dtype)


@_mixture.defjvp
def _mixture_jvp(primals, tangents):
    (probabilities, *_, v), (probabilities_dot, *_, v_dot) = primals, tangents
    return _mixture(*primals), probabilities_dot @ v + probabilities @ v_dot


def _mix_in_blocks(q, k, v, bias, dropout, key):
    queries, keys = q.shape[-2], k.shape[-2]
    blocks = -(-queries // _MAX_BLOCK)
    size = -(-queries // blocks)

    def cut(x):
        x = with_rows(x, blocks * size - queries)
        return rearrange(x, "... (b q) d -> b ... q d", b=blocks)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def mix(block):
        q, bias, key = block
        return _mix(q, k, v, bias, dropout, key)

    if bias is not None:
        bias = cut(jnp.broadcast_to(bias, (*bias.shape[:-2], queries, keys)))
    block_keys = None if key is None else jr.split(key, blocks)
    x = jax.lax.map(mix, (cut(q), bias, block_keys))
    return rearrange(x, "b ... q d -> ... (b q) d")[..., :queries, :]


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
        check_numbers(Attention.__init__, locals())
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
        tokens, dim_head = x.shape[-2], self.output.weight.shape[-1] // self.heads
        # cuDNN wants an even number of tokens: one more here costs no copy, as one more
        # query, key and value in `attend` would.
        fuses = is_for_cudnn(x.dtype, dim_head, dim_head, self.dropout)
        padding = tokens % 2 if fuses else 0
        q, k, v = self.project(with_rows(x, padding))
        x = attend(q, k, v, dropout=self.dropout, padding=padding, key=probability_key)
        return self._finish(self.output(x)[..., :tokens, :], output_key)

    def project(
        self, x: Float[Array, "*windows tokens dim"]
    ) -> tuple[Float[Array, "*windows heads tokens dim_head"], ...]:
        """Queries, keys and values, for [`eqx_vit.layers.attend`][]."""
        return tuple(
            rearrange(part(x), "... n (h d) -> ... h n d", h=self.heads)
            for part in self.qkv.split(3)
        )

    def merge(
        self,
        x: Float[Array, "*windows tokens inner_dim"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*windows tokens dim"]:
        """The output projection of the heads."""
        return self._finish(self.output(x), key)

    def _finish(self, x, key):
        return checkpoint_name(self.dropout(x, key=key), "attention_output")


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
        check_numbers(CrossAttention.__init__, locals())
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
