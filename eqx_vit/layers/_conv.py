import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, PRNGKeyArray

from ._array import AnyArray
from ._checks import pair
from ._cudnn import on_cuda
from ._linear import with_parameters
from ._random import uniform
from ._ranges import check_numbers


def windows(
    x: Float[AnyArray, "height width channels"],
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int],
    padding: int,
) -> list[Float[Array, "out_height out_width channels"]]:
    """The map as each position of a sliding window sees it, row by row.

    Slices instead of a gather: they differentiate into paddings and cost no index.

    **Arguments:**

    - `x`: A map.
    - `kernel_size`: The side of the window, or its `(height, width)`.
    - `stride`: The step between windows, or one per axis.
    - `padding`: How many zeros to put around the map.

    **Returns:**

    As many maps as there are positions in the window.
    """
    padded = jnp.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    kernel_height, kernel_width = pair(kernel_size)
    down, right = pair(stride)
    height = padded.shape[0] - kernel_height + 1
    width = padded.shape[1] - kernel_width + 1
    return [
        padded[i : i + height : down, j : j + width : right]
        for i in range(kernel_height)
        for j in range(kernel_width)
    ]


def unfold(
    x: Float[AnyArray, "height width channels"],
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int],
    padding: int,
) -> Float[Array, "out_height out_width patch_dim"]:
    """Overlapping windows of a map, each flattened as PyTorch's `Unfold` does: the
    positions of the first channel, then of the next.

    **Arguments:** as [`eqx_vit.layers.windows`][].
    """
    parts = jnp.stack(windows(x, kernel_size, stride, padding), axis=-1)
    return parts.reshape(*parts.shape[:2], -1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _convolve(x, weight, stride, padding):
    return jax.lax.conv_general_dilated(
        x[None],
        weight,
        stride,
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )[0]


@_convolve.defjvp
def _convolve_jvp(stride, padding, primals, tangents):
    (x, weight), (x_tangent, weight_tangent) = primals, tangents
    tangent = _convolve(x_tangent, weight, stride, padding)
    height, width, channels, out_channels = weight.shape
    if on_cuda() or height * width > channels:
        tangent += _convolve(x, weight_tangent, stride, padding)
    else:
        # One product, of which the gradient of the weight is another. Of a convolution
        # it is one with a kernel as large as the map, for which XLA takes up to three
        # times as long on a CPU, though not for the few channels of an image, whose
        # kernels are of hundreds of slices: see docs/contributing/performance.md.
        seen = windows(x, (height, width), stride, padding)
        rows = weight_tangent.reshape(-1, out_channels)
        tangent += jnp.concatenate(seen, axis=-1) @ rows
    return _convolve(x, weight, stride, padding), tangent


class Conv(eqx.Module):
    """A convolution of a map with channels last."""

    weight: Float[Array, "kernel_height kernel_width channels out_channels"]
    bias: Float[Array, " out_channels"] | None
    stride: tuple[int, int] = eqx.field(static=True)
    padding: int = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int = 0,
        use_bias: bool = True,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `channels`: The number of channels of the input.
        - `out_channels`: The number of channels of the output.
        - `kernel_size`: The side of the kernel, or its `(height, width)`.
        - `stride`: The stride, or one per axis.
        - `padding`: How many zeros to put around the map.
        - `use_bias`: Whether to add a bias.
        - `key`: Randomness for the parameters. (Keyword only argument.)
        """
        check_numbers(Conv.__init__, locals())
        shape = (*pair(kernel_size), channels, out_channels)
        self.weight, self.bias = _uniform(shape, use_bias, key)
        self.stride = pair(stride)
        self.padding = padding

    def __call__(
        self, x: Float[AnyArray, "height width {self.weight.shape[2]}"]
    ) -> Float[Array, "out_height out_width {self.weight.shape[3]}"]:
        weight = self.weight.astype(x.dtype)
        y = _convolve(jnp.asarray(x), weight, self.stride, self.padding)
        return y if self.bias is None else y + self.bias.astype(y.dtype)

    def then_affine(
        self, scale: Float[Array, "*stack dim"], shift: Float[Array, "*stack dim"]
    ) -> "Conv":
        """As [`eqx_vit.layers.Linear.then_affine`][]."""
        weight = self.weight * scale[..., None, None, None, :]
        return with_parameters(self, weight, scale, shift)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _shifted_products(x, weight, stride, padding):
    seen = windows(x, weight.shape[:2], stride, padding)
    rows = weight.reshape(-1, weight.shape[-1])
    return functools.reduce(jnp.add, map(jnp.multiply, seen, rows))


@_shifted_products.defjvp
def _shifted_products_jvp(stride, padding, primals, tangents):
    (x, weight), (x_tangent, weight_tangent) = primals, tangents
    y = _shifted_products(x, weight, stride, padding)
    # The same function of `x`, but as a sum of paddings, so that its gradient is one of
    # slices: XLA on a CPU asks at every element of a padding whether it is inside.
    last = len(weight) - 1
    whole = functools.reduce(
        jnp.add,
        [
            jnp.pad(x_tangent * weight[i, j], ((last - i, i), (last - j, j), (0, 0)))
            for i, j in np.ndindex(weight.shape[:2])
        ],
    )
    first = last - padding
    height, width = (first + stride * (side - 1) + 1 for side in y.shape[:2])
    tangent = whole[first:height:stride, first:width:stride]
    return y, tangent + _shifted_products(x, weight_tangent, stride, padding)


class DepthwiseConv(eqx.Module):
    """A convolution of each channel by itself, as a sum of shifted products.

    XLA's grouped convolution takes many times as long, on CPUs and GPUs. Windows that
    do not overlap are a single product instead.
    """

    weight: Float[Array, "kernel kernel channels multiplier"]
    bias: Float[Array, " out_channels"] | None
    stride: int = eqx.field(static=True)
    padding: int = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        multiplier: int = 1,
        use_bias: bool = True,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `channels`: The number of channels of the input.
        - `kernel_size`: The side of the kernel.
        - `stride`: The stride.
        - `padding`: How many zeros to put around the map.
        - `multiplier`: How many channels of the output each channel of the input gives;
            they stand together.
        - `use_bias`: Whether to add a bias.
        - `key`: Randomness for the parameters. (Keyword only argument.)
        """
        check_numbers(DepthwiseConv.__init__, locals())
        shape = (kernel_size, kernel_size, 1, channels * multiplier)
        weight, self.bias = _uniform(shape, use_bias, key)
        self.weight = weight.reshape(kernel_size, kernel_size, channels, multiplier)
        self.stride = stride
        self.padding = padding

    def __call__(
        self, x: Float[Array, "height width {self.weight.shape[2]}"]
    ) -> Float[Array, "out_height out_width out_channels"]:
        kernel_size, multiplier = self.weight.shape[0], self.weight.shape[-1]
        weight = self.weight.astype(x.dtype).reshape(*self.weight.shape[:2], -1)
        x = jnp.repeat(x, multiplier, axis=-1)
        if self.stride == kernel_size and self.padding == 0:
            height, width = (side - side % kernel_size for side in x.shape[:2])
            pattern = "(h p) (w q) c -> h w p q c"
            x = rearrange(x[:height, :width], pattern, p=kernel_size, q=kernel_size)
            x = jnp.sum(x * weight, axis=(2, 3))
        else:
            x = _shifted_products(x, weight, self.stride, self.padding)
        return x if self.bias is None else x + self.bias.astype(x.dtype)

    def then_affine(
        self, scale: Float[Array, "*stack dim"], shift: Float[Array, "*stack dim"]
    ) -> "DepthwiseConv":
        """As [`eqx_vit.layers.Linear.then_affine`][]."""
        channels, multiplier = self.weight.shape[-2:]
        factor = scale.reshape(*scale.shape[:-1], 1, 1, channels, multiplier)
        return with_parameters(self, self.weight * factor, scale, shift)


class PEG(eqx.Module):
    """The positional encoding generator: adds a depthwise convolution of a map to it,
    whose zero padding tells the middle from the border.

    [Conditional Positional Encodings](https://arxiv.org/abs/2102.10882).
    """

    conv: DepthwiseConv

    def __init__(
        self,
        dim: int,
        kernel_size: int = 3,
        use_bias: bool = True,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: The number of channels of the map.
        - `kernel_size`: The side of the kernel, odd.
        - `use_bias`: Whether the convolution has a bias.
        - `key`: Randomness for the parameters. (Keyword only argument.)
        """
        check_numbers(PEG.__init__, locals())
        padding = kernel_size // 2
        self.conv = DepthwiseConv(
            dim, kernel_size, padding=padding, use_bias=use_bias, key=key
        )

    def __call__(
        self, x: Float[Array, "height width dim"]
    ) -> Float[Array, "height width dim"]:
        return x + self.conv(x)


def _uniform(shape, use_bias, key):
    weight_key, bias_key = jr.split(key)
    limit = (shape[0] * shape[1] * shape[2]) ** -0.5
    bias = uniform(bias_key, shape[-1:], limit) if use_bias else None
    return uniform(weight_key, shape, limit), bias
