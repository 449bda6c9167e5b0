from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from ..layers import (
    AnyArray,
    Attention,
    Block,
    check_choice,
    check_multiple,
    check_numbers,
    Conv,
    CrossAttention,
    FeedForward,
    gelu,
    LayerNorm,
    Linear,
    pair,
    PatchEmbedding,
    picklable,
    resize_bicubic,
    split_key,
    Stack,
    StochasticDepth,
    takes_an_image,
)


class MultiConvEmbedding(eqx.Module):
    """Three convolutions instead of one projection of patches (the † models)."""

    convs: tuple[Conv, Conv, Conv]
    patch_size: tuple[int, int] = eqx.field(static=True)

    def __init__(self, patch_size: int, channels: int, dim: int, *, key: PRNGKeyArray):
        """**Arguments:** as [`eqx_vit.CrossViT`][]; `patch_size` is 12 or 16."""
        steps = {12: ((3, 0), (1, 1)), 16: ((2, 1), (2, 1))}
        if patch_size not in steps:
            nearest = 12 if patch_size < 14 else 16
            raise ValueError(
                f"`multi_conv=True` is for patches of 12 or 16 pixels, not of "
                f"{patch_size}; the nearest legal value is {nearest}."
            )
        (stride2, padding2), (stride3, padding3) = steps[patch_size]
        key1, key2, key3 = jr.split(key, 3)
        self.convs = (
            Conv(channels, dim // 4, 7, 4, 3, key=key1),
            Conv(dim // 4, dim // 2, 3, stride2, padding2, key=key2),
            Conv(dim // 2, dim, 3, stride3, padding3, key=key3),
        )
        self.patch_size = (patch_size, patch_size)

    def __call__(
        self, image: Float[AnyArray, "height width channels"]
    ) -> Float[Array, "tokens dim"]:
        first, second, third = self.convs
        x = third(jax.nn.relu(second(jax.nn.relu(first(image)))))
        return x.reshape(-1, x.shape[-1])


def other_size(
    image_size: tuple[int, int],
    lg_image_size: tuple[int, int],
    new_size: tuple[int, int],
) -> tuple[int, int]:
    """The `lg_image_size` for images of `new_size`, in the old proportion."""
    height, width = (
        new * large // small
        for new, large, small in zip(new_size, lg_image_size, image_size)
    )
    return height, width


class Embedding(eqx.Module):
    """One branch's tokens: a class token and patches, with their positions."""

    patch_embedding: PatchEmbedding | MultiConvEmbedding
    class_token: Float[Array, "1 dim"]
    position_embedding: Float[Array, "tokens dim"]
    dropout: eqx.nn.Dropout
    image_size: tuple[int, int] = eqx.field(static=True)

    def __init__(
        self,
        image_size: tuple[int, int],
        patch_size: int,
        channels: int,
        dim: int,
        dropout: float,
        multi_conv: bool,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** as [`eqx_vit.CrossViT`][]."""
        patch_key, class_key, position_key = jr.split(key, 3)
        embedding = MultiConvEmbedding if multi_conv else PatchEmbedding
        self.patch_embedding = embedding(patch_size, channels, dim, key=patch_key)
        self.class_token = 0.02 * jr.normal(class_key, (1, dim))
        height, width = image_size
        tokens = (height // patch_size) * (width // patch_size) + 1
        self.position_embedding = 0.02 * jr.normal(position_key, (tokens, dim))
        self.dropout = eqx.nn.Dropout(dropout)
        self.image_size = image_size

    def __call__(
        self,
        image: Float[AnyArray, "height width channels"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "tokens dim"]:
        x = self.patch_embedding(resize_bicubic(image, self.image_size))
        x = jnp.concatenate([self.class_token.astype(x.dtype), x])
        return self.dropout(x + self.position_embedding.astype(x.dtype), key=key)


class Projection(eqx.Module):
    """Projects a class token from the width of one branch to the other's."""

    norm: LayerNorm
    linear: Linear
    activation: Callable = eqx.field(static=True, converter=picklable)

    def __init__(
        self,
        dim: int,
        out_dim: int,
        norm_eps: float,
        activation: Callable,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** as [`eqx_vit.CrossViT`][]."""
        self.norm = LayerNorm(dim, norm_eps)
        self.linear = Linear(dim, out_dim, key=key)
        self.activation = activation

    def __call__(self, x: Float[Array, "1 dim"]) -> Float[Array, "1 out_dim"]:
        return self.linear(self.activation(self.norm(x)))


class CrossBlock(eqx.Module):
    """A class token attends to itself and to the patches of the other branch."""

    norm: LayerNorm
    attention: CrossAttention
    stochastic_depth: StochasticDepth

    def __init__(self, dim: int, attention: CrossAttention, norm_eps: float):
        """**Arguments:** as [`eqx_vit.layers.Block`][]."""
        self.norm = LayerNorm(dim, norm_eps)
        self.attention = attention
        self.stochastic_depth = StochasticDepth()

    def __call__(
        self,
        x: Float[Array, "1 dim"],
        drop_rate: float | Float[Array, ""],
        patches: Float[Array, "patches dim"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "1 dim"]:
        attention_key, depth_key = split_key(key, 2)
        tokens = self.norm(jnp.concatenate([x, patches]))
        branch = self.attention(tokens[:1], tokens, key=attention_key)
        return x + self.stochastic_depth(branch, drop_rate, key=depth_key)


class Fusion(eqx.Module):
    """One direction of the exchange: there, attention, and back."""

    project: Projection
    cross_attention: Stack
    project_back: Projection

    def __init__(
        self,
        dim: int,
        other_dim: int,
        depth: int,
        heads: int,
        dim_head: int,
        dropout: float,
        stochastic_depth: float,
        qkv_bias: bool,
        norm_eps: float,
        activation: Callable,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** as [`eqx_vit.CrossViT`][], of this branch and the other."""
        project_key, cross_key, back_key = jr.split(key, 3)
        rest = (norm_eps, activation)
        self.project = Projection(dim, other_dim, *rest, key=project_key)

        def make_block(key):
            sizes = (other_dim, heads, dim_head, dropout, qkv_bias)
            return CrossBlock(other_dim, CrossAttention(*sizes, key=key), norm_eps)

        rates = (stochastic_depth,) * depth
        self.cross_attention = Stack(make_block, depth, rates, key=cross_key)
        self.project_back = Projection(other_dim, dim, *rest, key=back_key)

    def __call__(
        self,
        x: Float[Array, "tokens dim"],
        other: Float[Array, "other_tokens other_dim"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "tokens dim"]:
        class_token = self.cross_attention(self.project(x[:1]), other[1:], key=key)
        return jnp.concatenate([self.project_back(class_token), x[1:]])


class MultiScaleBlock(eqx.Module):
    """Both branches by themselves, then the exchange between them."""

    small: Stack
    large: Stack
    small_fusion: Fusion
    large_fusion: Fusion

    def __call__(
        self,
        branches: tuple[Float[Array, "tokens dim"], Float[Array, "tokens2 dim2"]],
        drop_rate: float | Float[Array, ""],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "tokens dim"], Float[Array, "tokens2 dim2"]]:
        del drop_rate  # the stacks inside have their own
        small_key, large_key, small_fusion_key, large_fusion_key = split_key(key, 4)
        small = self.small(branches[0], key=small_key)
        large = self.large(branches[1], key=large_key)
        # Both directions start from the tokens as they are before the exchange.
        return (
            checkpoint_name(
                self.small_fusion(small, large, key=small_fusion_key), "block"
            ),
            checkpoint_name(
                self.large_fusion(large, small, key=large_fusion_key), "block"
            ),
        )


class CrossViT(eqx.Module):
    r"""The Vision Transformer with two branches, of small and of large patches, whose
    class tokens attend to each other's patches.

    The structure is the authors' as timm builds it. Departures of vit-pytorch and
    vit-flax that are not followed: a normalisation at the end of each encoder, patches
    that are not normalised where a class token attends to them, and the sum of the two
    heads' logits instead of their mean.

    ??? cite

        [CrossViT: Cross-Attention Multi-Scale Vision Transformer for Image
        Classification](https://arxiv.org/abs/2103.14899)

        ```bibtex
        @inproceedings{chen2021crossvit,
            title={CrossViT: Cross-Attention Multi-Scale Vision Transformer for Image
                   Classification},
            author={Chen, Chun-Fu and Fan, Quanfu and Panda, Rameswar},
            booktitle={IEEE/CVF International Conference on Computer Vision},
            year={2021},
        }
        ```
    """

    small_embedding: Embedding
    large_embedding: Embedding
    transformer: Stack
    small_norm: LayerNorm
    large_norm: LayerNorm
    small_head: Linear | None
    large_head: Linear | None
    image_size: tuple[int, int] = eqx.field(static=True)
    channels: int = eqx.field(static=True)
    pool: str = eqx.field(static=True)

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 256,
        num_classes: int = 1000,
        depth: int = 4,
        sm_dim: int = 192,
        sm_patch_size: int = 16,
        sm_enc_depth: int = 2,
        sm_enc_heads: int = 8,
        sm_enc_mlp_dim: int = 2048,
        lg_dim: int = 384,
        lg_patch_size: int = 64,
        lg_enc_depth: int = 3,
        lg_enc_heads: int = 8,
        lg_enc_mlp_dim: int = 2048,
        cross_attn_depth: int = 2,
        cross_attn_heads: int | tuple[int, int] = 8,
        sm_enc_dim_head: int = 64,
        lg_enc_dim_head: int = 64,
        cross_attn_dim_head: int | tuple[int, int] = 64,
        channels: int = 3,
        dropout: float = 0.0,
        emb_dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        qkv_bias: bool = False,
        norm_eps: float = 1e-6,
        activation: Callable = gelu,
        lg_image_size: int | tuple[int, int] | None = None,
        multi_conv: bool = False,
        pool: str = "cls",
        key: PRNGKeyArray,
    ):
        """**Arguments:** all are keyword only.

        - `image_size`: The side of the image in pixels, or its `(height, width)`;
            multiples of `sm_patch_size`.
        - `num_classes`: The number of classes; 0 returns the features that would enter
            the two heads, joined.
        - `depth`: The number of multi-scale blocks.
        - `sm_dim`: The size of a token of the branch of small patches.
        - `sm_patch_size`: The side of a small patch.
        - `sm_enc_depth`: The number of that branch's blocks in a multi-scale block.
        - `sm_enc_heads`: The number of their attention heads.
        - `sm_enc_mlp_dim`: The size of their hidden layer.
        - `lg_dim`, `lg_patch_size`, `lg_enc_depth`, `lg_enc_heads`, `lg_enc_mlp_dim`:
            The same of the branch of large patches.
        - `cross_attn_depth`: How often in a multi-scale block a class token attends to
            the other branch's patches. (Published models: once.)
        - `cross_attn_heads`: The number of heads of this attention; a pair is for the
            class token of the small branch and of the large.
        - `sm_enc_dim_head`, `lg_enc_dim_head`: The size of a query, a key or a value,
            per head.
        - `cross_attn_dim_head`: The same in the attention across; a pair is for the
            class token of the small branch, at width `lg_dim`, and of the large, at
            `sm_dim`.
        - `channels`: The number of channels of the image.
        - `dropout`: Dropout rate inside the transformers.
        - `emb_dropout`: Dropout rate on the embedded tokens.
        - `stochastic_depth`: The rate at which the last of a branch's blocks inside a
            multi-scale block, and the attention across, are dropped; it rises linearly
            from 0 at the first.
        - `qkv_bias`: Whether queries, keys and values have a bias.
        - `norm_eps`: The `eps` of all normalisations.
        - `activation`: The activation of the feed-forward networks and projections.
        - `lg_image_size`: The size of the image for the branch of large patches,
            multiples of `lg_patch_size`; by default it is not. (Published: 224 for 240,
            384 for 408.)
        - `multi_conv`: Whether three convolutions embed the patches, of 12 and of 16
            pixels (the † models).
        - `pool`: The input of the heads: `"cls"`, the class token of a branch; or
            `"mean"`, the mean over its patches' tokens, as timm's `global_pool="avg"`.
        - `key`: A `jax.random.key` used to initialise the parameters.

        **Raises:**

        A `ValueError` that names the argument, its value and the nearest legal one.
        """
        check_numbers(CrossViT.__init__, locals())
        if lg_image_size is None:
            lg_image_size = image_size
            check_multiple("image_size", image_size, "lg_patch_size", lg_patch_size)
        check_choice("pool", pool, ("cls", "mean"))
        check_multiple("image_size", image_size, "sm_patch_size", sm_patch_size)
        check_multiple("lg_image_size", lg_image_size, "lg_patch_size", lg_patch_size)
        small_key, large_key, stack_key, head_key = jr.split(key, 4)
        self.image_size = pair(image_size)
        self.channels = channels
        self.pool = pool
        rest = (emb_dropout, multi_conv)
        self.small_embedding = Embedding(
            pair(image_size), sm_patch_size, channels, sm_dim, *rest, key=small_key
        )
        self.large_embedding = Embedding(
            pair(lg_image_size), lg_patch_size, channels, lg_dim, *rest, key=large_key
        )

        def make_encoder(dim, depth, heads, dim_head, mlp_dim, key):
            def make_block(key):
                sizes = (dim, heads, dim_head, dropout, qkv_bias)
                attention_key, mlp_key = jr.split(key)
                attention = Attention(*sizes, key=attention_key)
                mlp = FeedForward(dim, mlp_dim, dropout, activation, key=mlp_key)
                return Block(dim, attention, mlp, norm_eps)

            return Stack(make_block, depth, stochastic_depth, key=key)

        def make_fusion(dim, other_dim, heads, dim_head, key):
            cross = (cross_attn_depth, heads, dim_head, dropout)
            rest = (stochastic_depth, qkv_bias, norm_eps, activation)
            return Fusion(dim, other_dim, *cross, *rest, key=key)

        small = (sm_dim, sm_enc_depth, sm_enc_heads, sm_enc_dim_head, sm_enc_mlp_dim)
        large = (lg_dim, lg_enc_depth, lg_enc_heads, lg_enc_dim_head, lg_enc_mlp_dim)
        small_cross, large_cross = zip(
            pair(cross_attn_heads), pair(cross_attn_dim_head)
        )

        def make_multi_scale_block(key):
            key1, key2, key3, key4 = jr.split(key, 4)
            return MultiScaleBlock(
                make_encoder(*small, key1),
                make_encoder(*large, key2),
                make_fusion(sm_dim, lg_dim, *small_cross, key3),
                make_fusion(lg_dim, sm_dim, *large_cross, key4),
            )

        self.transformer = Stack(make_multi_scale_block, depth, key=stack_key)
        self.small_norm = LayerNorm(sm_dim, norm_eps)
        self.large_norm = LayerNorm(lg_dim, norm_eps)
        small_key, large_key = jr.split(head_key)
        self.small_head = (
            Linear(sm_dim, num_classes, key=small_key) if num_classes else None
        )
        self.large_head = (
            Linear(lg_dim, num_classes, key=large_key) if num_classes else None
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
        small_key, large_key, stack_key = split_key(key, 3)
        small = self.small_embedding(image, key=small_key)
        large = self.large_embedding(image, key=large_key)
        small, large = self.transformer((small, large), key=stack_key)
        if self.pool == "mean":
            small = jnp.mean(self.small_norm(small[1:]), axis=0)
            large = jnp.mean(self.large_norm(large[1:]), axis=0)
        else:
            small, large = self.small_norm(small[0]), self.large_norm(large[0])
        if self.small_head is None or self.large_head is None:
            return jnp.concatenate([small, large])
        return (self.small_head(small) + self.large_head(large)) / 2
