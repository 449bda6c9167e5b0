import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ._ranges import check_numbers, RATE


class LayerScale(eqx.Module):
    """A learnt factor per channel on a residual branch.

    [Going deeper with Image Transformers](https://arxiv.org/abs/2103.17239).
    """

    weight: Float[Array, " dim"]

    def __init__(self, dim: int, init: float = 1e-5):
        """**Arguments:**

        - `dim`: The number of channels.
        - `init`: The initial value of every factor.
        """
        check_numbers(LayerScale.__init__, locals())
        # Of a definite type: a weak one would change with the first update, and the
        # training step would be traced again.
        self.weight = jnp.full(dim, init, dtype=float)

    def __call__(
        self, x: Float[Array, "*leading {self.weight.size}"]
    ) -> Float[Array, "*leading {self.weight.size}"]:
        return x * self.weight.astype(x.dtype)


class StochasticDepth(eqx.Module):
    """Drops a whole residual branch in training, by one draw per example.

    [Deep Networks with Stochastic Depth](https://arxiv.org/abs/1603.09382), as timm's
    `DropPath`: a kept branch is divided by the probability of keeping it. The rate is
    an argument of the call and not a field because it grows with depth, and the blocks
    of a scanned stack can only differ in arrays, which an optimiser would train.
    """

    inference: bool = False

    def __call__(
        self,
        x: Float[Array, "*shape"],
        rate: float | Float[Array, ""],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*shape"]:
        """**Arguments:**

        - `x`: The output of the branch for one example.
        - `rate`: The probability of dropping it, in [0, 1).
        - `key`: Randomness for the draw; not needed in inference or if `rate` is the
            Python float 0. (Keyword only argument.)

        **Returns:**

        `x / (1 - rate)`, or zeros.
        """
        if self.inference or (isinstance(rate, float) and rate == 0):
            return x
        if isinstance(rate, float):
            RATE.check("rate", rate)
        if key is None:
            raise RuntimeError(
                "Stochastic depth requires a key when running in training mode. Pass "
                "`key=...`, or use `equinox.nn.inference_mode`."
            )
        keep = jr.bernoulli(key, 1 - rate)
        return jnp.where(keep, x / jnp.asarray(1 - rate, x.dtype), jnp.zeros_like(x))
