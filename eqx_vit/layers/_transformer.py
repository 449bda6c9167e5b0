from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from ._activation import gelu
from ._attention import Attention
from ._checks import check_at_least, check_rate
from ._feed_forward import FeedForward
from ._norm import LayerNorm
from ._random import split_key
from ._residual import LayerScale, StochasticDepth


class Block(eqx.Module):
    """Attention, then feed-forward, each normalised first and added to its input."""

    norm1: LayerNorm
    attention: Attention
    layer_scale1: LayerScale | None
    norm2: LayerNorm
    feed_forward: FeedForward
    layer_scale2: LayerScale | None
    stochastic_depth: StochasticDepth

    def __init__(
        self,
        dim: int,
        heads: int,
        dim_head: int,
        mlp_dim: int,
        dropout: float = 0.0,
        qkv_bias: bool = False,
        output_bias: bool = True,
        norm_eps: float = 1e-6,
        activation: Callable = gelu,
        layer_scale: float | None = None,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: The size of a token.
        - `heads`: The number of attention heads.
        - `dim_head`: The size of a query, a key or a value, per head.
        - `mlp_dim`: The size of the hidden layer of the feed-forward network.
        - `dropout`: Dropout rate.
        - `qkv_bias`: Whether queries, keys and values have a bias.
        - `output_bias`: Whether the output projection of attention has a bias.
        - `norm_eps`: The `eps` of the normalisations.
        - `activation`: The activation of the feed-forward network.
        - `layer_scale`: The initial value of LayerScale on both branches, or `None` for
            no LayerScale.
        - `key`: Randomness for the parameters. (Keyword only argument.)
        """
        attention_key, feed_forward_key = jr.split(key)
        self.norm1 = LayerNorm(dim, norm_eps)
        self.attention = Attention(
            dim, heads, dim_head, dropout, qkv_bias, output_bias, key=attention_key
        )
        self.layer_scale1 = _layer_scale(dim, layer_scale)
        self.norm2 = LayerNorm(dim, norm_eps)
        self.feed_forward = FeedForward(
            dim, mlp_dim, dropout, activation, key=feed_forward_key
        )
        self.layer_scale2 = _layer_scale(dim, layer_scale)
        self.stochastic_depth = StochasticDepth()

    def __call__(
        self,
        x: Float[Array, "tokens dim"],
        drop_rate: float | Float[Array, ""] = 0.0,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "tokens dim"]:
        attention_key, depth_key1, feed_forward_key, depth_key2 = split_key(key, 4)
        branch = self.attention(self.norm1(x), key=attention_key)
        branch = branch if self.layer_scale1 is None else self.layer_scale1(branch)
        x = x + self.stochastic_depth(branch, drop_rate, key=depth_key1)
        branch = self.feed_forward(self.norm2(x), key=feed_forward_key)
        branch = branch if self.layer_scale2 is None else self.layer_scale2(branch)
        x = x + self.stochastic_depth(branch, drop_rate, key=depth_key2)
        return checkpoint_name(x, "block")


def _layer_scale(dim: int, init: float | None) -> LayerScale | None:
    return None if init is None else LayerScale(dim, init)


class Stack(eqx.Module):
    """`depth` blocks of one kind, one after the other.

    The arrays of `blocks` carry a leading axis of size `depth`, and `jax.lax.scan` runs
    along it: one block is compiled, however deep the stack. The parameters of block `i`
    are `jax.tree.map(lambda a: a[i], eqx.filter(stack.blocks, eqx.is_array))`.
    """

    blocks: Any
    depth: int = eqx.field(static=True)
    drop_rates: tuple[float, ...] = eqx.field(static=True)

    def __init__(
        self,
        make_block: Callable[[PRNGKeyArray], Callable],
        depth: int,
        stochastic_depth: float = 0.0,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `make_block`: Makes a block from a key. A block is called as
            `block(x, drop_rate, key=key)` and returns the new `x`.
        - `depth`: The number of blocks.
        - `stochastic_depth`: The rate at which the last block drops its branches; it
            rises linearly from 0 at the first block.
        - `key`: Randomness for the parameters. (Keyword only argument.)
        """
        check_at_least(1, depth=depth)
        check_rate(stochastic_depth=stochastic_depth)
        self.blocks = eqx.filter_vmap(make_block)(jr.split(key, depth))
        self.depth = depth
        self.drop_rates = tuple(
            stochastic_depth * i / max(depth - 1, 1) for i in range(depth)
        )

    def __call__(
        self, x: Float[Array, "*shape"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*shape"]:
        arrays, static = eqx.partition(self.blocks, eqx.is_array)
        keys = None if key is None else jr.split(key, self.depth)
        # A constant 0 instead of an array of zeros lets a block without stochastic
        # depth draw nothing and need no key.
        rates = jnp.asarray(self.drop_rates) if any(self.drop_rates) else None

        def apply_block(x, layer):
            arrays, rate, key = layer
            rate = 0.0 if rate is None else rate
            return eqx.combine(arrays, static)(x, rate, key=key), None

        x, _ = jax.lax.scan(apply_block, x, (arrays, rates, keys))
        return x
