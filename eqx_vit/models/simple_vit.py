from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..layers import (
    AnyArray,
    Attention,
    Block,
    check_at_least,
    check_multiple,
    check_numbers,
    FeedForward,
    gelu_tanh,
    LayerNorm,
    Linear,
    pair,
    PatchEmbedding,
    Stack,
    takes_an_image,
)


def sincos_2d(
    grid: tuple[int, int], dim: int, temperature: float = 10_000.0
) -> Float[np.ndarray, "tokens dim"]:
    """The fixed position table: sine and cosine of the column, then of the row.

    **Arguments:**

    - `grid`: The number of rows and of columns of patches.
    - `dim`: The size of a token, a multiple of 4 and at least 8.
    - `temperature`: The longest wavelength, divided by 2π, in patches.
    """
    frequencies = temperature ** -(np.arange(dim // 4) / (dim // 4 - 1))
    rows, columns = (
        index.reshape(-1, 1) * frequencies for index in np.indices(grid, float)
    )
    waves = [np.sin(columns), np.cos(columns), np.sin(rows), np.cos(rows)]
    return np.concatenate(waves, axis=1, dtype=np.float32)


class SimpleViT(eqx.Module):
    r"""The plainer Vision Transformer of "Better plain ViT baselines".

    No class token and no dropout: fixed two-dimensional sine and cosine position
    embeddings, and a head on the mean of the tokens. The structure is big_vision's,
    tanh GELU included; its checkpoints want `qkv_bias=True, output_bias=True,
    dim_head=dim // heads, pre_logits_dim=dim`. The defaults without these biases are
    vit-flax's and vit-pytorch's. (vit-flax's example passes the image channels first;
    here as everywhere channels come last.)

    ??? cite

        [Better plain ViT baselines for
        ImageNet-1k](https://arxiv.org/abs/2205.01580)

        ```bibtex
        @misc{beyer2022better,
            title={Better plain ViT baselines for ImageNet-1k},
            author={Beyer, Lucas and Zhai, Xiaohua and Kolesnikov, Alexander},
            year={2022},
            eprint={2205.01580},
            archivePrefix={arXiv},
            primaryClass={cs.CV},
        }
        ```
    """

    patch_embedding: PatchEmbedding
    transformer: Stack
    norm: LayerNorm
    pre_logits: Linear | None
    head: Linear | None
    image_size: tuple[int, int] = eqx.field(static=True)
    channels: int = eqx.field(static=True)

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
        channels: int = 3,
        dim_head: int = 64,
        stochastic_depth: float = 0.0,
        qkv_bias: bool = False,
        output_bias: bool = False,
        norm_eps: float = 1e-6,
        activation: Callable = gelu_tanh,
        patch_norm: bool = False,
        pre_logits_dim: int | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:** all are keyword only.

        - `image_size`: The side of the image in pixels, or its `(height, width)`;
            multiples of `patch_size`.
        - `patch_size`: The side of a patch in pixels, or its `(height, width)`.
        - `num_classes`: The number of classes; 0 returns the features that would enter
            the head.
        - `dim`: The size of a token; a multiple of 4, at least 8.
        - `depth`: The number of transformer blocks.
        - `heads`: The number of attention heads in a block.
        - `mlp_dim`: The size of the hidden layer of the feed-forward network.
        - `channels`: The number of channels of the image.
        - `dim_head`: The size of a query, a key or a value, per head.
        - `stochastic_depth`: The rate at which the last block drops its branches; it
            rises linearly from 0 at the first block.
        - `qkv_bias`: Whether queries, keys and values have a bias.
        - `output_bias`: Whether the output projection of attention has a bias.
        - `norm_eps`: The `eps` of all normalisations.
        - `activation`: The activation of the feed-forward networks.
        - `patch_norm`: Whether patches are normalised before and after their
            projection, as in vit-pytorch.
        - `pre_logits_dim`: The size of a linear layer with tanh before the head, or
            `None` for none. (big_vision's checkpoints have one, of size `dim`.)
        - `key`: A `jax.random.key` used to initialise the parameters.

        **Raises:**

        A `ValueError` that names the argument, its value and the nearest legal one.
        """
        check_numbers(SimpleViT.__init__, locals())
        check_at_least(8, dim=dim)
        check_multiple("dim", dim, "4, a sine and a cosine for each of two axes", 4)
        check_multiple("image_size", image_size, "patch_size", patch_size)
        patch_key, stack_key, pre_logits_key, head_key = jr.split(key, 4)
        self.patch_embedding = PatchEmbedding(
            patch_size, channels, dim, norm=patch_norm, norm_eps=norm_eps, key=patch_key
        )

        def make_block(key):
            attention_key, mlp_key = jr.split(key)
            biases = {"qkv_bias": qkv_bias, "output_bias": output_bias}
            return Block(
                dim,
                Attention(dim, heads, dim_head, **biases, key=attention_key),
                FeedForward(dim, mlp_dim, activation=activation, key=mlp_key),
                norm_eps,
            )

        self.transformer = Stack(make_block, depth, stochastic_depth, key=stack_key)
        self.norm = LayerNorm(dim, norm_eps)
        self.pre_logits = (
            Linear(dim, pre_logits_dim, key=pre_logits_key) if pre_logits_dim else None
        )
        self.head = (
            Linear(pre_logits_dim or dim, num_classes, key=head_key)
            if num_classes
            else None
        )
        self.image_size = pair(image_size)
        self.channels = channels

    @property
    def position_embedding(self) -> Float[np.ndarray, "tokens dim"]:
        """The fixed position table, a row per patch; not a parameter."""
        sides = zip(self.image_size, self.patch_embedding.patch_size)
        height, width = (side // patch for side, patch in sides)
        return sincos_2d((height, width), len(self.norm.weight))

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
        - `key`: A `jax.random.key` used for stochastic depth; not needed without, or in
            `equinox.nn.inference_mode`. (Keyword only argument.)

        **Returns:**

        The logits, of shape `(num_classes,)`.

        **Raises:**

        A `jaxtyping.TypeCheckError` if the image has another shape.
        """
        x = self.patch_embedding(image)
        x = x + jnp.asarray(self.position_embedding, x.dtype)
        x = self.norm(self.transformer(x, key=key))
        x = jnp.mean(x, axis=0)
        x = x if self.pre_logits is None else jnp.tanh(self.pre_logits(x))
        return x if self.head is None else self.head(x)
