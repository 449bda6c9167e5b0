from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from ..layers import (
    AnyArray,
    Attention,
    Block,
    check_multiple,
    check_numbers,
    Conv,
    DepthwiseConv,
    FeedForward,
    gelu,
    LayerNorm,
    Linear,
    linear_rates,
    pair,
    per_stage,
    split_key,
    Stack,
    takes_an_image,
)


class Pooling(eqx.Module):
    """Halves the map of tokens and widens them; class tokens go beside it."""

    conv: DepthwiseConv
    linear: Linear

    def __init__(self, dim: int, out_dim: int, *, key: PRNGKeyArray):
        """**Arguments:**

        - `dim`: The size of a token that comes in.
        - `out_dim`: The size of a token that goes out, a multiple of `dim`.
        - `key`: Randomness for the parameters. (Keyword only argument.)
        """
        conv_key, linear_key = jr.split(key)
        self.conv = DepthwiseConv(dim, 3, 2, 1, multiplier=out_dim // dim, key=conv_key)
        self.linear = Linear(dim, out_dim, key=linear_key)

    def __call__(
        self,
        class_tokens: Float[Array, "class_tokens dim"],
        x: Float[Array, "height width dim"],
    ) -> tuple[
        Float[Array, "class_tokens out_dim"],
        Float[Array, "half_height half_width out_dim"],
    ]:
        return self.linear(class_tokens), self.conv(x)


def patch_grid(
    image_size: int | tuple[int, int],
    patch_size: tuple[int, int],
    stride: tuple[int, int],
) -> tuple[int, int]:
    """The `(height, width)` of the grid of patches that may overlap.

    Raises a `ValueError` if the image is smaller than a patch.
    """
    height, width = pair(image_size)
    shown = height if height == width else (height, width)
    sides = []
    for side, patch, step in zip(pair(image_size), patch_size, stride):
        if side < patch:
            raise ValueError(
                f"`image_size={shown}` is smaller than "
                f"`patch_size={patch_size}`; the nearest legal value is {patch}."
            )
        sides.append((side - patch) // step + 1)
    return sides[0], sides[1]


class PiT(eqx.Module):
    r"""The pooling-based Vision Transformer: as in convolutional networks, resolution
    falls and width rises with depth.

    The structure is the authors' as timm builds it. Departures of vit-pytorch that are
    not followed: a pointwise convolution after the pooling's, and a position embedding
    of the class token. (vit-flax never pools.)

    ??? cite

        [Rethinking Spatial Dimensions of Vision
        Transformers](https://arxiv.org/abs/2103.16302)

        ```bibtex
        @inproceedings{heo2021rethinking,
            title={Rethinking Spatial Dimensions of Vision Transformers},
            author={Heo, Byeongho and Yun, Sangdoo and Han, Dongyoon and Chun, Sanghyuk
                    and Choe, Junsuk and Oh, Seong Joon},
            booktitle={IEEE/CVF International Conference on Computer Vision},
            year={2021},
        }
        ```
    """

    patch_embedding: Conv
    class_tokens: Float[Array, "class_tokens dim"]
    position_embedding: Float[Array, "height width dim"]
    dropout: eqx.nn.Dropout
    # Stages differ in width, so that each is a stack of its own.
    stages: tuple[Stack, ...]
    poolings: tuple[Pooling, ...]
    norm: LayerNorm
    head: Linear | None
    distillation_head: Linear | None
    image_size: tuple[int, int] = eqx.field(static=True)
    channels: int = eqx.field(static=True)

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 14,
        num_classes: int = 1000,
        dim: int | tuple[int, ...] = 256,
        depth: tuple[int, ...] = (3, 3, 3),
        heads: int | tuple[int, ...] = 16,
        mlp_dim: int | tuple[int, ...] = 2048,
        dim_head: int | tuple[int, ...] = 64,
        dropout: float = 0.0,
        emb_dropout: float = 0.0,
        channels: int = 3,
        stride: int | tuple[int, int] | None = None,
        stochastic_depth: float = 0.0,
        qkv_bias: bool = False,
        norm_eps: float = 1e-6,
        activation: Callable = gelu,
        distilled: bool = False,
        key: PRNGKeyArray,
    ):
        """**Arguments:** all are keyword only.

        - `image_size`: The side of the image in pixels, or its `(height, width)`.
        - `patch_size`: The side of a patch in pixels, or its `(height, width)`.
        - `num_classes`: The number of classes; 0 returns the features that would enter
            the head.
        - `dim`: The size of a token in the first stage, which doubles with every stage;
            or one number a stage, each a multiple of the one before.
        - `depth`: The number of transformer blocks of every stage.
        - `heads`: The number of attention heads in a block, the same in all stages or
            one number a stage. (Published models double it: `(4, 8, 16)`.)
        - `mlp_dim`: The size of the hidden layer of the feed-forward network, likewise.
            (Published: four times the width.)
        - `dim_head`: The size of a query, a key or a value, per head, likewise.
        - `dropout`: Dropout rate inside the transformers.
        - `emb_dropout`: Dropout rate on the embedded patches.
        - `channels`: The number of channels of the image.
        - `stride`: The step from patch to patch, in pixels; by default half a patch, so
            that patches overlap.
        - `stochastic_depth`: The rate at which the last block drops its branches; it
            rises linearly from 0 at the first block.
        - `qkv_bias`: Whether queries, keys and values have a bias.
        - `norm_eps`: The `eps` of all normalisations.
        - `activation`: The activation of the feed-forward networks.
        - `distilled`: Whether there is a distillation token, with a head of its own;
            the logits are the mean of the two heads'.
        - `key`: A `jax.random.key` used to initialise the parameters.

        **Raises:**

        A `ValueError` that names the argument, its value and the nearest legal one.
        """
        check_numbers(PiT.__init__, locals())
        num_stages = len(depth)
        if num_stages == 0:
            raise ValueError("`depth=()` must have an entry per stage, as (3, 3, 3).")
        if isinstance(dim, int):
            dim = tuple(dim * 2**i for i in range(num_stages))
        dims = per_stage("dim", dim, num_stages)
        for i in range(1, num_stages):
            check_multiple(f"dim[{i}]", dims[i], f"dim[{i - 1}]", dims[i - 1])
        heads = per_stage("heads", heads, num_stages)
        dim_head = per_stage("dim_head", dim_head, num_stages)
        mlp_dim = per_stage("mlp_dim", mlp_dim, num_stages)
        self.image_size = pair(image_size)
        patch_size = pair(patch_size)
        if stride is None:
            stride = max(1, patch_size[0] // 2), max(1, patch_size[1] // 2)
        grid = patch_grid(image_size, patch_size, pair(stride))
        self.channels = channels

        patch_key, class_key, position_key, stage_key, head_key = jr.split(key, 5)
        pooling_key, stage_key = jr.split(stage_key)
        head_key, distillation_head_key = jr.split(head_key)
        self.patch_embedding = Conv(
            channels, dims[0], patch_size, stride, key=patch_key
        )
        self.class_tokens = 0.02 * jr.normal(class_key, (1 + distilled, dims[0]))
        self.position_embedding = 0.02 * jr.normal(position_key, (*grid, dims[0]))
        self.dropout = eqx.nn.Dropout(emb_dropout)

        rates = linear_rates(stochastic_depth, sum(depth))
        stages = []
        for i, key in enumerate(jr.split(stage_key, num_stages)):
            start = sum(depth[:i])
            stage_rates = rates[start : start + depth[i]]

            def make_block(key):
                attention_key, mlp_key = jr.split(key)
                sizes = (dims[i], heads[i], dim_head[i], dropout, qkv_bias)
                mlp = (dims[i], mlp_dim[i], dropout, activation)
                return Block(
                    dims[i],
                    Attention(*sizes, key=attention_key),
                    FeedForward(*mlp, key=mlp_key),
                    norm_eps,
                )

            stages.append(Stack(make_block, depth[i], stage_rates, key=key))
        self.stages = tuple(stages)
        self.poolings = tuple(
            Pooling(dims[i], dims[i + 1], key=key)
            for i, key in enumerate(jr.split(pooling_key, num_stages)[:-1])
        )
        last_dim = dims[-1]
        self.norm = LayerNorm(last_dim, norm_eps)
        self.head = Linear(last_dim, num_classes, key=head_key) if num_classes else None
        self.distillation_head = (
            Linear(last_dim, num_classes, key=distillation_head_key)
            if num_classes and distilled
            else None
        )

    @takes_an_image
    def __call__(
        self,
        image: Float[
            AnyArray, "{self.image_size[0]} {self.image_size[1]} {self.channels}"
        ],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " classes"]:
        """**Arguments:**

        - `image`: A single image. (Use `jax.vmap` for a batch.)
        - `key`: A `jax.random.key` used for dropout; not needed in
            `equinox.nn.inference_mode`. (Keyword only argument.)

        **Returns:**

        The logits, of shape `(num_classes,)`.

        **Raises:**

        A `jaxtyping.TypeCheckError` if the image has another shape.
        """
        logits = self.head_logits(image, key=key)
        return sum(logits[1:], logits[0]) / len(logits)

    def head_logits(
        self,
        image: Float[
            AnyArray, "{self.image_size[0]} {self.image_size[1]} {self.channels}"
        ],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, " classes"], ...]:
        """The logits of every head: the class token's and, with `distilled=True`, the
        distillation token's, which learns from a teacher. (`model(image)` is their
        mean.)

        **Arguments:** as `__call__`.
        """
        dropout_key, *stage_keys = split_key(key, 1 + len(self.stages))
        x = self.patch_embedding(image)
        x = self.dropout(x + self.position_embedding.astype(x.dtype), key=dropout_key)
        class_tokens = self.class_tokens.astype(x.dtype)
        num_class = len(class_tokens)
        for i, (stage, stage_key) in enumerate(zip(self.stages, stage_keys)):
            if i > 0:
                class_tokens, x = self.poolings[i - 1](class_tokens, x)
            height, width, _ = x.shape
            tokens = jnp.concatenate([class_tokens, rearrange(x, "h w d -> (h w) d")])
            tokens = stage(tokens, key=stage_key)
            class_tokens, x = tokens[:num_class], tokens[num_class:]
            x = rearrange(x, "(h w) d -> h w d", h=height, w=width)
            x = checkpoint_name(x, "stage")
        class_tokens = self.norm(class_tokens)
        heads = (self.head, self.distillation_head)
        return tuple(
            token if head is None else head(token)
            for token, head in zip(class_tokens, heads)
        )
