import math
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from ..layers import (
    AnyArray,
    attend,
    BatchNormed,
    check_at_least,
    check_image,
    check_multiple,
    check_numbers,
    check_odd,
    Conv,
    DepthwiseConv,
    FeedForward,
    hidden_dim,
    LayerNorm,
    Linear,
    linear_rates,
    quick_gelu,
    split_key,
    StatefulStack,
    StochasticDepth,
    takes_an_image,
)


class ConvAttention(eqx.nn.StatefulLayer):
    """Attention whose queries, keys and values come from convolutions of the map. The
    class token, where there is one, passes them by."""

    query_conv: BatchNormed
    key_conv: BatchNormed
    value_conv: BatchNormed
    query: Linear
    key: Linear
    value: Linear
    output: Linear
    dropout: eqx.nn.Dropout
    heads: int = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        heads: int,
        kernel_size: int,
        stride: int,
        dropout: float,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** as [`eqx_vit.CvT`][]; the stride of keys and values."""
        *conv_keys, q_key, k_key, v_key, output_key = jr.split(key, 7)
        self.query_conv, self.key_conv, self.value_conv = (
            BatchNormed(
                DepthwiseConv(
                    dim, kernel_size, s, kernel_size // 2, use_bias=False, key=k
                ),
                dim,
            )
            for s, k in zip((1, stride, stride), conv_keys)
        )
        self.query = Linear(dim, dim, key=q_key)
        self.key = Linear(dim, dim, key=k_key)
        self.value = Linear(dim, dim, key=v_key)
        self.output = Linear(dim, dim, key=output_key)
        self.dropout = eqx.nn.Dropout(dropout)
        self.heads = heads

    def __call__(
        self,
        x: Float[Array, "tokens dim"],
        state: eqx.nn.State,
        size: tuple[int, int],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "tokens dim"], eqx.nn.State]:
        probability_key, output_key = split_key(key, 2)
        num_class = len(x) - size[0] * size[1]
        class_tokens, image = x[:num_class], x[num_class:]
        image = rearrange(image, "(h w) d -> h w d", h=size[0])
        projections = (
            (self.query_conv, self.query),
            (self.key_conv, self.key),
            (self.value_conv, self.value),
        )
        heads = []
        for conv, linear in projections:
            tokens, state = conv(image, state)
            tokens = rearrange(tokens, "h w d -> (h w) d")
            tokens = linear(jnp.concatenate([class_tokens, tokens]))
            heads.append(rearrange(tokens, "n (h d) -> h n d", h=self.heads))
        # As published, the scale is of the whole width, not of the width of a head.
        scale = x.shape[-1] ** -0.5
        x = attend(*heads, scale=scale, dropout=self.dropout, key=probability_key)
        x = self.dropout(self.output(x), key=output_key)
        return checkpoint_name(x, "attention_output"), state


class ConvBlock(eqx.nn.StatefulLayer):
    """A transformer block whose attention sees the map."""

    norm1: LayerNorm
    attention: ConvAttention
    norm2: LayerNorm
    feed_forward: FeedForward
    stochastic_depth: StochasticDepth

    def __init__(
        self,
        dim: int,
        attention: ConvAttention,
        feed_forward: FeedForward,
        norm_eps: float,
    ):
        """**Arguments:** as [`eqx_vit.layers.Block`][]."""
        self.norm1 = LayerNorm(dim, norm_eps)
        self.attention = attention
        self.norm2 = LayerNorm(dim, norm_eps)
        self.feed_forward = feed_forward
        self.stochastic_depth = StochasticDepth()

    def __call__(
        self,
        x: Float[Array, "tokens dim"],
        state: eqx.nn.State,
        drop_rate: float | Float[Array, ""],
        size: tuple[int, int],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "tokens dim"], eqx.nn.State]:
        attention_key, depth_key1, mlp_key, depth_key2 = split_key(key, 4)
        branch, state = self.attention(self.norm1(x), state, size, key=attention_key)
        x = x + self.stochastic_depth(branch, drop_rate, key=depth_key1)
        branch = self.feed_forward(self.norm2(x), key=mlp_key)
        x = x + self.stochastic_depth(branch, drop_rate, key=depth_key2)
        return checkpoint_name(x, "block"), state


class Stage(eqx.nn.StatefulLayer):
    """Overlapping patches of the map before, then blocks."""

    conv: Conv
    norm: LayerNorm
    blocks: StatefulStack

    def __init__(self, conv: Conv, dim: int, norm_eps: float, blocks: StatefulStack):
        """**Arguments:** the parts."""
        self.conv = conv
        self.norm = LayerNorm(dim, norm_eps)
        self.blocks = blocks

    def __call__(
        self,
        x: Float[Array, "height width channels"],
        state: eqx.nn.State,
        class_tokens: Float[Array, "class_tokens dim"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[
        Float[Array, "class_tokens dim"],
        Float[Array, "new_height new_width dim"],
        eqx.nn.State,
    ]:
        x = self.norm(self.conv(x))
        height, width, _ = x.shape
        num_class = len(class_tokens)
        tokens = jnp.concatenate([class_tokens, rearrange(x, "h w d -> (h w) d")])
        tokens, state = self.blocks(tokens, state, (height, width), key=key)
        class_tokens, x = tokens[:num_class], tokens[num_class:]
        x = rearrange(x, "(h w) d -> h w d", h=height)
        return class_tokens, checkpoint_name(x, "stage"), state


class CvT(eqx.nn.StatefulLayer):
    r"""The convolutional vision transformer: overlapping patches, and depthwise
    convolutions before every projection to queries, keys and values, make position
    embeddings superfluous.

    The structure is Microsoft's. Departures of vit-pytorch that are not followed: keys
    and values share a convolution, no biases, heads that are always of size 64, the
    mean over the map in place of a class token. The model has a state, see below;
    [`eqx_vit.fuse_batch_norm`][] makes a model for inference without.

    ??? cite

        [CvT: Introducing Convolutions to Vision
        Transformers](https://arxiv.org/abs/2103.15808)

        ```bibtex
        @inproceedings{wu2021cvt,
            title={CvT: Introducing Convolutions to Vision Transformers},
            author={Wu, Haiping and Xiao, Bin and Codella, Noel and Liu, Mengchen and
                    Dai, Xiyang and Yuan, Lu and Zhang, Lei},
            booktitle={IEEE/CVF International Conference on Computer Vision},
            year={2021},
        }
        ```
    """

    stages: tuple[Stage, ...]
    class_token: Float[Array, "1 dim"]
    norm: LayerNorm
    head: Linear | None
    channels: int = eqx.field(static=True)
    image_multiple: int = eqx.field(static=True)

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        s1_emb_dim: int = 64,
        s1_emb_kernel: int = 7,
        s1_emb_stride: int = 4,
        s1_proj_kernel: int = 3,
        s1_kv_proj_stride: int = 2,
        s1_heads: int = 1,
        s1_depth: int = 1,
        s1_mlp_mult: float = 4,
        s2_emb_dim: int = 192,
        s2_emb_kernel: int = 3,
        s2_emb_stride: int = 2,
        s2_proj_kernel: int = 3,
        s2_kv_proj_stride: int = 2,
        s2_heads: int = 3,
        s2_depth: int = 2,
        s2_mlp_mult: float = 4,
        s3_emb_dim: int = 384,
        s3_emb_kernel: int = 3,
        s3_emb_stride: int = 2,
        s3_proj_kernel: int = 3,
        s3_kv_proj_stride: int = 2,
        s3_heads: int = 4,
        s3_depth: int = 10,
        s3_mlp_mult: float = 4,
        dropout: float = 0.0,
        channels: int = 3,
        stochastic_depth: float = 0.0,
        norm_eps: float = 1e-5,
        activation: Callable = quick_gelu,
        key: PRNGKeyArray,
    ):
        """**Arguments:** all are keyword only.

        - `num_classes`: The number of classes; 0 returns the features that would enter
            the head.
        - `s1_emb_dim`: The size of a token in the first stage; and so on for the
            stages 2 and 3.
        - `s1_emb_kernel`: The side of a patch, at least `s1_emb_stride`.
        - `s1_emb_stride`: The step from patch to patch.
        - `s1_proj_kernel`: The side of the kernels before queries, keys and values,
            odd.
        - `s1_kv_proj_stride`: The stride of the kernels before keys and values.
        - `s1_heads`: The number of attention heads; it divides the size of a token.
            (Published: 1, 3, 6.)
        - `s1_depth`: The number of transformer blocks.
        - `s1_mlp_mult`: The size of the hidden layer of the feed-forward network, in
            sizes of a token.
        - `dropout`: Dropout rate inside the transformers.
        - `channels`: The number of channels of the image.
        - `stochastic_depth`: The rate at which the last block of the last stage drops
            its branches; it rises linearly from 0 at the first block of that stage.
            (Published: 0.1. The other stages drop nothing.)
        - `norm_eps`: The `eps` of the layer normalisations.
        - `activation`: The activation of the feed-forward networks. (Microsoft trained
            with this one; `transformers` serves the same weights with
            `eqx_vit.layers.gelu`.)
        - `key`: A `jax.random.key` used to initialise the parameters.

        **Raises:**

        A `ValueError` that names the argument, its value and the nearest legal one.
        """
        check_numbers(CvT.__init__, locals())
        dims = (channels, s1_emb_dim, s2_emb_dim, s3_emb_dim)
        kernels = (s1_emb_kernel, s2_emb_kernel, s3_emb_kernel)
        strides = (s1_emb_stride, s2_emb_stride, s3_emb_stride)
        proj_kernels = (s1_proj_kernel, s2_proj_kernel, s3_proj_kernel)
        kv_strides = (s1_kv_proj_stride, s2_kv_proj_stride, s3_kv_proj_stride)
        heads = (s1_heads, s2_heads, s3_heads)
        depths = (s1_depth, s2_depth, s3_depth)
        mlp_mults = (s1_mlp_mult, s2_mlp_mult, s3_mlp_mult)
        for i in range(3):
            stage = f"s{i + 1}"
            check_at_least(strides[i], **{f"{stage}_emb_kernel": kernels[i]})
            check_multiple(f"{stage}_emb_dim", dims[i + 1], f"{stage}_heads", heads[i])
            check_odd(**{f"{stage}_proj_kernel": proj_kernels[i]})
        self.channels = channels
        # A stage with little padding would leave out pixels at the border of maps that
        # its stride does not divide.
        self.image_multiple = 1
        paddings = [
            (kernel - stride + 1) // 2 for kernel, stride in zip(kernels, strides)
        ]
        for i in range(3):
            if paddings[i] < strides[i] - 1:
                self.image_multiple = math.prod(strides[: i + 1])

        stage_key, class_key, head_key = jr.split(key, 3)
        rates = (
            *((0.0,) * d for d in depths[:2]),
            linear_rates(stochastic_depth, s3_depth),
        )
        stages = []
        for i, key in enumerate(jr.split(stage_key, 3)):
            conv_key, blocks_key = jr.split(key)

            def make_block(key):
                attention_key, mlp_key = jr.split(key)
                dim = dims[i + 1]
                projections = (heads[i], proj_kernels[i], kv_strides[i])
                hidden = hidden_dim(f"s{i + 1}_mlp_mult", mlp_mults[i], dim)
                mlp = (dim, hidden, dropout, activation)
                return ConvBlock(
                    dim,
                    ConvAttention(dim, *projections, dropout, key=attention_key),
                    FeedForward(*mlp, key=mlp_key),
                    norm_eps,
                )

            conv = Conv(
                dims[i], dims[i + 1], kernels[i], strides[i], paddings[i], key=conv_key
            )
            blocks = StatefulStack(make_block, depths[i], rates[i], key=blocks_key)
            stages.append(Stage(conv, dims[i + 1], norm_eps, blocks))
        self.stages = tuple(stages)
        self.class_token = 0.02 * jr.normal(class_key, (1, s3_emb_dim))
        self.norm = LayerNorm(s3_emb_dim, norm_eps)
        self.head = (
            Linear(s3_emb_dim, num_classes, key=head_key) if num_classes else None
        )

    @takes_an_image
    def __call__(
        self,
        image: Float[AnyArray, "height width {self.channels}"],
        state: eqx.nn.State,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, " classes"], eqx.nn.State]:
        """**Arguments:**

        - `image`: A single image of any size that the first patches cover: of multiples
            of 4 by default. For a batch, and always in training:
            `jax.vmap(model, (0, None), (0, None), axis_name="batch")(images, state)`.
        - `state`: The running statistics of the batch normalisations.
        - `key`: A `jax.random.key` used for dropout; not needed in
            `equinox.nn.inference_mode`. (Keyword only argument.)

        **Returns:**

        The logits, of shape `(num_classes,)`, and the new state.

        **Raises:**

        A `ValueError` with the nearest legal size, or a `jaxtyping.TypeCheckError` if
        the image has another shape.
        """
        check_image(image.shape, self.image_multiple, "the strides of the stages")
        x = jnp.asarray(image)
        *stages, last = self.stages
        *stage_keys, last_key = split_key(key, 3)
        for stage, stage_key in zip(stages, stage_keys):  # these have no class token
            none = jnp.zeros((0, stage.norm.weight.size), x.dtype)
            _, x, state = stage(x, state, none, key=stage_key)
        class_token = self.class_token.astype(x.dtype)
        class_token, _, state = last(x, state, class_token, key=last_key)
        x = self.norm(class_token[0])
        return (x if self.head is None else self.head(x)), state
