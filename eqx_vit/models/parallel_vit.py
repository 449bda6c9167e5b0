from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from ..layers import (
    AnyArray,
    attend,
    Attention,
    check_choice,
    check_multiple,
    check_numbers,
    FeedForward,
    gelu,
    LayerNorm,
    LayerScale,
    Linear,
    pair,
    PatchEmbedding,
    split_key,
    Stack,
    stacked,
    StochasticDepth,
    takes_an_image,
)


class Branch(eqx.Module):
    """A normalisation, then attention or a feed-forward network."""

    norm: LayerNorm
    layer: Callable
    layer_scale: LayerScale | None
    stochastic_depth: StochasticDepth

    def __init__(
        self, dim: int, layer: Callable, norm_eps: float, layer_scale: float | None
    ):
        """**Arguments:** as [`eqx_vit.ParallelViT`][]; `layer` comes after the norm."""
        self.norm = LayerNorm(dim, norm_eps)
        self.layer = layer
        self.layer_scale = None if layer_scale is None else LayerScale(dim, layer_scale)
        self.stochastic_depth = StochasticDepth()

    def __call__(
        self,
        x: Float[Array, "tokens dim"],
        drop_rate: float | Float[Array, ""],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "tokens dim"]:
        layer_key, depth_key = split_key(key, 2)
        x = self.layer(self.norm(x), key=layer_key)
        return self.finish(x, drop_rate, key=depth_key)

    def finish(
        self,
        x: Float[Array, "tokens dim"],
        drop_rate: float | Float[Array, ""],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "tokens dim"]:
        """LayerScale and stochastic depth, of the output of the layer."""
        x = x if self.layer_scale is None else self.layer_scale(x)
        return self.stochastic_depth(x, drop_rate, key=key)


class ParallelBlock(eqx.Module):
    """The sum of parallel attentions, then the sum of parallel feed-forwards.

    The arrays of `attentions` and `feed_forwards` carry a leading axis of branches. All
    heads of all branches attend at once; the linear layers take turns, since products
    that are batched over weights are slow.
    """

    attentions: Branch
    feed_forwards: Branch
    num_branches: int = eqx.field(static=True)

    def __init__(
        self,
        make_attention: Callable[[PRNGKeyArray], Branch],
        make_feed_forward: Callable[[PRNGKeyArray], Branch],
        num_branches: int,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `make_attention`, `make_feed_forward`: Make a branch from a key.
        - `num_branches`: How many of each.
        - `key`: Randomness for the parameters. (Keyword only argument.)
        """
        attention_key, mlp_key = jr.split(key)
        attention_keys = jr.split(attention_key, num_branches)
        self.attentions = stacked(make_attention, attention_keys)
        mlp_keys = jr.split(mlp_key, num_branches)
        self.feed_forwards = stacked(make_feed_forward, mlp_keys)
        self.num_branches = num_branches

    def __call__(
        self,
        x: Float[Array, "tokens dim"],
        drop_rate: float | Float[Array, ""] = 0.0,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "tokens dim"]:
        attention_key, mlp_key = split_key(key, 2)
        x = x + self._attend(x, drop_rate, attention_key)
        branches = self._branches(self.feed_forwards)
        keys = split_key(mlp_key, self.num_branches)
        x = x + sum(f(x, drop_rate, key=key) for f, key in zip(branches, keys))
        return checkpoint_name(x, "block")

    def _attend(self, x, drop_rate, key):
        branches = self._branches(self.attentions)
        probability_key, merge_key, depth_key = split_key(key, 3)
        merge_keys = split_key(merge_key, self.num_branches)
        depth_keys = split_key(depth_key, self.num_branches)
        parts = [branch.layer.project(branch.norm(x)) for branch in branches]
        q, k, v = map(jnp.stack, zip(*parts))
        dropout = branches[0].layer.dropout
        attended = attend(q, k, v, dropout=dropout, key=probability_key)
        return sum(
            branch.finish(branch.layer.merge(y, key=merge_key), drop_rate, key=key)
            for branch, y, merge_key, key in zip(
                branches, attended, merge_keys, depth_keys
            )
        )

    def _branches(self, stack):
        arrays, static = eqx.partition(stack, eqx.is_array)
        row = lambda i: jax.tree.map(lambda array: array[i], arrays)
        return [eqx.combine(row(i), static) for i in range(self.num_branches)]


class ParallelViT(eqx.Module):
    r"""The Vision Transformer with parallel branches.

    Pairs of blocks of a ViT are rearranged so that their attentions run beside each
    other, then their feed-forward networks: half the depth, twice the width. The
    structure is DeiT's "three things" as timm's `ParallelThingsBlock` builds it.

    ??? cite

        [Three things everyone should know about Vision
        Transformers](https://arxiv.org/abs/2203.09795)

        ```bibtex
        @inproceedings{touvron2022three,
            title={Three things everyone should know about Vision Transformers},
            author={Touvron, Hugo and Cord, Matthieu and El-Nouby, Alaaeldin and
                    Verbeek, Jakob and J{\'e}gou, Herv{\'e}},
            booktitle={European Conference on Computer Vision},
            year={2022},
        }
        ```
    """

    patch_embedding: PatchEmbedding
    class_token: Float[Array, "1 dim"]
    position_embedding: Float[Array, "positions dim"]
    dropout: eqx.nn.Dropout
    transformer: Stack
    norm: LayerNorm
    head: Linear | None
    image_size: tuple[int, int] = eqx.field(static=True)
    channels: int = eqx.field(static=True)
    pool: str = eqx.field(static=True)
    embed_prefix: bool = eqx.field(static=True)

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 256,
        patch_size: int | tuple[int, int] = 16,
        num_classes: int = 1000,
        dim: int = 1024,
        depth: int = 6,
        heads: int = 8,
        mlp_dim: int = 2048,
        pool: str = "cls",
        num_parallel_branches: int = 2,
        channels: int = 3,
        dim_head: int = 64,
        dropout: float = 0.0,
        emb_dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        qkv_bias: bool = False,
        norm_eps: float = 1e-6,
        activation: Callable = gelu,
        layer_scale: float | None = None,
        embed_prefix: bool = True,
        key: PRNGKeyArray,
    ):
        """**Arguments:** all are keyword only.

        - `image_size`: The side of the image in pixels, or its `(height, width)`;
            multiples of `patch_size`.
        - `patch_size`: The side of a patch in pixels, or its `(height, width)`.
        - `num_classes`: The number of classes; 0 returns the features that would enter
            the head.
        - `dim`: The size of a token.
        - `depth`: The number of blocks, each of `num_parallel_branches` attentions and
            as many feed-forward networks.
        - `heads`: The number of heads of an attention.
        - `mlp_dim`: The size of the hidden layer of a feed-forward network.
        - `pool`: The input of the head: `"cls"`, the class token, or `"mean"`, the mean
            over the patches' tokens.
        - `num_parallel_branches`: The number of parallel branches.
        - `channels`: The number of channels of the image.
        - `dim_head`: The size of a query, a key or a value, per head.
        - `dropout`: Dropout rate inside the transformer.
        - `emb_dropout`: Dropout rate on the embedded tokens.
        - `stochastic_depth`: The rate at which the last block drops each of its
            branches; it rises linearly from 0 at the first block.
        - `qkv_bias`: Whether queries, keys and values have a bias.
        - `norm_eps`: The `eps` of all normalisations.
        - `activation`: The activation of the feed-forward networks.
        - `layer_scale`: The initial value of LayerScale on every branch, or `None` for
            no LayerScale.
        - `embed_prefix`: Whether the class token has a position embedding too. (In the
            paper's code it has not.)
        - `key`: A `jax.random.key` used to initialise the parameters.

        **Raises:**

        A `ValueError` that names the argument, its value and the nearest legal one.
        """
        check_numbers(ParallelViT.__init__, locals())
        check_multiple("image_size", image_size, "patch_size", patch_size)
        check_choice("pool", pool, ("cls", "mean"))
        patch_key, class_key, position_key, stack_key, head_key = jr.split(key, 5)
        self.image_size = height, width = pair(image_size)
        self.channels = channels
        self.pool = pool
        self.embed_prefix = embed_prefix
        self.patch_embedding = PatchEmbedding(patch_size, channels, dim, key=patch_key)
        self.class_token = 0.02 * jr.normal(class_key, (1, dim))
        patch_height, patch_width = self.patch_embedding.patch_size
        positions = (height // patch_height) * (width // patch_width) + embed_prefix
        self.position_embedding = 0.02 * jr.normal(position_key, (positions, dim))
        self.dropout = eqx.nn.Dropout(emb_dropout)

        def make_attention(key):
            layer = Attention(dim, heads, dim_head, dropout, qkv_bias, key=key)
            return Branch(dim, layer, norm_eps, layer_scale)

        def make_feed_forward(key):
            layer = FeedForward(dim, mlp_dim, dropout, activation, key=key)
            return Branch(dim, layer, norm_eps, layer_scale)

        def make_block(key):
            makers = make_attention, make_feed_forward
            return ParallelBlock(*makers, num_parallel_branches, key=key)

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
        class_token = self.class_token.astype(x.dtype)
        positions = self.position_embedding.astype(x.dtype)
        if self.embed_prefix:
            x = jnp.concatenate([class_token, x]) + positions
        else:
            x = jnp.concatenate([class_token, x + positions])
        x = self.dropout(x, key=dropout_key)
        x = self.norm(self.transformer(x, key=stack_key))
        x = x[0] if self.pool == "cls" else jnp.mean(x[1:], axis=0)
        return x if self.head is None else self.head(x)
