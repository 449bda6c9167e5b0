from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._linear import Linear
from ._precision import widen
from ._ranges import RATE
from ._replaced import replaced


class LoRALinear(Linear):
    """A linear layer with a low-rank adapter:
    `linear(x) + scale * dropout(x) @ down.T @ up.T`.

    [LoRA: Low-Rank Adaptation of Large Language
    Models](https://arxiv.org/abs/2106.09685). [`eqx_vit.lora`][] puts it in place of
    the linear layers of a model. In a scanned stack every array has the leading axes of
    the weight: each block has an adapter of its own.
    """

    down: Float[Array, "rank in_features"]
    up: Float[Array, "out_features rank"]
    dropout: eqx.nn.Dropout
    key: PRNGKeyArray | None
    scale: float = eqx.field(static=True)

    def __init__(
        self,
        linear: Linear,
        down: Float[Array, "rank in_features"],
        up: Float[Array, "out_features rank"],
        scale: float = 1.0,
        dropout: float = 0.0,
    ):
        """**Arguments:**

        - `linear`: The layer to adapt.
        - `down`, `up`: The two factors of the matrix that is added to its weight.
        - `scale`: What their product is multiplied by.
        - `dropout`: Dropout rate of the input of the adapter.
        """
        RATE.check("dropout", dropout)
        self.weight, self.bias = linear.weight, linear.bias
        self.down, self.up = down, up
        self.dropout = eqx.nn.Dropout(dropout)
        self.key = None
        self.scale = scale

    def __call__(
        self, x: Float[Array, "*leading {self.weight.shape[1]}"]
    ) -> Float[Array, "*leading {self.weight.shape[0]}"]:
        hidden = self.dropout(x, key=self.key) @ self.down.astype(x.dtype).T
        up = self.up.astype(x.dtype)
        # The axis in front makes it a product with a batch, which a `Stack` computes
        # again in the backward pass: it takes little time, and to keep it much memory.
        change = jnp.einsum("b...r,bor->b...o", hidden[None], up[None])[0]
        return super().__call__(x) + self.scale * change

    def matrix(self) -> Float[Array, "*stack out_features in_features"]:
        """The weight plus the product of the adapter."""
        up, down = widen(self.up), widen(self.down)
        change = self.scale * jnp.matmul(up, down, precision="highest")
        return (widen(self.weight) + change).astype(self.weight.dtype)

    def split(self, parts: int) -> list[Linear]:
        """As [`eqx_vit.layers.Linear`][]'s; the parts share `down`."""
        ups = jnp.split(self.up, parts)
        return [replaced(p, up=up) for p, up in zip(super().split(parts), ups)]

    def then_affine(
        self, scale: Float[Array, "*stack dim"], shift: Float[Array, "*stack dim"]
    ) -> Linear:
        """As [`eqx_vit.layers.Linear.then_affine`][], of the merged layer."""
        return self.merged().then_affine(scale, shift)

    def merged(self) -> Linear:
        """The plain layer that computes the same, but for the dropout."""
        return replaced(self.base(), weight=self.matrix())

    def base(self) -> Linear:
        """The layer without the adapter."""
        linear = object.__new__(Linear)
        for name in ("weight", "bias"):
            object.__setattr__(linear, name, getattr(self, name))
        return linear


def adapted(
    linear: Linear,
    down: Float[Array, "*stack rank in_features"],
    up: Float[Array, "*stack out_features rank"],
    scale: float,
    dropout: float,
) -> LoRALinear:
    """A [`eqx_vit.layers.LoRALinear`][], which may be a stack of them.

    **Arguments:** as for one.
    """

    def make(linear: Any, down: Any, up: Any) -> LoRALinear:
        return LoRALinear(linear, down, up, scale, dropout)

    for _ in range(down.ndim - 2):
        make = eqx.filter_vmap(make)
    return make(linear, down, up)
