from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from ._activation import gelu, picklable
from ._linear import Linear
from ._random import split_key
from ._ranges import check_numbers


class FeedForward(eqx.Module):
    """A two-layer perceptron on the last axis."""

    expand: Linear
    contract: Linear
    dropout: eqx.nn.Dropout
    activation: Callable = eqx.field(static=True, converter=picklable)

    def __init__(
        self,
        dim: int,
        mlp_dim: int,
        dropout: float = 0.0,
        activation: Callable = gelu,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: The size of the last axis.
        - `mlp_dim`: The size of the hidden layer.
        - `dropout`: Dropout rate, after each of the two layers.
        - `activation`: The function between them.
        - `key`: Randomness for the parameters. (Keyword only argument.)
        """
        check_numbers(FeedForward.__init__, locals())
        expand_key, contract_key = jr.split(key)
        self.expand = Linear(dim, mlp_dim, key=expand_key)
        self.contract = Linear(mlp_dim, dim, key=contract_key)
        self.dropout = eqx.nn.Dropout(dropout)
        self.activation = activation

    def __call__(
        self, x: Float[Array, "*leading dim"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*leading dim"]:
        hidden_key, output_key = split_key(key, 2)
        hidden = self.dropout(self.activation(self.expand(x)), key=hidden_key)
        return checkpoint_name(
            self.dropout(self.contract(hidden), key=output_key), "mlp"
        )


class GatedFeedForward(eqx.Module):
    """A feed-forward network half of whose hidden layer gates the other half: SwiGLU.

    From [GLU Variants Improve Transformer](https://arxiv.org/abs/2002.05202).
    """

    expand: Linear
    contract: Linear
    dropout: eqx.nn.Dropout

    def __init__(
        self, dim: int, mlp_dim: int, dropout: float = 0.0, *, key: PRNGKeyArray
    ):
        """**Arguments:** as [`eqx_vit.layers.FeedForward`][]; `mlp_dim` is the size of
        each half of the hidden layer."""
        expand_key, contract_key = jr.split(key)
        self.expand = Linear(dim, 2 * mlp_dim, key=expand_key)
        self.contract = Linear(mlp_dim, dim, key=contract_key)
        self.dropout = eqx.nn.Dropout(dropout)

    def __call__(
        self, x: Float[Array, "*leading dim"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*leading dim"]:
        hidden_key, output_key = split_key(key, 2)
        gate, x = jnp.split(self.expand(x), 2, axis=-1)
        x = self.dropout(jax.nn.silu(gate) * x, key=hidden_key)
        x = self.dropout(self.contract(x), key=output_key)
        return checkpoint_name(x, "mlp")
