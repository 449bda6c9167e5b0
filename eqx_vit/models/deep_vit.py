from collections.abc import Callable
from functools import partial
from itertools import groupby

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from ..layers import (
    AnyArray,
    Attention,
    BatchNormed,
    call_with_state,
    check_choice,
    check_multiple,
    check_numbers,
    Conv,
    FeedForward,
    gelu,
    LayerNorm,
    Linear,
    linear_rates,
    pair,
    PatchEmbedding,
    softmax,
    split_key,
    StatefulStack,
    StochasticDepth,
    takes_an_image,
)


class ReAttention(eqx.nn.StatefulLayer):
    """Attention whose maps are mixed across heads and batch-normalised per head."""

    qkv: Linear
    mix: BatchNormed
    output: Linear
    dropout: eqx.nn.Dropout
    heads: int = eqx.field(static=True)
    scale: float = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        heads: int,
        dim_head: int,
        dropout: float,
        qkv_bias: bool,
        scale: float,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** as [`eqx_vit.DeepViT`][]; `scale` multiplies the new maps."""
        qkv_key, mix_key, output_key = jr.split(key, 3)
        inner_dim = heads * dim_head
        self.qkv = Linear(dim, 3 * inner_dim, qkv_bias, key=qkv_key)
        self.mix = BatchNormed(Linear(heads, heads, key=mix_key), heads)
        self.output = Linear(inner_dim, dim, key=output_key)
        self.dropout = eqx.nn.Dropout(dropout)
        self.heads = heads
        self.scale = scale

    def __call__(
        self,
        x: Float[Array, "tokens dim"],
        state: eqx.nn.State,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "tokens dim"], eqx.nn.State]:
        probability_key, output_key = split_key(key, 2)
        q, k, v = rearrange(
            self.qkv(x), "n (qkv h d) -> qkv h n d", qkv=3, h=self.heads
        )
        logits = jnp.einsum("hqd,hkd->hqk", q * q.shape[-1] ** -0.5, k)
        maps = checkpoint_name(softmax(logits), "attention")
        maps = self.dropout(maps, key=probability_key)
        maps, state = self.mix(rearrange(maps, "h q k -> q k h"), state)
        x = jnp.einsum("qkh,hkd->qhd", maps * self.scale, v)
        x = self.output(rearrange(x, "n h d -> n (h d)"))
        x = self.dropout(x, key=output_key)
        return checkpoint_name(x, "attention_output"), state


class DeepBlock(eqx.nn.StatefulLayer):
    """A transformer block whose branches see a scaled input, and are scaled back."""

    norm1: LayerNorm
    attention: Attention | ReAttention
    norm2: LayerNorm
    feed_forward: FeedForward
    stochastic_depth: StochasticDepth
    residual_scale: float = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        attention: Attention | ReAttention,
        feed_forward: FeedForward,
        norm_eps: float,
        residual_scale: float,
    ):
        """**Arguments:** as [`eqx_vit.layers.Block`][] and [`eqx_vit.DeepViT`][]."""
        self.norm1 = LayerNorm(dim, norm_eps)
        self.attention = attention
        self.norm2 = LayerNorm(dim, norm_eps)
        self.feed_forward = feed_forward
        self.stochastic_depth = StochasticDepth()
        self.residual_scale = residual_scale

    def __call__(
        self,
        x: Float[Array, "tokens dim"],
        state: eqx.nn.State,
        drop_rate: float | Float[Array, ""] = 0.0,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "tokens dim"], eqx.nn.State]:
        attention_key, depth_key1, mlp_key, depth_key2 = split_key(key, 4)
        scale = self.residual_scale
        x_normed = self.norm1(x * scale)
        # (`ReAttention` has a state, `Attention` has none.)
        branch, state = call_with_state(
            self.attention, x_normed, state, key=attention_key
        )
        x = x + self.stochastic_depth(branch / scale, drop_rate, key=depth_key1)
        branch = self.feed_forward(self.norm2(x * scale), key=mlp_key)
        x = x + self.stochastic_depth(branch / scale, drop_rate, key=depth_key2)
        return checkpoint_name(x, "block"), state


class ConvStem(eqx.nn.StatefulLayer):
    """Two convolutions at half resolution, then patches of half the size."""

    conv1: BatchNormed
    conv2: BatchNormed
    projection: PatchEmbedding
    patch_size: tuple[int, int] = eqx.field(static=True)

    def __init__(
        self, patch_size: tuple[int, int], channels: int, dim: int, *, key: PRNGKeyArray
    ):
        """**Arguments:** as [`eqx_vit.DeepViT`][]."""
        key1, key2, projection_key = jr.split(key, 3)
        conv1 = Conv(channels, 64, 7, 2, 3, use_bias=False, key=key1)
        conv2 = Conv(64, 64, 3, 1, 1, use_bias=False, key=key2)
        self.conv1 = BatchNormed(conv1, 64)
        self.conv2 = BatchNormed(conv2, 64)
        height, width = patch_size
        half = height // 2, width // 2
        self.projection = PatchEmbedding(half, 64, dim, key=projection_key)
        self.patch_size = patch_size

    def __call__(
        self,
        image: Float[Array, "height width channels"],
        state: eqx.nn.State,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "tokens dim"], eqx.nn.State]:
        x, state = self.conv1(image, state)
        x, state = self.conv2(jax.nn.relu(x), state)
        return self.projection(jax.nn.relu(x)), state


class DeepViT(eqx.nn.StatefulLayer):
    r"""The deeper Vision Transformer, whose attention maps stay different by
    re-attention: each head's map becomes a normalised mixture of all heads' maps.

    The structure is the authors': the mixture has a bias, and batch normalisation over
    heads follows it. (vit-pytorch and vit-flax have no bias and a layer normalisation.)
    The model has a state, see below.

    ??? cite

        [DeepViT: Towards Deeper Vision Transformer](https://arxiv.org/abs/2103.11886)

        ```bibtex
        @misc{zhou2021deepvit,
            title={DeepViT: Towards Deeper Vision Transformer},
            author={Zhou, Daquan and Kang, Bingyi and Jin, Xiaojie and Yang, Linjie and
                    Lian, Xiaochen and Jiang, Zihang and Hou, Qibin and Feng, Jiashi},
            year={2021},
            eprint={2103.11886},
            archivePrefix={arXiv},
            primaryClass={cs.CV},
        }
        ```
    """

    patch_embedding: PatchEmbedding | ConvStem
    class_token: Float[Array, "1 dim"]
    position_embedding: Float[Array, "positions dim"]
    dropout: eqx.nn.Dropout
    # Blocks with and without re-attention differ, so that each run of alike blocks is a
    # stack of its own.
    stacks: tuple[StatefulStack, ...]
    norm: LayerNorm
    head: Linear | None
    image_size: tuple[int, int] = eqx.field(static=True)
    channels: int = eqx.field(static=True)
    pool: str = eqx.field(static=True)

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 256,
        patch_size: int | tuple[int, int] = 32,
        num_classes: int = 1000,
        dim: int = 1024,
        depth: int = 6,
        heads: int = 16,
        mlp_dim: int = 2048,
        pool: str = "cls",
        channels: int = 3,
        dim_head: int = 64,
        dropout: float = 0.0,
        emb_dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        qkv_bias: bool = False,
        norm_eps: float = 1e-6,
        activation: Callable = gelu,
        reattention: bool | tuple[bool, ...] = True,
        scale_reattention: bool = False,
        residual_scale: float = 1.0,
        conv_stem: bool = False,
        key: PRNGKeyArray,
    ):
        """**Arguments:** all are keyword only.

        - `image_size`: The side of the image in pixels, or its `(height, width)`;
            multiples of `patch_size`.
        - `patch_size`: The side of a patch in pixels, or its `(height, width)`.
        - `num_classes`: The number of classes; 0 returns the features that would enter
            the head.
        - `dim`: The size of a token.
        - `depth`: The number of transformer blocks.
        - `heads`: The number of attention heads in a block.
        - `mlp_dim`: The size of the hidden layer of the feed-forward network.
        - `pool`: The input of the head: `"cls"`, the class token, or `"mean"`, the mean
            over the patches' tokens.
        - `channels`: The number of channels of the image.
        - `dim_head`: The size of a query, a key or a value, per head.
        - `dropout`: Dropout rate inside the transformer.
        - `emb_dropout`: Dropout rate on the embedded tokens.
        - `stochastic_depth`: The rate at which the last block drops its branches; it
            rises linearly from 0 at the first block.
        - `qkv_bias`: Whether queries, keys and values have a bias.
        - `norm_eps`: The `eps` of the layer normalisations.
        - `activation`: The activation of the feed-forward networks.
        - `reattention`: Whether blocks have re-attention: all, or each by itself.
            (DeepViT-S has it in the last 5 of 16 blocks, DeepViT-L in the last 12 of
            32.)
        - `scale_reattention`: Whether the new maps are multiplied by
            `dim_head**-0.5` (DeepViT-S).
        - `residual_scale`: The factor of the input of a branch, whose output is divided
            by it (0.5 in DeepViT-S and -L).
        - `conv_stem`: Whether two convolutions come before the patches (DeepViT-S and
            -L); the sides of a patch are then even.
        - `key`: A `jax.random.key` used to initialise the parameters.

        **Raises:**

        A `ValueError` that names the argument, its value and the nearest legal one.
        """
        check_numbers(DeepViT.__init__, locals())
        check_multiple("image_size", image_size, "patch_size", patch_size)
        if conv_stem:
            check_multiple("patch_size", patch_size, "2, for `conv_stem`", 2)
        check_choice("pool", pool, ("cls", "mean"))
        if isinstance(reattention, bool):
            reattention = (reattention,) * depth
        if len(reattention) != depth:
            raise ValueError(
                f"`reattention={reattention}` must have an entry for each of the "
                f"`depth={depth}` blocks."
            )
        if residual_scale <= 0:
            raise ValueError(
                f"`residual_scale={residual_scale}` must be positive; use 1.0 for none."
            )
        patch_key, class_key, position_key, stack_key, head_key = jr.split(key, 5)
        self.image_size = height, width = pair(image_size)
        patch_height, patch_width = pair(patch_size)
        self.channels = channels
        self.pool = pool
        stem = ConvStem if conv_stem else PatchEmbedding
        self.patch_embedding = stem(
            (patch_height, patch_width), channels, dim, key=patch_key
        )
        self.class_token = 0.02 * jr.normal(class_key, (1, dim))
        positions = (height // patch_height) * (width // patch_width) + 1
        self.position_embedding = 0.02 * jr.normal(position_key, (positions, dim))
        self.dropout = eqx.nn.Dropout(emb_dropout)

        def make_block(again, key):
            attention_key, mlp_key = jr.split(key)
            sizes = (dim, heads, dim_head, dropout, qkv_bias)
            if again:
                scale = dim_head**-0.5 if scale_reattention else 1.0
                attention = ReAttention(*sizes, scale, key=attention_key)
            else:
                attention = Attention(*sizes, key=attention_key)
            mlp = FeedForward(dim, mlp_dim, dropout, activation, key=mlp_key)
            return DeepBlock(dim, attention, mlp, norm_eps, residual_scale)

        rates = linear_rates(stochastic_depth, depth)
        runs = [(again, len(list(run))) for again, run in groupby(reattention)]
        stacks, start = [], 0
        for (again, length), key in zip(runs, jr.split(stack_key, len(runs))):
            run_rates = rates[start : start + length]
            make = partial(make_block, again)
            stacks.append(StatefulStack(make, length, run_rates, key=key))
            start += length
        self.stacks = tuple(stacks)
        self.norm = LayerNorm(dim, norm_eps)
        self.head = Linear(dim, num_classes, key=head_key) if num_classes else None

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
        dropout_key, *stack_keys = split_key(key, 1 + len(self.stacks))
        x, state = call_with_state(self.patch_embedding, jnp.asarray(image), state)
        x = jnp.concatenate([self.class_token.astype(x.dtype), x])
        x = x + self.position_embedding.astype(x.dtype)
        x = self.dropout(x, key=dropout_key)
        for stack, stack_key in zip(self.stacks, stack_keys):
            x, state = stack(x, state, key=stack_key)
        x = self.norm(x)
        x = x[0] if self.pool == "cls" else jnp.mean(x[1:], axis=0)
        return (x if self.head is None else self.head(x)), state
