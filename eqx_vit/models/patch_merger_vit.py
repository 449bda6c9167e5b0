from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from ..layers import (
    AnyArray,
    Attention,
    Block,
    check_at_least,
    check_multiple,
    check_numbers,
    FeedForward,
    gelu,
    LayerNorm,
    Linear,
    linear_rates,
    pair,
    PatchEmbedding,
    softmax,
    split_key,
    Stack,
    takes_an_image,
)


class PatchMerger(eqx.Module):
    """Merges any number of tokens into a few, each an average that a learnt query
    weights.

    [Learning to Merge Tokens in Vision Transformers](https://arxiv.org/abs/2202.12015).
    """

    norm: LayerNorm
    queries: Float[Array, "num_tokens_out dim"]

    def __init__(
        self,
        dim: int = 1024,
        num_tokens_out: int = 8,
        norm_eps: float = 1e-5,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: The size of a token.
        - `num_tokens_out`: The number of tokens that come out.
        - `norm_eps`: The `eps` of the normalisation.
        - `key`: A `jax.random.key` used to initialise the parameters. (Keyword only
            argument.)
        """
        check_numbers(PatchMerger.__init__, locals())
        self.norm = LayerNorm(dim, norm_eps)
        self.queries = jr.normal(key, (num_tokens_out, dim))

    def __call__(
        self, x: Float[Array, "tokens {self.queries.shape[1]}"]
    ) -> Float[Array, "{self.queries.shape[0]} {self.queries.shape[1]}"]:
        """**Arguments:**

        - `x`: The tokens of one image.

        **Returns:**

        `num_tokens_out` averages of the normalised tokens.
        """
        x = self.norm(x)
        queries = self.queries.astype(x.dtype) * x.shape[-1] ** -0.5
        return checkpoint_name(softmax(queries @ x.T), "merge") @ x


class PatchMergerViT(eqx.Module):
    r"""The Vision Transformer that merges its patches half way.

    After some blocks a [`eqx_vit.PatchMerger`][] leaves a few tokens to the rest. No
    code of the authors exists; the structure is vit-pytorch's, whose two normalisations
    around the patch projection are `patch_norm=True`.

    ??? cite

        [Learning to Merge Tokens in Vision
        Transformers](https://arxiv.org/abs/2202.12015)

        ```bibtex
        @misc{renggli2022learning,
            title={Learning to Merge Tokens in Vision Transformers},
            author={Renggli, Cedric and Pinto, Andr{\'e} Susano and Houlsby, Neil and
                    Mustafa, Basil and Puigcerver, Joan and Riquelme, Carlos},
            year={2022},
            eprint={2202.12015},
            archivePrefix={arXiv},
            primaryClass={cs.CV},
        }
        ```
    """

    patch_embedding: PatchEmbedding
    position_embedding: Float[Array, "tokens dim"]
    dropout: eqx.nn.Dropout
    before: Stack
    patch_merger: PatchMerger
    after: Stack
    norm: LayerNorm
    head: Linear | None
    image_size: tuple[int, int] = eqx.field(static=True)
    channels: int = eqx.field(static=True)

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 256,
        patch_size: int | tuple[int, int] = 16,
        num_classes: int = 1000,
        dim: int = 1024,
        depth: int = 12,
        heads: int = 8,
        mlp_dim: int = 2048,
        patch_merge_layer: int | None = None,
        patch_merge_num_tokens: int = 8,
        channels: int = 3,
        dim_head: int = 64,
        dropout: float = 0.0,
        emb_dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        qkv_bias: bool = False,
        norm_eps: float = 1e-5,
        activation: Callable = gelu,
        patch_norm: bool = False,
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
        - `patch_merge_layer`: After how many blocks the patches are merged, from 1 to
            `depth - 1`; by default `depth // 2`.
        - `patch_merge_num_tokens`: How many tokens are left.
        - `channels`: The number of channels of the image.
        - `dim_head`: The size of a query, a key or a value, per head.
        - `dropout`: Dropout rate inside the transformer.
        - `emb_dropout`: Dropout rate on the embedded tokens.
        - `stochastic_depth`: The rate at which the last block drops its branches; it
            rises linearly from 0 at the first block.
        - `qkv_bias`: Whether queries, keys and values have a bias.
        - `norm_eps`: The `eps` of all normalisations.
        - `activation`: The activation of the feed-forward networks.
        - `patch_norm`: Whether patches are normalised before and after their
            projection, as in vit-pytorch.
        - `key`: A `jax.random.key` used to initialise the parameters.

        **Raises:**

        A `ValueError` that names the argument, its value and the nearest legal one.
        """
        check_numbers(PatchMergerViT.__init__, locals())
        check_at_least(2, depth=depth)  # the merger stands between two blocks
        check_multiple("image_size", image_size, "patch_size", patch_size)
        merge_layer = depth // 2 if patch_merge_layer is None else patch_merge_layer
        if not 1 <= merge_layer < depth:
            raise ValueError(
                f"`patch_merge_layer={patch_merge_layer}` is not between two of the "
                f"`depth={depth}` blocks; the nearest legal value is "
                f"{min(max(merge_layer, 1), depth - 1)}."
            )
        patch_key, position_key, key, merger_key, head_key = jr.split(key, 5)
        before_key, after_key = jr.split(key)
        self.image_size = height, width = pair(image_size)
        self.channels = channels
        self.patch_embedding = PatchEmbedding(
            patch_size, channels, dim, True, patch_norm, norm_eps, key=patch_key
        )
        patch_height, patch_width = self.patch_embedding.patch_size
        positions = (height // patch_height) * (width // patch_width)
        self.position_embedding = 0.02 * jr.normal(position_key, (positions, dim))
        self.dropout = eqx.nn.Dropout(emb_dropout)

        def make_block(key):
            attention_key, mlp_key = jr.split(key)
            return Block(
                dim,
                Attention(dim, heads, dim_head, dropout, qkv_bias, key=attention_key),
                FeedForward(dim, mlp_dim, dropout, activation, key=mlp_key),
                norm_eps,
            )

        rates = linear_rates(stochastic_depth, depth)
        self.before = Stack(
            make_block, merge_layer, rates[:merge_layer], key=before_key
        )
        self.patch_merger = PatchMerger(
            dim, patch_merge_num_tokens, norm_eps, key=merger_key
        )
        self.after = Stack(
            make_block, depth - merge_layer, rates[merge_layer:], key=after_key
        )
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
        dropout_key, before_key, after_key = split_key(key, 3)
        x = self.patch_embedding(image)
        x = x + self.position_embedding.astype(x.dtype)
        x = self.dropout(x, key=dropout_key)
        x = self.patch_merger(self.before(x, key=before_key))
        x = self.norm(self.after(x, key=after_key))
        x = jnp.mean(x, axis=0)
        return x if self.head is None else self.head(x)
