from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..layers import (
    AnyArray,
    Attention,
    Block,
    check_choice,
    check_multiple,
    check_numbers,
    CrossAttention,
    FeedForward,
    GatedFeedForward,
    gelu,
    LayerNorm,
    Linear,
    pair,
    PatchEmbedding,
    split_key,
    Stack,
    takes_an_image,
)


class AttentionPool(eqx.Module):
    """A learnt query attends to all tokens; a feed-forward network refines the result.

    The "MAP head" of [Scaling Vision Transformers](https://arxiv.org/abs/2106.04560).
    """

    probe: Float[Array, "1 dim"]
    attention: CrossAttention
    norm: LayerNorm
    feed_forward: FeedForward

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_dim: int,
        norm_eps: float,
        activation: Callable,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** as [`eqx_vit.ViT`][]."""
        probe_key, attention_key, mlp_key = jr.split(key, 3)
        self.probe = 0.02 * jr.normal(probe_key, (1, dim))
        self.attention = CrossAttention(
            dim, heads, dim // heads, qkv_bias=True, key=attention_key
        )
        self.norm = LayerNorm(dim, norm_eps)
        self.feed_forward = FeedForward(
            dim, mlp_dim, activation=activation, key=mlp_key
        )

    def __call__(self, x: Float[Array, "tokens dim"]) -> Float[Array, " dim"]:
        x = self.attention(self.probe.astype(x.dtype), x)
        x = x + self.feed_forward(self.norm(x))
        return x[0]


class ViT(eqx.Module):
    r"""The Vision Transformer, and what its descendants DeiT, DINOv2, CLIP and SigLIP
    changed about it.

    Cuts the image into patches, puts a learnt class token before them, adds learnt
    position embeddings, and classifies from what the transformer makes of the class
    token. The structure is the paper's as timm builds it. With the defaults, those of
    vit-flax and vit-pytorch, queries, keys and values have no bias; published weights
    want `qkv_bias=True` and `dim_head=dim // heads`. The default activation is the
    exact GELU, as in timm; Google's own code and vit-flax compute its tanh
    approximation (`eqx_vit.layers.gelu_tanh`).

    ??? cite

        [An Image is Worth 16x16 Words: Transformers for Image Recognition at
        Scale](https://arxiv.org/abs/2010.11929)

        ```bibtex
        @inproceedings{dosovitskiy2021image,
            title={An Image is Worth 16x16 Words: Transformers for Image Recognition
                   at Scale},
            author={Dosovitskiy, Alexey and Beyer, Lucas and Kolesnikov, Alexander and
                    Weissenborn, Dirk and Zhai, Xiaohua and Unterthiner, Thomas and
                    Dehghani, Mostafa and Minderer, Matthias and Heigold, Georg and
                    Gelly, Sylvain and Uszkoreit, Jakob and Houlsby, Neil},
            booktitle={International Conference on Learning Representations},
            year={2021},
        }
        ```
    """

    patch_embedding: PatchEmbedding
    class_token: Float[Array, "1 dim"] | None
    distillation_token: Float[Array, "1 dim"] | None
    register_tokens: Float[Array, "registers dim"] | None
    position_embedding: Float[Array, "positions dim"]
    dropout: eqx.nn.Dropout
    pre_norm: LayerNorm | None
    transformer: Stack
    attention_pool: AttentionPool | None
    norm: LayerNorm | None
    pre_logits: Linear | None
    head: Linear | None
    distillation_head: Linear | None
    image_size: tuple[int, int] = eqx.field(static=True)
    channels: int = eqx.field(static=True)
    pool: str = eqx.field(static=True)
    embed_prefix: bool = eqx.field(static=True)
    norm_after_pool: bool = eqx.field(static=True)

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
        layer_scale: float | None = None,
        class_token: bool = True,
        distilled: bool = False,
        register_tokens: int = 0,
        embed_prefix: bool = True,
        patch_norm: bool = False,
        pre_norm: bool = False,
        norm_after_pool: bool = False,
        final_norm: bool = True,
        gated: bool = False,
        pre_logits_dim: int | None = None,
        head_bias: bool = True,
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
        - `pool`: The input of the head: `"cls"`, the class token; `"mean"`, the mean
            over the patches' tokens; `"cls_mean"`, both of them side by side (DINOv2's
            linear classifiers); `"map"`, attention pooling over the patches' tokens
            (SigLIP).
        - `channels`: The number of channels of the image.
        - `dim_head`: The size of a query, a key or a value, per head.
        - `dropout`: Dropout rate inside the transformer.
        - `emb_dropout`: Dropout rate on the embedded tokens.
        - `stochastic_depth`: The rate at which the last block drops its branches; it
            rises linearly from 0 at the first block.
        - `qkv_bias`: Whether queries, keys and values have a bias.
        - `norm_eps`: The `eps` of all normalisations.
        - `activation`: The activation of the feed-forward networks:
            `eqx_vit.layers.gelu`, `gelu_tanh` (Google's, SigLIP 2) or `quick_gelu`
            (OpenAI's CLIP).
        - `layer_scale`: The initial value of LayerScale on both branches of a block, or
            `None` for no LayerScale (DeiT III and DINOv2 have it).
        - `class_token`: Whether there is a class token.
        - `distilled`: Whether there is DeiT's distillation token, with a head of its
            own; the logits are the mean of the two heads'.
        - `register_tokens`: The number of register tokens, which stand between the
            class token and the patches (DINOv2 with registers).
        - `embed_prefix`: Whether the class, distillation and register tokens have
            position embeddings too. (`False` in DeiT III, big_vision, and DINOv2 with
            registers.)
        - `patch_norm`: Whether patches are normalised before and after their
            projection, as in vit-pytorch.
        - `pre_norm`: Whether tokens are normalised before the first block (CLIP); the
            patch projection then has no bias.
        - `norm_after_pool`: Whether the final normalisation comes after pooling instead
            of before. (timm's `fc_norm`, which it switches on for mean pooling.)
        - `final_norm`: Whether there is a normalisation after the last block. (None in
            InternViT and RADIO.)
        - `gated`: Whether the feed-forward networks are SwiGLUs, which have three
            matrices instead of two and `silu` for their activation (DINOv2's giant).
        - `pre_logits_dim`: The size of a linear layer with tanh before the head, or
            `None` for none (ImageNet-21k weights of the paper).
        - `head_bias`: Whether the head has a bias. (CLIP's projection has none.)
        - `key`: A `jax.random.key` used to initialise the parameters.

        **Raises:**

        A `ValueError` that names the argument, its value and the nearest legal one.
        """
        check_numbers(ViT.__init__, locals())
        check_multiple("image_size", image_size, "patch_size", patch_size)
        check_choice("pool", pool, ("cls", "mean", "cls_mean", "map"))
        if pool in ("cls", "cls_mean") and not class_token:
            raise ValueError(
                f"`class_token=False` leaves `pool={pool!r}` nothing to see; use "
                "`class_token=True`, or `pool='mean'`."
            )
        if pool == "cls_mean" and norm_after_pool:
            raise ValueError(
                "`norm_after_pool=True` would normalise the class token and the mean "
                "of `pool='cls_mean'` together; use `norm_after_pool=False`."
            )
        if distilled and pool != "cls":
            raise ValueError(
                f"`pool={pool!r}` has no place for the distillation token of "
                "`distilled=True`; use `pool='cls'`."
            )
        if pool == "map":
            check_multiple("dim", dim, "heads", heads)

        patch_key, token_key, stack_key, pool_key, head_key = jr.split(key, 5)
        class_key, distillation_key, register_key, position_key = jr.split(token_key, 4)
        pre_logits_key, head_key, distillation_head_key = jr.split(head_key, 3)
        self.image_size = height, width = pair(image_size)
        self.channels = channels
        self.pool = pool
        self.embed_prefix = embed_prefix
        self.norm_after_pool = norm_after_pool

        self.patch_embedding = PatchEmbedding(
            patch_size, channels, dim, not pre_norm, patch_norm, norm_eps, key=patch_key
        )
        self.class_token = _table(class_key, int(class_token), dim)
        self.distillation_token = _table(distillation_key, int(distilled), dim)
        self.register_tokens = _table(register_key, register_tokens, dim)
        patch_height, patch_width = self.patch_embedding.patch_size
        positions = (height // patch_height) * (width // patch_width)
        if embed_prefix:
            positions += class_token + distilled + register_tokens
        self.position_embedding = 0.02 * jr.normal(position_key, (positions, dim))
        self.dropout = eqx.nn.Dropout(emb_dropout)
        self.pre_norm = LayerNorm(dim, norm_eps) if pre_norm else None

        def make_block(key):
            attention_key, mlp_key = jr.split(key)
            return Block(
                dim,
                Attention(dim, heads, dim_head, dropout, qkv_bias, key=attention_key),
                GatedFeedForward(dim, mlp_dim, dropout, key=mlp_key)
                if gated
                else FeedForward(dim, mlp_dim, dropout, activation, key=mlp_key),
                norm_eps,
                layer_scale,
            )

        self.transformer = Stack(make_block, depth, stochastic_depth, key=stack_key)
        self.attention_pool = (
            AttentionPool(dim, heads, mlp_dim, norm_eps, activation, key=pool_key)
            if pool == "map"
            else None
        )
        self.norm = LayerNorm(dim, norm_eps) if final_norm else None
        pooled_dim = 2 * dim if pool == "cls_mean" else dim
        self.pre_logits = _linear(pre_logits_key, pooled_dim, pre_logits_dim or 0)
        head_dim = pre_logits_dim or pooled_dim
        self.head = _linear(head_key, head_dim, num_classes, head_bias)
        self.distillation_head = _linear(
            distillation_head_key, head_dim, num_classes if distilled else 0, head_bias
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
        dropout_key, stack_key = split_key(key, 2)
        x = self.patch_embedding(image)
        positions = self.position_embedding.astype(x.dtype)
        tokens = (self.class_token, self.distillation_token, self.register_tokens)
        prefix = [token.astype(x.dtype) for token in tokens if token is not None]
        if self.embed_prefix:
            x = jnp.concatenate([*prefix, x]) + positions
        else:
            x = jnp.concatenate([*prefix, x + positions])
        x = self.dropout(x, key=dropout_key)
        x = x if self.pre_norm is None else self.pre_norm(x)
        x = self.transformer(x, key=stack_key)
        x = x if self.norm is None or self.norm_after_pool else self.norm(x)
        pooled = self._pooled(x, x[sum(map(len, prefix)) :])
        logits = self._classify(pooled, self.head)
        if self.distillation_token is None:
            return (logits,)
        return logits, self._classify(x[1], self.distillation_head)

    def _pooled(
        self, x: Float[Array, "tokens dim"], patches: Float[Array, "patches dim"]
    ) -> Float[Array, " pooled_dim"]:
        if self.pool == "cls":
            return x[0]
        if self.attention_pool is not None:
            return self.attention_pool(patches)
        mean = jnp.mean(patches, axis=0)
        return mean if self.pool == "mean" else jnp.concatenate([x[0], mean])

    def _classify(
        self, x: Float[Array, " dim"], head: Linear | None
    ) -> Float[Array, " classes"]:
        x = self.norm(x) if self.norm is not None and self.norm_after_pool else x
        x = x if self.pre_logits is None else jnp.tanh(self.pre_logits(x))
        return x if head is None else head(x)


def _table(key: PRNGKeyArray, rows: int, dim: int) -> Float[Array, "rows dim"] | None:
    return 0.02 * jr.normal(key, (rows, dim)) if rows else None


def _linear(
    key: PRNGKeyArray, dim: int, out_dim: int, use_bias: bool = True
) -> Linear | None:
    return Linear(dim, out_dim, use_bias, key=key) if out_dim else None
