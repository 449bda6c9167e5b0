import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32


class Buffer(eqx.Module):
    """A float32 array that is stored with a model, but never trained.

    It is kept as the integers that its bits spell: an optimiser, weight decay or a
    moving average takes every floating-point array of a model for a parameter.
    """

    bits: UInt32[Array, "..."]

    def __init__(self, value: Float[Array, "..."]):
        """**Arguments:**

        - `value`: What to store.
        """
        self.bits = jax.lax.bitcast_convert_type(value, jnp.uint32)

    @property
    def value(self) -> Float[Array, "..."]:
        """The stored array."""
        return jax.lax.bitcast_convert_type(self.bits, jnp.float32)
