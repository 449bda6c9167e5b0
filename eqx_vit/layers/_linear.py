from typing import Any, TypeVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ._random import uniform
from ._ranges import check_numbers
from ._replaced import replaced


Layer = TypeVar("Layer", bound=Any)


def with_parameters(
    layer: Layer,
    weight: Float[Array, "..."],
    scale: Float[Array, "*stack dim"],
    shift: Float[Array, "*stack dim"],
) -> Layer:
    """`layer` with another weight, and its bias scaled and shifted."""
    bias = shift if layer.bias is None else layer.bias * scale + shift
    return replaced(layer, weight=weight, bias=bias)


class Linear(eqx.Module):
    """A linear map of the last axis, whatever axes lead it.

    It needs no `jax.vmap` over tokens or pixels, which costs a transposed copy. Like
    every layer here it computes in the dtype of its input: parameters stay in float32
    and are rounded where a bfloat16 activation meets them.
    """

    weight: Float[Array, "out_features in_features"]
    bias: Float[Array, " out_features"] | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        use_bias: bool = True,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_features`: The size of the last axis of the input.
        - `out_features`: The size of the last axis of the output.
        - `use_bias`: Whether to add a bias.
        - `key`: Randomness for the parameters, which are uniform in
            ±1/√`in_features`. (Keyword only argument.)
        """
        check_numbers(Linear.__init__, locals())
        weight_key, bias_key = jr.split(key)
        limit = in_features**-0.5
        shape = (out_features, in_features)
        self.weight = uniform(weight_key, shape, limit)
        self.bias = uniform(bias_key, (out_features,), limit) if use_bias else None

    def __call__(
        self, x: Float[Array, "*leading {self.weight.shape[1]}"]
    ) -> Float[Array, "*leading {self.weight.shape[0]}"]:
        x = x @ self.weight.astype(x.dtype).T
        return x if self.bias is None else x + self.bias.astype(x.dtype)

    def matrix(self) -> Float[Array, "*stack out_features in_features"]:
        """The matrix that the input is multiplied by, for a product written out."""
        return self.weight

    def split(self, parts: int) -> list["Linear"]:
        """Layers that give equal parts of the output: a product each, where one product
        would have to be cut into pieces.

        **Arguments:**

        - `parts`: Their number, which divides `out_features`.
        """
        weights = jnp.split(self.weight, parts)
        biases = [None] * parts if self.bias is None else jnp.split(self.bias, parts)
        return [replaced(self, weight=w, bias=b) for w, b in zip(weights, biases)]

    def then_affine(
        self, scale: Float[Array, "*stack dim"], shift: Float[Array, "*stack dim"]
    ) -> "Linear":
        """The layer that gives `self(x) * scale + shift`, which may be one of a stack.

        **Arguments:**

        - `scale`, `shift`: One number per channel of the output.
        """
        return with_parameters(self, self.weight * scale[..., None], scale, shift)
