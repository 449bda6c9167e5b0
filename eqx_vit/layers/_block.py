from collections.abc import Callable
from typing import Any

import equinox as eqx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from ._norm import LayerNorm
from ._random import split_key
from ._residual import LayerScale, StochasticDepth


class Block(eqx.Module):
    """Attention, then feed-forward, each normalised first and added to its input."""

    norm1: LayerNorm
    attention: Callable
    layer_scale1: LayerScale | None
    norm2: LayerNorm
    feed_forward: Callable
    layer_scale2: LayerScale | None
    stochastic_depth: StochasticDepth

    def __init__(
        self,
        dim: int,
        attention: Callable,
        feed_forward: Callable,
        norm_eps: float = 1e-6,
        layer_scale: float | None = None,
    ):
        """**Arguments:**

        - `dim`: The size of a token.
        - `attention`: A module from tokens (or windows of them, or a map) to the same,
            called with `key=key`.
        - `feed_forward`: The feed-forward network.
        - `norm_eps`: The `eps` of the normalisations.
        - `layer_scale`: The initial value of LayerScale on both branches, or `None` for
            no LayerScale.
        """
        scaled = layer_scale is not None
        self.norm1 = LayerNorm(dim, norm_eps)
        self.attention = attention
        self.layer_scale1 = LayerScale(dim, layer_scale) if scaled else None
        self.norm2 = LayerNorm(dim, norm_eps)
        self.feed_forward = feed_forward
        self.layer_scale2 = LayerScale(dim, layer_scale) if scaled else None
        self.stochastic_depth = StochasticDepth()

    def __call__(
        self,
        x: Float[Array, "*tokens dim"],
        drop_rate: float | Float[Array, ""] = 0.0,
        *context: Any,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*tokens dim"]:
        """**Arguments:**

        - `x`: The tokens.
        - `drop_rate`: The rate at which the branches are dropped.
        - `context`: Passed on to the attention.
        - `key`: Randomness for dropout. (Keyword only argument.)
        """
        attention_key, depth_key1, feed_forward_key, depth_key2 = split_key(key, 4)
        branch = self.attention(self.norm1(x), *context, key=attention_key)
        branch = branch if self.layer_scale1 is None else self.layer_scale1(branch)
        x = x + self.stochastic_depth(branch, drop_rate, key=depth_key1)
        branch = self.feed_forward(self.norm2(x), key=feed_forward_key)
        branch = branch if self.layer_scale2 is None else self.layer_scale2(branch)
        x = x + self.stochastic_depth(branch, drop_rate, key=depth_key2)
        return checkpoint_name(x, "block")


class BlockSequence(eqx.Module):
    """Some blocks, one after the other, called as one block."""

    blocks: tuple[Callable, ...]

    def __call__(
        self,
        x: Float[Array, "*tokens dim"],
        drop_rates: float | tuple[float, ...] | Float[Array, " depth"] = 0.0,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*tokens dim"]:
        for i, block_key in enumerate(split_key(key, len(self.blocks))):
            rate = drop_rates if isinstance(drop_rates, (int, float)) else drop_rates[i]
            x = self.blocks[i](x, rate, key=block_key)
        return x
