import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._conv import Conv, DepthwiseConv
from ._cudnn import on_cuda
from ._linear import Linear
from ._precision import widen
from ._ranges import check_numbers


class LayerNorm(eqx.Module):
    """Layer normalisation of the last axis, whatever axes lead it.

    [Layer Normalization](https://arxiv.org/abs/1607.06450). Computed in float32 (or
    wider), returned in the dtype of the input.
    """

    weight: Float[Array, " dim"]
    bias: Float[Array, " dim"]
    eps: float = eqx.field(static=True)

    def __init__(self, dim: int, eps: float = 1e-6):
        """**Arguments:**

        - `dim`: The size of the last axis.
        - `eps`: Added to the variance. (timm's and Flax's 1e-6; PyTorch's own default
            is 1e-5.)
        """
        check_numbers(LayerNorm.__init__, locals())
        self.weight = jnp.ones(dim)
        self.bias = jnp.zeros(dim)
        self.eps = eps

    def __call__(
        self, x: Float[Array, "*leading {self.weight.size}"]
    ) -> Float[Array, "*leading {self.weight.size}"]:
        normalised = _normalised(widen(x), self.eps)
        return (normalised * self.weight + self.bias).astype(x.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _normalised(x, eps):
    return _normalise(x, eps)[0]


@_normalised.defjvp
def _normalised_jvp(eps, primals, tangents):
    # With two means, where the derivative through the variance takes four.
    (x,), (x_dot,) = primals, tangents
    y, scale = _normalise(x, eps)
    return y, scale * (x_dot - _mean(x_dot) - y * _mean(y * x_dot))


def _normalise(x, eps):
    centred = x - _mean(x)
    scale = _apart(jax.lax.rsqrt(_mean(jnp.square(centred)) + eps))
    return centred * scale, scale


def _mean(x):
    return _apart(jnp.mean(x, axis=-1, keepdims=True))


def _apart(x):
    # XLA's fusion of a mean with what needs it, which the barrier prevents, takes twice
    # as long on a GPU: see docs/contributing/performance.md.
    return jax.lax.optimization_barrier(x) if on_cuda() else x


class BatchNorm(eqx.nn.StatefulLayer):
    """Batch normalisation of the last axis, equal to PyTorch's `BatchNorm2d`.

    [Batch Normalization](https://arxiv.org/abs/1502.03167). In training an example is
    normalised with the mean and the biased variance of its batch, taken over the
    mapped axis named `"batch"`, over the devices that share the batch, and over all
    axes but the last; the running statistics
    follow with the *unbiased* variance. In inference the running statistics normalise,
    and no named axis is needed. (`equinox.nn.BatchNorm` 0.13.8 agrees in neither mode,
    hence this class.)
    """

    weight: Float[Array, " dim"]
    bias: Float[Array, " dim"]
    running_mean: eqx.nn.StateIndex
    running_var: eqx.nn.StateIndex
    eps: float = eqx.field(static=True)
    momentum: float = eqx.field(static=True)
    inference: bool

    def __init__(
        self, dim: int, eps: float = 1e-5, momentum: float = 0.1, weight: float = 1.0
    ):
        """**Arguments:**

        - `dim`: The size of the last axis.
        - `eps`: Added to the variance.
        - `momentum`: The share of a new batch in the running statistics (PyTorch's
            sense: 0.1 is what Flax and Equinox call 0.9).
        - `weight`: The initial value of every weight.
        """
        check_numbers(BatchNorm.__init__, locals())
        self.weight = jnp.full(dim, weight, dtype=float)
        self.bias = jnp.zeros(dim)
        self.running_mean = eqx.nn.StateIndex(jnp.zeros(dim))
        self.running_var = eqx.nn.StateIndex(jnp.ones(dim))
        self.eps = eps
        self.momentum = momentum
        self.inference = False

    def __call__(
        self,
        x: Float[Array, "*leading {self.weight.size}"],
        state: eqx.nn.State,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "*leading {self.weight.size}"], eqx.nn.State]:
        """**Arguments:**

        - `x`: One example. In training it must be mapped: `jax.vmap(layer, (0, None),
            (0, None), axis_name="batch")`.
        - `state`: Holds the running statistics.
        - `key`: Ignored. (Keyword only argument, for `equinox.nn.Sequential`.)

        **Returns:**

        The normalised example and the new state.
        """
        wide = widen(x)
        if self.inference:
            mean, variance = state.get(self.running_mean), state.get(self.running_var)
        else:
            axes = tuple(range(x.ndim - 1))
            # The batch may be spread over devices, see `eqx_vit.make_mesh`.
            batch = ("batch", *jax.sharding.get_abstract_mesh().manual_axes)
            count = jax.lax.axis_size(batch) * (x.size // x.shape[-1])
            if count == 1:
                raise ValueError(
                    "`BatchNorm` in training needs more than one value per channel, "
                    "but the batch has one example of one pixel; use a larger batch "
                    "or `equinox.nn.inference_mode`."
                )
            mean = jax.lax.pmean(jnp.mean(wide, axes), batch)
            variance = jax.lax.pmean(jnp.mean(jnp.square(wide - mean), axes), batch)
            unbiased = variance * (count / (count - 1))
            state = self._track(state, self.running_mean, mean)
            state = self._track(state, self.running_var, unbiased)
        scale = self.weight * jax.lax.rsqrt(variance + self.eps)
        return ((wide - mean) * scale + self.bias).astype(x.dtype), state

    def _track(
        self, state: eqx.nn.State, index: eqx.nn.StateIndex, value: Float[Array, " dim"]
    ) -> eqx.nn.State:
        old = state.get(index)
        new = old + self.momentum * (jax.lax.stop_gradient(value) - old)
        return state.set(index, new.astype(old.dtype))

    def affine(
        self, state: eqx.nn.State
    ) -> tuple[Float[Array, "*stack dim"], Float[Array, "*stack dim"]]:
        """`(scale, shift)`: in inference this layer is `x * scale + shift`.

        **Arguments:**

        - `state`: Holds the running statistics.
        """
        mean, variance = state.get(self.running_mean), state.get(self.running_var)
        scale = self.weight * jax.lax.rsqrt(variance + self.eps)
        return scale, self.bias - mean * scale


class BatchNormed(eqx.nn.StatefulLayer):
    """A linear layer or a convolution, and batch normalisation of its output."""

    layer: Linear | Conv | DepthwiseConv
    norm: BatchNorm | None

    def __init__(
        self, layer: Linear | Conv | DepthwiseConv, dim: int, weight: float = 1.0
    ):
        """**Arguments:**

        - `layer`: The layer.
        - `dim`: The number of channels that it gives.
        - `weight`: The initial value of the normalisation's weights.
        """
        self.layer = layer
        self.norm = BatchNorm(dim, weight=weight)

    def __call__(
        self,
        x: Float[Array, "*leading in_dim"],
        state: eqx.nn.State,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "*new_leading dim"], eqx.nn.State]:
        """**Arguments:** as [`eqx_vit.layers.BatchNorm`][]."""
        x = self.layer(x)
        return (x, state) if self.norm is None else self.norm(x, state)

    def fuse(self, state: eqx.nn.State) -> "BatchNormed":
        """In inference the same, without a normalisation: it is in the layer."""
        if self.norm is None:
            return self
        return eqx.tree_at(
            lambda layer: (layer.layer, layer.norm),
            self,
            (self.layer.then_affine(*self.norm.affine(state)), None),
        )
