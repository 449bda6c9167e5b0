from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..layers import (
    AnyArray,
    attend,
    BatchNorm,
    BatchNormed,
    check_at_least,
    check_multiple,
    check_numbers,
    Conv,
    hidden_dim,
    Linear,
    pair,
    per_stage,
    picklable,
    split_key,
    StatefulStack,
    StochasticDepth,
    takes_an_image,
)


def _linear(
    in_dim: int, dim: int, weight: float = 1.0, *, key: PRNGKeyArray
) -> BatchNormed:
    return BatchNormed(Linear(in_dim, dim, False, key=key), dim, weight)


def _offsets(size: tuple[int, int], stride: int) -> Int[np.ndarray, "queries keys"]:
    """The place in a table of biases of every query's distance to every key."""
    keys = np.moveaxis(np.indices(size), 0, -1)
    queries = keys[::stride, ::stride].reshape(-1, 1, 2)
    distance = np.abs(queries - keys.reshape(1, -1, 2))
    return distance[..., 0] * size[1] + distance[..., 1]


class Stem(eqx.nn.StatefulLayer):
    """Four convolutions; each halves the map."""

    convs: tuple[BatchNormed, ...]
    activation: Callable = eqx.field(static=True, converter=picklable)

    def __init__(
        self, channels: int, dim: int, activation: Callable, *, key: PRNGKeyArray
    ):
        """**Arguments:** as [`eqx_vit.LeViT`][]."""
        dims = (channels, dim // 8, dim // 4, dim // 2, dim)
        self.convs = tuple(
            BatchNormed(
                Conv(dims[i], dims[i + 1], 3, 2, 1, False, key=key), dims[i + 1]
            )
            for i, key in enumerate(jr.split(key, 4))
        )
        self.activation = activation

    def __call__(
        self, x: Float[Array, "height width channels"], state: eqx.nn.State
    ) -> tuple[Float[Array, "new_height new_width dim"], eqx.nn.State]:
        x, state = self.convs[0](x, state)
        for conv in self.convs[1:]:
            x, state = conv(self.activation(x), state)
        return x, state


class BiasedAttention(eqx.nn.StatefulLayer):
    """Attention with a learnt bias for every distance between two pixels."""

    qkv: BatchNormed
    biases: Float[Array, "heads distances"]
    output: BatchNormed
    dropout: eqx.nn.Dropout
    dim_key: int = eqx.field(static=True)
    size: tuple[int, int] = eqx.field(static=True)
    activation: Callable = eqx.field(static=True, converter=picklable)

    def __init__(
        self,
        dim: int,
        heads: int,
        dim_key: int,
        dim_value: int,
        size: tuple[int, int],
        dropout: float,
        activation: Callable,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** as [`eqx_vit.LeViT`][]; the `(height, width)` of the map."""
        qkv_key, output_key = jr.split(key)
        self.qkv = _linear(dim, heads * (2 * dim_key + dim_value), key=qkv_key)
        self.biases = jnp.zeros((heads, size[0] * size[1]))
        # A weight of 0 makes a fresh block the identity.
        self.output = _linear(heads * dim_value, dim, 0.0, key=output_key)
        self.dropout = eqx.nn.Dropout(dropout)
        self.dim_key = dim_key
        self.size = size
        self.activation = activation

    def __call__(
        self,
        x: Float[Array, "height width dim"],
        state: eqx.nn.State,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "height width dim"], eqx.nn.State]:
        probability_key, output_key = split_key(key, 2)
        x, state = self.qkv(x, state)
        # As published, the rows of the projection go head by head.
        x = rearrange(x, "y x (h d) -> h (y x) d", h=len(self.biases))
        q, k, v = jnp.split(x, [self.dim_key, 2 * self.dim_key], axis=-1)
        bias = self.biases[:, _offsets(self.size, 1)]
        x = attend(q, k, v, bias, dropout=self.dropout, key=probability_key)
        x = rearrange(x, "(y x) d -> y x d", y=self.size[0])
        x, state = self.output(self.activation(x), state)
        x = self.dropout(x, key=output_key)
        return checkpoint_name(x, "attention_output"), state


class ShrinkingAttention(eqx.nn.StatefulLayer):
    """The same with every second pixel's query in each direction: a smaller map."""

    query: BatchNormed
    key_value: BatchNormed
    biases: Float[Array, "heads distances"]
    output: BatchNormed
    dim_key: int = eqx.field(static=True)
    size: tuple[int, int] = eqx.field(static=True)
    activation: Callable = eqx.field(static=True, converter=picklable)

    def __init__(
        self,
        dim: int,
        out_dim: int,
        heads: int,
        dim_key: int,
        dim_value: int,
        size: tuple[int, int],
        activation: Callable,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** as [`eqx_vit.LeViT`][]; the `(height, width)` of the map that
        comes in."""
        query_key, key_value_key, output_key = jr.split(key, 3)
        self.query = _linear(dim, heads * dim_key, key=query_key)
        self.key_value = _linear(dim, heads * (dim_key + dim_value), key=key_value_key)
        self.biases = jnp.zeros((heads, size[0] * size[1]))
        self.output = _linear(heads * dim_value, out_dim, key=output_key)
        self.dim_key = dim_key
        self.size = size
        self.activation = activation

    def __call__(
        self, x: Float[Array, "height width dim"], state: eqx.nn.State
    ) -> tuple[Float[Array, "half_height half_width out_dim"], eqx.nn.State]:
        q, state = self.query(x[::2, ::2], state)
        height, heads = len(q), len(self.biases)
        q = rearrange(q, "y x (h d) -> h (y x) d", h=heads)
        x, state = self.key_value(x, state)
        x = rearrange(x, "y x (h d) -> h (y x) d", h=heads)
        k, v = jnp.split(x, [self.dim_key], axis=-1)
        x = attend(q, k, v, self.biases[:, _offsets(self.size, 2)])
        x = rearrange(x, "(y x) d -> y x d", y=height)
        x, state = self.output(self.activation(x), state)
        return checkpoint_name(x, "attention_output"), state


class FeedForward(eqx.nn.StatefulLayer):
    """A two-layer perceptron with batch normalisation in place of biases."""

    expand: BatchNormed
    contract: BatchNormed
    dropout: eqx.nn.Dropout
    activation: Callable = eqx.field(static=True, converter=picklable)

    def __init__(
        self,
        dim: int,
        mlp_dim: int,
        dropout: float,
        activation: Callable,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** as [`eqx_vit.layers.FeedForward`][]."""
        expand_key, contract_key = jr.split(key)
        self.expand = _linear(dim, mlp_dim, key=expand_key)
        self.contract = _linear(mlp_dim, dim, 0.0, key=contract_key)
        self.dropout = eqx.nn.Dropout(dropout)
        self.activation = activation

    def __call__(
        self,
        x: Float[Array, "height width dim"],
        state: eqx.nn.State,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "height width dim"], eqx.nn.State]:
        hidden_key, output_key = split_key(key, 2)
        x, state = self.expand(x, state)
        x = self.dropout(self.activation(x), key=hidden_key)
        x, state = self.contract(x, state)
        return checkpoint_name(self.dropout(x, key=output_key), "mlp"), state


class LeBlock(eqx.nn.StatefulLayer):
    """Attention, then feed-forward, each added to its input."""

    attention: BiasedAttention
    feed_forward: FeedForward
    stochastic_depth: StochasticDepth

    def __init__(self, attention: BiasedAttention, feed_forward: FeedForward):
        """**Arguments:** the two branches."""
        self.attention = attention
        self.feed_forward = feed_forward
        self.stochastic_depth = StochasticDepth()

    def __call__(
        self,
        x: Float[Array, "height width dim"],
        state: eqx.nn.State,
        drop_rate: float | Float[Array, ""] = 0.0,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "height width dim"], eqx.nn.State]:
        attention_key, depth_key1, mlp_key, depth_key2 = split_key(key, 4)
        branch, state = self.attention(x, state, key=attention_key)
        x = x + self.stochastic_depth(branch, drop_rate, key=depth_key1)
        branch, state = self.feed_forward(x, state, key=mlp_key)
        x = x + self.stochastic_depth(branch, drop_rate, key=depth_key2)
        return checkpoint_name(x, "block"), state


class Shrinking(eqx.nn.StatefulLayer):
    """Shrinking attention, to which nothing is added, and a feed-forward network."""

    attention: ShrinkingAttention
    feed_forward: FeedForward
    stochastic_depth: StochasticDepth
    drop_rate: float = eqx.field(static=True)

    def __init__(
        self,
        attention: ShrinkingAttention,
        feed_forward: FeedForward,
        drop_rate: float,
    ):
        """**Arguments:** the two branches; the rate of dropping the second."""
        self.attention = attention
        self.feed_forward = feed_forward
        self.stochastic_depth = StochasticDepth()
        self.drop_rate = drop_rate

    def __call__(
        self,
        x: Float[Array, "height width dim"],
        state: eqx.nn.State,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "half_height half_width out_dim"], eqx.nn.State]:
        mlp_key, depth_key = split_key(key, 2)
        x, state = self.attention(x, state)
        branch, state = self.feed_forward(x, state, key=mlp_key)
        return x + self.stochastic_depth(branch, self.drop_rate, key=depth_key), state


class Head(eqx.nn.StatefulLayer):
    """Batch normalisation of the features, then a linear layer."""

    norm: BatchNorm | None
    linear: Linear

    def __init__(self, dim: int, num_classes: int, *, key: PRNGKeyArray):
        """**Arguments:** as [`eqx_vit.LeViT`][]."""
        self.norm = BatchNorm(dim)
        self.linear = Linear(dim, num_classes, key=key)

    def __call__(
        self, x: Float[Array, " dim"], state: eqx.nn.State
    ) -> tuple[Float[Array, " classes"], eqx.nn.State]:
        if self.norm is not None:
            x, state = self.norm(x, state)
        return self.linear(x), state

    def fuse(self, state: eqx.nn.State) -> "Head":
        """As `eqx_vit.layers.BatchNormed.fuse`."""
        if self.norm is None:
            return self
        scale, shift = self.norm.affine(state)
        linear = eqx.tree_at(
            lambda linear: (linear.weight, linear.bias),
            self.linear,
            (self.linear.weight * scale, self.linear(shift)),
        )
        return eqx.tree_at(lambda head: (head.norm, head.linear), self, (None, linear))


class LeViT(eqx.nn.StatefulLayer):
    r"""The vision transformer in a convolutional network's clothing: a pyramid whose
    only normalisation is batch normalisation, which inference folds away.

    The structure is the authors' as timm builds it; the default is LeViT-256.
    Departures of vit-pytorch that are not followed: a stem without normalisation and
    activation, biases in place of normalisations in the feed-forward networks, GELU
    before the output of attention, position biases that are divided by the scale, one
    head. The model has a state, see below; [`eqx_vit.fuse_batch_norm`][] makes a model
    for inference without. Without LayerNorm its activations grow with the image, beyond
    the range of float16: use bfloat16 or float32.

    ??? cite

        [LeViT: a Vision Transformer in ConvNet's Clothing for Faster
        Inference](https://arxiv.org/abs/2104.01136)

        ```bibtex
        @inproceedings{graham2021levit,
            title={LeViT: a Vision Transformer in ConvNet's Clothing for Faster
                   Inference},
            author={Graham, Benjamin and El-Nouby, Alaaeldin and Touvron, Hugo and
                    Stock, Pierre and Joulin, Armand and J{\'e}gou, Herv{\'e} and
                    Douze, Matthijs},
            booktitle={IEEE/CVF International Conference on Computer Vision},
            year={2021},
        }
        ```
    """

    stem: Stem
    # Stages differ in width, so that each is a stack of its own.
    stages: tuple[StatefulStack, ...]
    shrinkings: tuple[Shrinking, ...]
    head: Head | None
    distillation_head: Head | None
    image_size: tuple[int, int] = eqx.field(static=True)
    channels: int = eqx.field(static=True)

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 224,
        num_classes: int = 1000,
        stages: int = 3,
        dim: int | tuple[int, ...] = (256, 384, 512),
        depth: int | tuple[int, ...] = 4,
        heads: int | tuple[int, ...] = (4, 6, 8),
        mlp_mult: float | tuple[float, ...] = 2,
        dim_key: int = 32,
        dim_value: int = 64,
        dropout: float = 0.0,
        channels: int = 3,
        stochastic_depth: float = 0.0,
        activation: Callable = jax.nn.hard_swish,
        distilled: bool = True,
        key: PRNGKeyArray,
    ):
        """**Arguments:** all are keyword only.

        - `image_size`: The side of the image in pixels, or its `(height, width)`;
            multiples of 16.
        - `num_classes`: The number of classes; 0 returns the features that would enter
            the heads.
        - `stages`: The number of stages.
        - `dim`: The number of channels of every stage; that of the first is a multiple
            of 8, and none but the last is below `dim_key`.
        - `depth`: The number of blocks of every stage.
        - `heads`: The number of attention heads of every stage. (Shrinking attention
            has `dim // dim_key`, rounded down.)
        - `mlp_mult`: The size of the hidden layer of the feed-forward network, in
            channels of the stage; it is 2 after shrinking attention.
        - `dim_key`: The size of a query or a key, per head. (Published: 16 or 32.)
        - `dim_value`: The size of a value, per head; shrinking attention has twice as
            much. (Published: `2 * dim_key`.)
        - `dropout`: Dropout rate inside the blocks; shrinking attention has none.
        - `channels`: The number of channels of the image.
        - `stochastic_depth`: The rate at which every block drops its branches.
            (Published: 0.1 for LeViT-384, else 0.)
        - `activation`: The activation everywhere.
        - `distilled`: Whether there is a second head, for a teacher; the logits are the
            mean of the two heads'.
        - `key`: A `jax.random.key` used to initialise the parameters.

        **Raises:**

        A `ValueError` that names the argument, its value and the nearest legal one.
        """
        check_numbers(LeViT.__init__, locals())
        check_multiple("image_size", image_size, "the stride of the stem", 16)
        dims = per_stage("dim", dim, stages)
        depths = per_stage("depth", depth, stages)
        heads = per_stage("heads", heads, stages)
        mlp_mult = per_stage("mlp_mult", mlp_mult, stages)
        check_multiple("dim[0]", dims[0], "8, for the stem", 8)
        for i in range(stages - 1):
            check_at_least(dim_key, **{f"dim[{i}]": dims[i]})
        self.image_size = height, width = pair(image_size)
        self.channels = channels

        stem_key, stage_key, shrink_key, head_key = jr.split(key, 4)
        self.stem = Stem(channels, dims[0], activation, key=stem_key)
        size, stacks, shrinkings = (height // 16, width // 16), [], []
        shrink_keys = jr.split(shrink_key, stages)
        for i, key in enumerate(jr.split(stage_key, stages)):
            if i > 0:
                attention_key, mlp_key = jr.split(shrink_keys[i])
                shrinking = ShrinkingAttention(
                    dims[i - 1],
                    dims[i],
                    dims[i - 1] // dim_key,
                    dim_key,
                    2 * dim_value,
                    size,
                    activation,
                    key=attention_key,
                )
                mlp = FeedForward(dims[i], 2 * dims[i], 0.0, activation, key=mlp_key)
                shrinkings.append(Shrinking(shrinking, mlp, stochastic_depth))
                size = ((size[0] + 1) // 2, (size[1] + 1) // 2)

            def make_block(key):
                attention_key, mlp_key = jr.split(key)
                sizes = (dims[i], heads[i], dim_key, dim_value, size)
                mlp = (dims[i], hidden_dim("mlp_mult", mlp_mult[i], dims[i]))
                return LeBlock(
                    BiasedAttention(*sizes, dropout, activation, key=attention_key),
                    FeedForward(*mlp, dropout, activation, key=mlp_key),
                )

            rates = (stochastic_depth,) * depths[i]
            stacks.append(StatefulStack(make_block, depths[i], rates, key=key))
        self.stages = tuple(stacks)
        self.shrinkings = tuple(shrinkings)
        keys = jr.split(head_key)
        head, other = (
            Head(dims[-1], num_classes, key=k) if num_classes else None for k in keys
        )
        self.head = head
        self.distillation_head = other if distilled else None

    @takes_an_image
    def __call__(
        self,
        image: Float[
            AnyArray, "{self.image_size[0]} {self.image_size[1]} {self.channels}"
        ],
        state: eqx.nn.State,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, " classes"], eqx.nn.State]:
        """**Arguments:**

        - `image`: A single image. For a batch, and always in training:
            `jax.vmap(model, (0, None), (0, None), axis_name="batch")(images, state)`.
        - `state`: The running statistics of the batch normalisations.
        - `key`: A `jax.random.key` used for dropout; not needed in
            `equinox.nn.inference_mode`. (Keyword only argument.)

        **Returns:**

        The logits, of shape `(num_classes,)`, and the new state.

        **Raises:**

        A `jaxtyping.TypeCheckError` if the image has another shape.
        """
        logits, state = self.head_logits(image, state, key=key)
        return sum(logits[1:], logits[0]) / len(logits), state

    def head_logits(
        self,
        image: Float[
            AnyArray, "{self.image_size[0]} {self.image_size[1]} {self.channels}"
        ],
        state: eqx.nn.State,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[tuple[Float[Array, " classes"], ...], eqx.nn.State]:
        """The logits of every head: the first and, with `distilled=True`, the one that
        learns from a teacher; and the new state. (`model(image, state)` returns their
        mean.)

        **Arguments:** as `__call__`.
        """
        x, state = self.stem(jnp.asarray(image), state)
        for i, stage_key in enumerate(split_key(key, len(self.stages))):
            shrink_key, stack_key = split_key(stage_key, 2)
            if i > 0:
                x, state = self.shrinkings[i - 1](x, state, key=shrink_key)
            x, state = self.stages[i](x, state, key=stack_key)
            x = checkpoint_name(x, "stage")
        x = jnp.mean(x, axis=(0, 1))
        if self.head is None:
            return (x,), state
        logits, state = self.head(x, state)
        if self.distillation_head is None:
            return (logits,), state
        others, state = self.distillation_head(x, state)
        return (logits, others), state
