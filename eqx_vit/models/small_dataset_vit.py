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
    Block,
    check_choice,
    check_multiple,
    check_numbers,
    FeedForward,
    gelu,
    LayerNorm,
    Linear,
    pair,
    split_key,
    Stack,
    takes_an_image,
)


class SPT(eqx.Module):
    """Shifted patch tokenization: a patch sees beyond its borders.

    The image and four copies of it, shifted along the diagonals by half a patch, are
    cut into patches together; each is normalised and projected to a token.

    [Vision Transformer for Small-Size Datasets](https://arxiv.org/abs/2112.13492).
    """

    norm: LayerNorm
    linear: Linear
    patch_size: tuple[int, int] = eqx.field(static=True)
    cardinal_shifts: bool = eqx.field(static=True)

    def __init__(
        self,
        dim: int = 1024,
        patch_size: int | tuple[int, int] = 16,
        channels: int = 3,
        norm_eps: float = 1e-5,
        cardinal_shifts: bool = False,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: The size of a token.
        - `patch_size`: The side of a patch in pixels, or its `(height, width)`.
        - `channels`: The number of channels of the image.
        - `norm_eps`: The `eps` of the normalisation.
        - `cardinal_shifts`: Whether to shift right, left, down and up by one pixel, as
            vit-pytorch and vit-flax do, and not as the authors.
        - `key`: A `jax.random.key` used to initialise the parameters. (Keyword only
            argument.)
        """
        check_numbers(SPT.__init__, locals())
        self.patch_size = pair(patch_size)
        patch_dim = 5 * channels * self.patch_size[0] * self.patch_size[1]
        self.norm = LayerNorm(patch_dim, norm_eps)
        self.linear = Linear(patch_dim, dim, key=key)
        self.cardinal_shifts = cardinal_shifts

    def __call__(
        self, image: Float[AnyArray, "height width channels"]
    ) -> Float[Array, "tokens dim"]:
        """**Arguments:**

        - `image`: An image whose sides are multiples of the patch's.

        **Returns:**

        One token per patch, row by row.
        """
        height, width, _ = image.shape
        patch_height, patch_width = self.patch_size
        down, right = patch_height // 2, patch_width // 2
        if self.cardinal_shifts:
            down = right = 1
            shifts = [(0, 1), (0, -1), (1, 0), (-1, 0)]
        else:
            shifts = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
        padded = jnp.pad(image, ((down, down), (right, right), (0, 0)))
        views = [image]
        for i, j in shifts:
            top, left = down - i * down, right - j * right
            views.append(padded[top : top + height, left : left + width])
        x = rearrange(
            jnp.concatenate(views, axis=-1),
            "(h p) (w q) c -> (h w) (p q c)",
            p=patch_height,
            q=patch_width,
        )
        return self.linear(self.norm(x))


class LocalitySelfAttention(eqx.Module):
    """Attention with a learnt temperature per head, in which no token sees itself."""

    qkv: Linear
    output: Linear
    scale: Float[Array, " heads"]
    dropout: eqx.nn.Dropout

    def __init__(
        self, dim: int, heads: int, dim_head: int, dropout: float, *, key: PRNGKeyArray
    ):
        """**Arguments:** as [`eqx_vit.SmallDatasetViT`][]."""
        qkv_key, output_key = jr.split(key)
        inner_dim = heads * dim_head
        self.qkv = Linear(dim, 3 * inner_dim, False, key=qkv_key)
        self.output = Linear(inner_dim, dim, key=output_key)
        self.scale = jnp.full(heads, dim_head**-0.5, dtype=float)
        self.dropout = eqx.nn.Dropout(dropout)

    def __call__(
        self, x: Float[Array, "tokens dim"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "tokens dim"]:
        probability_key, output_key = split_key(key, 2)
        q, k, v = rearrange(
            self.qkv(x), "n (qkv h d) -> qkv h n d", qkv=3, h=len(self.scale)
        )
        q = q * self.scale[:, None, None].astype(x.dtype)
        itself = jnp.where(jnp.eye(len(x), dtype=bool), -1e30, 0.0)
        x = attend(q, k, v, itself, 1.0, self.dropout, key=probability_key)
        x = self.dropout(self.output(x), key=output_key)
        return checkpoint_name(x, "attention_output")


class SmallDatasetViT(eqx.Module):
    r"""The Vision Transformer for small data sets: shifted patch tokenization (SPT) and
    locality self-attention (LSA).

    The structure is the authors'. They draw linear layers from Xavier's normal
    distribution with zero biases; here every one starts uniform in ±1/√(fan-in).

    ??? cite

        [Vision Transformer for Small-Size Datasets](https://arxiv.org/abs/2112.13492)

        ```bibtex
        @misc{lee2021vision,
            title={Vision Transformer for Small-Size Datasets},
            author={Lee, Seung Hoon and Lee, Seunghyun and Song, Byung Cheol},
            year={2021},
            eprint={2112.13492},
            archivePrefix={arXiv},
            primaryClass={cs.CV},
        }
        ```
    """

    patch_embedding: SPT
    class_token: Float[Array, "1 dim"]
    position_embedding: Float[Array, "positions dim"]
    dropout: eqx.nn.Dropout
    transformer: Stack
    norm: LayerNorm
    head: Linear | None
    image_size: tuple[int, int] = eqx.field(static=True)
    channels: int = eqx.field(static=True)
    pool: str = eqx.field(static=True)

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 256,
        patch_size: int | tuple[int, int] = 16,
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
        norm_eps: float = 1e-5,
        activation: Callable = gelu,
        cardinal_shifts: bool = False,
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
            over all tokens.
        - `channels`: The number of channels of the image.
        - `dim_head`: The size of a query, a key or a value, per head.
        - `dropout`: Dropout rate inside the transformer.
        - `emb_dropout`: Dropout rate on the embedded tokens.
        - `stochastic_depth`: The rate at which the last block drops its branches; it
            rises linearly from 0 at the first block.
        - `norm_eps`: The `eps` of all normalisations.
        - `activation`: The activation of the feed-forward networks.
        - `cardinal_shifts`: Whether SPT shifts by one pixel along the axes, as in
            vit-pytorch and vit-flax, instead of half a patch along the diagonals.
        - `key`: A `jax.random.key` used to initialise the parameters.

        **Raises:**

        A `ValueError` that names the argument, its value and the nearest legal one.
        """
        check_numbers(SmallDatasetViT.__init__, locals())
        check_multiple("image_size", image_size, "patch_size", patch_size)
        check_choice("pool", pool, ("cls", "mean"))
        patch_key, class_key, position_key, stack_key, head_key = jr.split(key, 5)
        self.image_size = height, width = pair(image_size)
        self.channels = channels
        self.pool = pool
        self.patch_embedding = SPT(
            dim, patch_size, channels, norm_eps, cardinal_shifts, key=patch_key
        )
        self.class_token = 0.02 * jr.normal(class_key, (1, dim))
        patch_height, patch_width = self.patch_embedding.patch_size
        positions = (height // patch_height) * (width // patch_width) + 1
        self.position_embedding = 0.02 * jr.normal(position_key, (positions, dim))
        self.dropout = eqx.nn.Dropout(emb_dropout)

        def make_block(key):
            attention_key, mlp_key = jr.split(key)
            return Block(
                dim,
                LocalitySelfAttention(dim, heads, dim_head, dropout, key=attention_key),
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
        x = self.patch_embedding(image)
        x = jnp.concatenate([self.class_token.astype(x.dtype), x])
        x = x + self.position_embedding.astype(x.dtype)
        x = self.dropout(x, key=dropout_key)
        x = self.transformer(x, key=stack_key)
        x = self.norm(x[0] if self.pool == "cls" else jnp.mean(x, axis=0))
        return x if self.head is None else self.head(x)
