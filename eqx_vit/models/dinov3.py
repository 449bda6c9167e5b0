import math
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from ..layers import (
    AnyArray,
    attend,
    Block,
    check_choice,
    check_multiple,
    check_numbers,
    FeedForward,
    GatedFeedForward,
    gelu,
    LayerNorm,
    Linear,
    PatchEmbedding,
    split_key,
    Stack,
    takes_an_image,
    uniform,
    widen,
)


class Rotation(eqx.Module):
    """Rotates the pairs of numbers in a query or a key by an angle for every token.

    A pair is a number of the first half and its partner in the second half.
    [RoFormer](https://arxiv.org/abs/2104.09864).
    """

    cosine: Float[Array, "tokens half"]
    sine: Float[Array, "tokens half"]

    def __init__(self, angles: Float[Array, "tokens half"]):
        """**Arguments:**

        - `angles`: In radians.
        """
        self.cosine, self.sine = jnp.cos(angles), jnp.sin(angles)

    def __call__(
        self, x: Float[Array, "heads tokens dim_head"]
    ) -> Float[Array, "heads tokens dim_head"]:
        first, second = jnp.split(widen(x), 2, axis=-1)
        rotated = (
            first * self.cosine - second * self.sine,
            second * self.cosine + first * self.sine,
        )
        return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


class AxialPositions(eqx.Module):
    """The angle of every token: half of the pairs turn with the row of a patch, half
    with its column.

    Coordinates run from -1 to 1 over the image, whatever its size. In training they can
    be shifted, and stretched along each axis or along both.
    """

    dim_head: int = eqx.field(static=True)
    temperature: float = eqx.field(static=True)
    shift: float | None = eqx.field(static=True)
    jitter: float | None = eqx.field(static=True)
    rescale: float | None = eqx.field(static=True)
    inference: bool

    def __init__(
        self,
        dim_head: int,
        temperature: float,
        shift: float | None,
        jitter: float | None,
        rescale: float | None,
    ):
        """**Arguments:** as [`eqx_vit.DINOv3`][]."""
        self.dim_head = dim_head
        self.temperature = temperature
        self.shift, self.jitter, self.rescale = shift, jitter, rescale
        self.inference = False

    def __call__(
        self, height: int, width: int, prefix: int, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "tokens half"]:
        """**Arguments:**

        - `height`, `width`: The number of rows and columns of patches.
        - `prefix`: The number of tokens before them, which have the angle 0.
        - `key`: Randomness for training. (Keyword only argument.)
        """
        changes = self._changes(key)
        numpy = np if changes is None else jnp  # constants, if nothing is drawn
        shifts, factors = changes or ((0.0, 0.0), (1.0, 1.0))
        number = self.dim_head // 4
        periods = self.temperature ** (np.arange(0.0, number) / number)
        angles = []
        for side, shift, factor in zip((height, width), shifts, factors):
            places = 2 * np.arange(0.5, side) / side - 1
            places = factor * (places.astype(np.float32) + shift)
            angles.append(places[:, None] * (2 * math.pi / periods).astype(np.float32))
        shape = (height, width, number)
        rows = numpy.broadcast_to(angles[0][:, None], shape)
        columns = numpy.broadcast_to(angles[1], shape)
        angles = numpy.concatenate([rows, columns], axis=-1)
        angles = angles.reshape(height * width, 2 * number)
        return jnp.asarray(numpy.pad(angles, ((prefix, 0), (0, 0))))

    def _changes(self, key):
        """How coordinates are shifted and stretched along each axis, if they are."""
        ways = (self.shift, self.jitter, self.rescale)
        if self.inference or ways == (None, None, None):
            return None
        if key is None:
            raise RuntimeError(
                "The positions of `DINOv3` are shifted or stretched in training, which "
                "needs a `key`; give one, or use `equinox.nn.inference_mode(model)`."
            )
        shift_key, jitter_key, rescale_key = jr.split(key, 3)
        shifts, factors = jnp.zeros(2), jnp.ones(2)
        if self.shift is not None:
            shifts = uniform(shift_key, (2,), self.shift)
        if self.jitter is not None:
            factors *= jnp.exp(uniform(jitter_key, (2,), math.log(self.jitter)))
        if self.rescale is not None:
            factors *= jnp.exp(uniform(rescale_key, (), math.log(self.rescale)))
        return shifts, factors


class RotaryAttention(eqx.Module):
    """Self-attention whose queries and keys are rotated by the places of their tokens.

    Each of queries, keys and values may have a bias. (A bias of the keys is not the
    same for all tokens once they are rotated; the published models have none.)
    """

    qkv: Linear
    query_bias: Float[Array, " inner_dim"] | None
    key_bias: Float[Array, " inner_dim"] | None
    value_bias: Float[Array, " inner_dim"] | None
    output: Linear
    dropout: eqx.nn.Dropout
    heads: int = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        heads: int,
        dim_head: int,
        dropout: float,
        query_bias: bool,
        key_bias: bool,
        value_bias: bool,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** as [`eqx_vit.DINOv3`][]."""
        qkv_key, output_key = jr.split(key)
        inner_dim = heads * dim_head
        self.qkv = Linear(dim, 3 * inner_dim, False, key=qkv_key)
        self.query_bias = jnp.zeros(inner_dim) if query_bias else None
        self.key_bias = jnp.zeros(inner_dim) if key_bias else None
        self.value_bias = jnp.zeros(inner_dim) if value_bias else None
        self.output = Linear(inner_dim, dim, key=output_key)
        self.dropout = eqx.nn.Dropout(dropout)
        self.heads = heads

    def __call__(
        self,
        x: Float[Array, "tokens dim"],
        rotation: Rotation,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "tokens dim"]:
        probability_key, output_key = split_key(key, 2)
        biases = (self.query_bias, self.key_bias, self.value_bias)
        q, k, v = (
            rearrange(_with_bias(part(x), bias), "n (h d) -> h n d", h=self.heads)
            for part, bias in zip(self.qkv.split(3), biases)
        )
        q, k = rotation(q), rotation(k)
        x = attend(q, k, v, dropout=self.dropout, key=probability_key)
        x = self.dropout(self.output(x), key=output_key)
        return checkpoint_name(x, "attention_output")


def _with_bias(x, bias):
    return x if bias is None else x + bias.astype(x.dtype)


class DINOv3(eqx.Module):
    r"""The vision transformer of DINOv3, which knows where patches lie by rotating
    queries and keys (axial RoPE), and takes images of any size.

    Besides the patches there are a class token and register tokens, which have no
    position. The structure is the authors' as timm and transformers build it.

    ??? cite

        [DINOv3](https://arxiv.org/abs/2508.10104)

        ```bibtex
        @article{simeoni2025dinov3,
            title={{DINOv3}},
            author={Sim{\'e}oni, Oriane and Vo, Huy V. and Seitzer, Maximilian and
                    Baldassarre, Federico and Oquab, Maxime and others},
            journal={arXiv preprint arXiv:2508.10104},
            year={2025},
        }
        ```
    """

    patch_embedding: PatchEmbedding
    class_token: Float[Array, "1 dim"]
    register_tokens: Float[Array, "registers dim"] | None
    positions: AxialPositions
    dropout: eqx.nn.Dropout
    transformer: Stack
    norm: LayerNorm
    head: Linear | None
    channels: int = eqx.field(static=True)
    pool: str = eqx.field(static=True)

    def __init__(
        self,
        *,
        patch_size: int | tuple[int, int] = 16,
        num_classes: int = 1000,
        dim: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_dim: int = 1536,
        pool: str = "cls",
        channels: int = 3,
        dim_head: int = 64,
        dropout: float = 0.0,
        emb_dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        query_bias: bool = True,
        key_bias: bool = False,
        value_bias: bool = True,
        norm_eps: float = 1e-5,
        activation: Callable = gelu,
        layer_scale: float | None = 1e-5,
        register_tokens: int = 4,
        gated: bool = False,
        rope_temperature: float = 100.0,
        rope_shift: float | None = None,
        rope_jitter: float | None = None,
        rope_rescale: float | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:** all are keyword only. The defaults make ViT-S/16.

        - `patch_size`: The side of a patch in pixels, or its `(height, width)`.
        - `num_classes`: The number of classes; 0 returns the features that would enter
            the head.
        - `dim`: The size of a token.
        - `depth`: The number of transformer blocks.
        - `heads`: The number of attention heads in a block.
        - `mlp_dim`: The size of the hidden layer of the feed-forward network.
        - `pool`: The input of the head: `"cls"`, the class token; `"mean"`, the mean
            over the patches' tokens (timm's default); `"cls_mean"`, both side by side
            (the authors' linear classifier).
        - `channels`: The number of channels of the image.
        - `dim_head`: The size of a query, a key or a value, per head; a multiple of 4.
        - `dropout`: Dropout rate inside the transformer.
        - `emb_dropout`: Dropout rate on the embedded tokens.
        - `stochastic_depth`: The rate at which the last block drops its branches; it
            rises linearly from 0 at the first block.
        - `query_bias`, `key_bias`, `value_bias`: Whether queries, keys and values have
            a bias.
        - `norm_eps`: The `eps` of all normalisations.
        - `activation`: The activation of the feed-forward networks.
        - `layer_scale`: The initial value of LayerScale on both branches of a block, or
            `None` for no LayerScale.
        - `register_tokens`: The number of register tokens.
        - `gated`: Whether the feed-forward networks are SwiGLUs, which have three
            matrices instead of two and `silu` for their activation (S+, H+ and 7B).
        - `rope_temperature`: The slowest pair turns almost this many times slower than
            the fastest, which turns once over half of the image.
        - `rope_shift`: In training, coordinates are shifted by up to this much, in
            halves of the image; `None` for no shift.
        - `rope_jitter`, `rope_rescale`: In training, coordinates are stretched by a
            factor between `1 / rope_jitter` and `rope_jitter` along each axis, and by
            one between `1 / rope_rescale` and `rope_rescale` along both; at least 1, or
            `None`. (The authors train with `rope_rescale=2`.)
        - `key`: A `jax.random.key` used to initialise the parameters.

        **Raises:**

        A `ValueError` that names the argument, its value and the nearest legal one.
        """
        check_numbers(DINOv3.__init__, locals())
        check_choice("pool", pool, ("cls", "mean", "cls_mean"))
        check_multiple("dim_head", dim_head, "the parts of a head", 4)
        patch_key, token_key, stack_key, head_key = jr.split(key, 4)
        class_key, register_key = jr.split(token_key)
        self.channels = channels
        self.pool = pool
        self.patch_embedding = PatchEmbedding(patch_size, channels, dim, key=patch_key)
        self.class_token = 0.02 * jr.normal(class_key, (1, dim))
        self.register_tokens = (
            0.02 * jr.normal(register_key, (register_tokens, dim))
            if register_tokens
            else None
        )
        self.positions = AxialPositions(
            dim_head, rope_temperature, rope_shift, rope_jitter, rope_rescale
        )
        self.dropout = eqx.nn.Dropout(emb_dropout)

        def make_block(key):
            attention_key, mlp_key = jr.split(key)
            biases = (query_bias, key_bias, value_bias)
            return Block(
                dim,
                RotaryAttention(
                    dim, heads, dim_head, dropout, *biases, key=attention_key
                ),
                GatedFeedForward(dim, mlp_dim, dropout, key=mlp_key)
                if gated
                else FeedForward(dim, mlp_dim, dropout, activation, key=mlp_key),
                norm_eps,
                layer_scale,
            )

        self.transformer = Stack(make_block, depth, stochastic_depth, key=stack_key)
        self.norm = LayerNorm(dim, norm_eps)
        pooled_dim = 2 * dim if pool == "cls_mean" else dim
        self.head = (
            Linear(pooled_dim, num_classes, key=head_key) if num_classes else None
        )

    @takes_an_image
    def __call__(
        self,
        image: Float[AnyArray, "height width {self.channels}"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " classes"]:
        """**Arguments:**

        - `image`: A single image of any size that the patches divide. (Use `jax.vmap`
            for a batch.)
        - `key`: A `jax.random.key` used for dropout and for positions in training; not
            needed in `equinox.nn.inference_mode`. (Keyword only argument.)

        **Returns:**

        The logits, of shape `(num_classes,)`.

        **Raises:**

        A `ValueError` with the nearest legal size, or a `jaxtyping.TypeCheckError` if
        the image has another shape.
        """
        patch_size = self.patch_embedding.patch_size
        size = image.shape[0], image.shape[1]
        check_multiple("image.shape[:2]", size, "patch_size", patch_size)
        height, width = size[0] // patch_size[0], size[1] // patch_size[1]
        position_key, dropout_key, stack_key = split_key(key, 3)

        x = self.patch_embedding(image)
        tokens = (self.class_token, self.register_tokens)
        prefix = [token.astype(x.dtype) for token in tokens if token is not None]
        num_prefix = sum(map(len, prefix))
        x = self.dropout(jnp.concatenate([*prefix, x]), key=dropout_key)
        rotation = Rotation(self.positions(height, width, num_prefix, key=position_key))
        x = self.transformer(x, rotation, key=stack_key)
        patches = rearrange(x[num_prefix:], "(h w) d -> h w d", h=height)
        patches = self.norm(checkpoint_name(patches, "stage"))
        x = self._pooled(self.norm(x[0]), jnp.mean(patches, axis=(0, 1)))
        return x if self.head is None else self.head(x)

    def _pooled(
        self, class_token: Float[Array, " dim"], mean: Float[Array, " dim"]
    ) -> Float[Array, " pooled_dim"]:
        if self.pool == "cls_mean":
            return jnp.concatenate([class_token, mean])
        return class_token if self.pool == "cls" else mean
