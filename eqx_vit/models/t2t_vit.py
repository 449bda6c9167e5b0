from collections.abc import Callable, Sequence
from itertools import count

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..layers import (
    AnyArray,
    attend,
    Attention,
    Block,
    Buffer,
    check_choice,
    check_numbers,
    FeedForward,
    gelu,
    LayerNorm,
    Linear,
    pair,
    split_key,
    Stack,
    takes_an_image,
    unfold,
    widen,
)


class TokenTransformer(eqx.Module):
    """One attention of one head, with the values instead of the input passing it by.

    So it can change the size of a token.
    """

    norm1: LayerNorm
    qkv: Linear
    output: Linear
    norm2: LayerNorm
    feed_forward: FeedForward

    def __init__(
        self,
        dim: int,
        token_dim: int,
        norm_eps: float,
        activation: Callable,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** as [`eqx_vit.T2TViT`][]; `dim` is the size of a patch."""
        qkv_key, output_key, mlp_key = jr.split(key, 3)
        self.norm1 = LayerNorm(dim, norm_eps)
        self.qkv = Linear(dim, 3 * token_dim, False, key=qkv_key)
        self.output = Linear(token_dim, token_dim, key=output_key)
        self.norm2 = LayerNorm(token_dim, norm_eps)
        self.feed_forward = FeedForward(
            token_dim, token_dim, activation=activation, key=mlp_key
        )

    def __call__(
        self, x: Float[Array, "tokens dim"]
    ) -> Float[Array, "tokens token_dim"]:
        q, k, v = jnp.split(self.qkv(self.norm1(x)), 3, axis=-1)
        # The scale follows the size of the input, as in the authors' code.
        attended = attend(q[None], k[None], v[None], scale=x.shape[-1] ** -0.5)
        x = v + self.output(attended)
        return x + self.feed_forward(self.norm2(x))


class TokenPerformer(eqx.Module):
    """The same in linear time: softmax attention by positive random features.

    [Rethinking Attention with Performers](https://arxiv.org/abs/2009.14794).
    """

    norm1: LayerNorm
    kqv: Linear
    features: Buffer
    output: Linear
    norm2: LayerNorm
    feed_forward: FeedForward

    def __init__(
        self,
        dim: int,
        token_dim: int,
        norm_eps: float,
        activation: Callable,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** as [`eqx_vit.T2TViT`][]; `dim` is the size of a patch."""
        kqv_key, features_key, output_key, mlp_key = jr.split(key, 4)
        self.norm1 = LayerNorm(dim, norm_eps)
        self.kqv = Linear(dim, 3 * token_dim, key=kqv_key)
        num_features = max(1, token_dim // 2)
        features = jr.orthogonal(features_key, token_dim)[:num_features]
        self.features = Buffer(num_features**0.5 * features)
        self.output = Linear(token_dim, token_dim, key=output_key)
        self.norm2 = LayerNorm(token_dim, norm_eps)
        self.feed_forward = FeedForward(
            token_dim, token_dim, activation=activation, key=mlp_key
        )

    def __call__(
        self, x: Float[Array, "tokens dim"]
    ) -> Float[Array, "tokens token_dim"]:
        k, q, v = jnp.split(self.kqv(self.norm1(x)), 3, axis=-1)
        k, q = self._project(k), self._project(q)
        total = q @ jnp.sum(k, axis=0)
        attended = (q @ (k.T @ widen(v))) / (total[:, None] + 1e-8)
        x = v + self.output(attended.astype(x.dtype))
        return x + self.feed_forward(self.norm2(x))

    def _project(
        self, x: Float[Array, "tokens token_dim"]
    ) -> Float[Array, "tokens features"]:
        x, features = widen(x), self.features.value
        square = jnp.sum(jnp.square(x), axis=-1, keepdims=True) / 2
        return jnp.exp(x @ features.T.astype(x.dtype) - square) / len(features) ** 0.5


def sinusoids(positions: int, dim: int) -> Float[np.ndarray, "positions dim"]:
    """The fixed position table of "Attention Is All You Need".

    **Arguments:**

    - `positions`: The number of rows.
    - `dim`: The size of a token; even columns are sines, odd ones cosines.
    """
    columns = np.arange(dim)
    phases = np.arange(positions)[:, None] / 10_000 ** (2 * (columns // 2) / dim)
    table = np.where(columns % 2 == 0, np.sin(phases), np.cos(phases))
    return table.astype(np.float32)


def _splits(side: int, layers: tuple[tuple[int, int], ...]) -> int:
    """The side of the grid of tokens that the soft splits leave; 0 if there is none."""
    for kernel, stride in layers:
        side += 2 * (stride // 2)
        if side < kernel:
            return 0
        side = (side - kernel) // stride + 1
    return side


def token_grid(
    image_size: int | tuple[int, int], t2t_layers: tuple[tuple[int, int], ...]
) -> tuple[int, int]:
    """The `(height, width)` of the grid of tokens that the soft splits leave.

    Raises a `ValueError` if there is none.
    """
    height, width = pair(image_size)
    shown = height if height == width else (height, width)
    for side in (height, width):
        if not _splits(side, t2t_layers):
            larger = (n for n in count(side) if _splits(n, t2t_layers))
            raise ValueError(
                f"`image_size={shown}` leaves no whole window to "
                f"`t2t_layers={t2t_layers}`; the nearest legal value is "
                f"{next(larger)}."
            )
    height, width = (_splits(side, t2t_layers) for side in pair(image_size))
    return height, width


class T2TViT(eqx.Module):
    r"""Tokens-to-Token ViT: neighbouring tokens are joined, step by step, into few.

    Each step unfolds overlapping windows of the map of tokens (the "soft split") and
    lets the results attend to each other at a small width, before the last is projected
    to the width of the backbone. Positions are a fixed table, which published files
    hold, and so do the random features of the performer: neither is trained. The
    structure is the authors'; vit-pytorch and vit-flax keep the full width of the
    unfolded windows instead.

    ??? cite

        [Tokens-to-Token ViT: Training Vision Transformers from Scratch on
        ImageNet](https://arxiv.org/abs/2101.11986)

        ```bibtex
        @inproceedings{yuan2021tokens,
            title={Tokens-to-Token ViT: Training Vision Transformers from Scratch on
                   ImageNet},
            author={Yuan, Li and Chen, Yunpeng and Wang, Tao and Yu, Weihao and
                    Shi, Yujun and Jiang, Zi-Hang and Tay, Francis E. H. and
                    Feng, Jiashi and Yan, Shuicheng},
            booktitle={IEEE/CVF International Conference on Computer Vision},
            year={2021},
        }
        ```
    """

    # Each works at another width, so they cannot be stacked.
    token_attentions: tuple[TokenTransformer | TokenPerformer, ...]
    projection: Linear
    class_token: Float[Array, "1 dim"]
    position_embedding: Buffer
    dropout: eqx.nn.Dropout
    transformer: Stack
    norm: LayerNorm
    head: Linear | None
    image_size: tuple[int, int] = eqx.field(static=True)
    channels: int = eqx.field(static=True)
    pool: str = eqx.field(static=True)
    t2t_layers: tuple[tuple[int, int], ...] = eqx.field(static=True)

    def __init__(
        self,
        *,
        dim: int = 512,
        image_size: int | tuple[int, int] = 224,
        depth: int = 5,
        heads: int = 8,
        mlp_dim: int = 512,
        num_classes: int = 1000,
        pool: str = "cls",
        channels: int = 3,
        dim_head: int = 64,
        dropout: float = 0.0,
        emb_dropout: float = 0.0,
        t2t_layers: Sequence[Sequence[int]] = ((7, 4), (3, 2), (3, 2)),
        stochastic_depth: float = 0.0,
        token_dim: int = 64,
        performer: bool = False,
        qkv_bias: bool = False,
        norm_eps: float = 1e-5,
        activation: Callable = gelu,
        key: PRNGKeyArray,
    ):
        """**Arguments:** all are keyword only.

        - `dim`: The size of a token of the backbone.
        - `image_size`: The side of the image in pixels, or its `(height, width)`.
        - `depth`: The number of transformer blocks of the backbone.
        - `heads`: The number of attention heads in such a block.
        - `mlp_dim`: The size of the hidden layer of its feed-forward network.
        - `num_classes`: The number of classes; 0 returns the features that would enter
            the head.
        - `pool`: The input of the head: `"cls"`, the class token, or `"mean"`, the mean
            over the other tokens.
        - `channels`: The number of channels of the image.
        - `dim_head`: The size of a query, a key or a value, per head.
        - `dropout`: Dropout rate inside the backbone.
        - `emb_dropout`: Dropout rate on the embedded tokens.
        - `t2t_layers`: The kernel and the stride of every soft split; each pads by half
            its stride, rounded down.
        - `stochastic_depth`: The rate at which the last block drops its branches; it
            rises linearly from 0 at the first block.
        - `token_dim`: The width at which tokens attend to each other between two
            splits.
        - `performer`: Whether they do so by random features, in linear time, as in the
            published models without a `_t`.
        - `qkv_bias`: Whether the backbone's queries, keys and values have a bias.
        - `norm_eps`: The `eps` of all normalisations.
        - `activation`: The activation of the feed-forward networks.
        - `key`: A `jax.random.key` used to initialise the parameters.

        **Raises:**

        A `ValueError` that names the argument, its value and the nearest legal one.
        """
        check_numbers(T2TViT.__init__, locals())
        check_choice("pool", pool, ("cls", "mean"))
        self.image_size = pair(image_size)
        self.channels = channels
        self.pool = pool
        layers = []
        for layer in t2t_layers:
            if len(layer) != 2 or min(layer) < 1:
                raise ValueError(
                    f"`t2t_layers={t2t_layers}` must hold pairs of a kernel and a "
                    "stride, both at least 1, such as (3, 2)."
                )
            layers.append((layer[0], layer[1]))
        if not layers:
            raise ValueError("`t2t_layers=()` must hold a pair such as (7, 4).")
        self.t2t_layers = tuple(layers)
        height, width = token_grid(image_size, self.t2t_layers)

        token_key, projection_key, class_key, stack_key, head_key = jr.split(key, 5)
        attention = TokenPerformer if performer else TokenTransformer
        widths = [channels] + [token_dim] * (len(layers) - 1)
        *patch_dims, last = (w * kernel**2 for w, (kernel, _) in zip(widths, layers))
        self.token_attentions = tuple(
            attention(patch_dim, token_dim, norm_eps, activation, key=key)
            for patch_dim, key in zip(patch_dims, jr.split(token_key, len(layers)))
        )
        self.projection = Linear(last, dim, key=projection_key)
        self.class_token = 0.02 * jr.normal(class_key, (1, dim))
        self.position_embedding = Buffer(
            jnp.asarray(sinusoids(height * width + 1, dim))
        )
        self.dropout = eqx.nn.Dropout(emb_dropout)

        def make_block(key):
            attention_key, mlp_key = jr.split(key)
            return Block(
                dim,
                Attention(dim, heads, dim_head, dropout, qkv_bias, key=attention_key),
                FeedForward(dim, mlp_dim, dropout, activation, key=mlp_key),
                norm_eps,
            )

        self.transformer = Stack(make_block, depth, stochastic_depth, key=stack_key)
        self.norm = LayerNorm(dim, norm_eps)
        self.head = Linear(dim, num_classes, key=head_key) if num_classes else None

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
        dropout_key, stack_key = split_key(key, 2)
        x = jnp.asarray(image)
        for i, (kernel, stride) in enumerate(self.t2t_layers):
            x = unfold(x, kernel, stride, stride // 2)
            if i < len(self.token_attentions):
                tokens = self.token_attentions[i](x.reshape(-1, x.shape[-1]))
                x = tokens.reshape(*x.shape[:2], -1)
        x = self.projection(x.reshape(-1, x.shape[-1]))
        x = jnp.concatenate([self.class_token.astype(x.dtype), x])
        x = x + self.position_embedding.value.astype(x.dtype)
        x = self.dropout(x, key=dropout_key)
        x = self.norm(self.transformer(x, key=stack_key))
        x = x[0] if self.pool == "cls" else jnp.mean(x[1:], axis=0)
        return x if self.head is None else self.head(x)
