import functools
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange, reduce
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..layers import (
    AnyArray,
    Attention,
    Block,
    check_multiple,
    check_numbers,
    Conv,
    FeedForward,
    gelu,
    hidden_dim,
    join_windows,
    LayerNorm,
    Linear,
    linear_rates,
    pair,
    PatchEmbedding,
    per_stage,
    split_key,
    split_windows,
    Stack,
    takes_an_image,
    windows,
)


class Aggregation(eqx.Module):
    """Block aggregation: halves the map, and only here do blocks exchange anything."""

    conv: Conv
    norm: LayerNorm

    def __init__(self, dim: int, out_dim: int, norm_eps: float, *, key: PRNGKeyArray):
        """**Arguments:** the number of channels before and after."""
        self.conv = Conv(dim, out_dim, 3, padding=1, key=key)
        self.norm = LayerNorm(out_dim, norm_eps)

    def __call__(
        self, x: Float[Array, "height width dim"]
    ) -> Float[Array, "half_height half_width out_dim"]:
        x = self.norm(self.conv(x))
        # TensorFlow's SAME padding: nothing above and to the left.
        x = jnp.pad(x, ((0, 1), (0, 1), (0, 0)), constant_values=-jnp.inf)
        return functools.reduce(jnp.maximum, windows(x, 3, 2, 0))


class Level(eqx.Module):
    """A transformer within each block of the map."""

    position_embedding: Float[Array, "blocks tokens dim"]
    transformer: Stack
    block_size: tuple[int, int] = eqx.field(static=True)

    def __init__(
        self,
        num_blocks: int,
        block_size: tuple[int, int],
        make_block: Callable,
        dim: int,
        drop_rates: tuple[float, ...],
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** the number of blocks; their `(height, width)` in tokens; and
        as [`eqx_vit.layers.Stack`][]."""
        position_key, transformer_key = jr.split(key)
        shape = (num_blocks, block_size[0] * block_size[1], dim)
        self.position_embedding = 0.02 * jr.normal(position_key, shape)
        self.transformer = Stack(
            make_block, len(drop_rates), drop_rates, key=transformer_key
        )
        self.block_size = block_size

    def __call__(
        self,
        x: Float[Array, "height width dim"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "height width dim"]:
        width = x.shape[1]
        x = split_windows(x, self.block_size)
        x = self.transformer(x + self.position_embedding.astype(x.dtype), key=key)
        return checkpoint_name(join_windows(x, self.block_size, width), "stage")


class NesT(eqx.Module):
    r"""The nested hierarchical transformer: transformers within the blocks of an image,
    four of which are merged into one at every level.

    The structure is Google's, as timm builds it too. Departures of vit-pytorch that are
    not followed: one number per position instead of a table per block, normalisations
    around the patches, pooling that is padded on both sides.

    See [`eqx_vit.models.grad_cat`][] for the paper's way to explain a prediction.

    ??? cite

        [Nested Hierarchical Transformer: Towards Accurate, Data-Efficient and
        Interpretable Visual Understanding](https://arxiv.org/abs/2105.12723)

        ```bibtex
        @inproceedings{zhang2022nested,
            title={Nested Hierarchical Transformer: Towards Accurate, Data-Efficient and
                   Interpretable Visual Understanding},
            author={Zhang, Zizhao and Zhang, Han and Zhao, Long and Chen, Ting and
                    Arik, Sercan {\"O} and Pfister, Tomas},
            booktitle={AAAI Conference on Artificial Intelligence},
            year={2022},
        }
        ```
    """

    patch_embedding: PatchEmbedding
    dropout: eqx.nn.Dropout
    # Levels differ in width, so that each has a stack of its own.
    levels: tuple[Level, ...]
    aggregations: tuple[Aggregation, ...]
    norm: LayerNorm
    head: Linear | None
    image_size: tuple[int, int] = eqx.field(static=True)
    channels: int = eqx.field(static=True)

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 4,
        num_classes: int = 1000,
        dim: int | tuple[int, ...] = 96,
        heads: int | tuple[int, ...] = 3,
        num_hierarchies: int = 3,
        block_repeats: int | tuple[int, ...] = (2, 2, 8),
        mlp_mult: float | tuple[float, ...] = 4,
        channels: int = 3,
        dropout: float = 0.0,
        emb_dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        qkv_bias: bool = True,
        norm_eps: float = 1e-6,
        activation: Callable = gelu,
        key: PRNGKeyArray,
    ):
        """**Arguments:** all are keyword only.

        - `image_size`: The side of the image in pixels, or its `(height, width)`;
            multiples of `patch_size * 2**(num_hierarchies - 1)`.
        - `patch_size`: The side of a patch in pixels, or its `(height, width)`.
        - `num_classes`: The number of classes; 0 returns the features that would enter
            the head.
        - `dim`: The size of a token in the first level, which doubles with every level;
            or one size a level.
        - `heads`: The number of attention heads in the first level, which doubles too;
            or one number a level.
        - `num_hierarchies`: The number of levels; the first has
            `4**(num_hierarchies - 1)` blocks, the last has one.
        - `block_repeats`: The number of transformer layers of every level, from the
            first on.
        - `mlp_mult`: The size of the hidden layer of the feed-forward network, in sizes
            of a token.
        - `channels`: The number of channels of the image.
        - `dropout`: Dropout rate inside the transformers.
        - `emb_dropout`: Dropout rate on the embedded patches.
        - `stochastic_depth`: The rate at which the last layer drops its branches; it
            rises linearly from 0 at the first. (Published: 0.2, 0.3, 0.5.)
        - `qkv_bias`: Whether queries, keys and values have a bias.
        - `norm_eps`: The `eps` of all normalisations.
        - `activation`: The activation of the feed-forward networks. (Google's code has
            `eqx_vit.layers.gelu_tanh`, timm serves the same weights with the exact
            GELU.)
        - `key`: A `jax.random.key` used to initialise the parameters.

        **Raises:**

        A `ValueError` that names the argument, its value and the nearest legal one.
        """
        check_numbers(NesT.__init__, locals())
        dims = _doubled("dim", dim, num_hierarchies)
        heads = _doubled("heads", heads, num_hierarchies)
        if isinstance(dim, int):
            check_multiple("dim", dims[0], "heads", heads[0])
        for i in range(num_hierarchies):
            check_multiple(f"dim[{i}]", dims[i], f"heads[{i}]", heads[i])
        mlp_mult = per_stage("mlp_mult", mlp_mult, num_hierarchies)
        depths = per_stage("block_repeats", block_repeats, num_hierarchies)
        self.image_size = height, width = pair(image_size)
        self.channels = channels
        patch_height, patch_width = pair(patch_size)
        side = 2 ** (num_hierarchies - 1)
        smallest = (side * patch_height, side * patch_width)
        divisor = "patch_size * 2**(num_hierarchies - 1)"
        if smallest[0] == smallest[1]:
            check_multiple("image_size", image_size, divisor, smallest[0])
        else:
            check_multiple("image_size", image_size, divisor, smallest)
        block_size = (height // smallest[0], width // smallest[1])

        patch_key, level_key, aggregation_key, head_key = jr.split(key, 4)
        self.patch_embedding = PatchEmbedding(
            patch_size, channels, dims[0], key=patch_key
        )
        self.dropout = eqx.nn.Dropout(emb_dropout)
        rates = linear_rates(stochastic_depth, sum(depths))
        levels = []
        for i, key in enumerate(jr.split(level_key, num_hierarchies)):
            level_dim, level_heads = dims[i], heads[i]
            hidden = hidden_dim("mlp_mult", mlp_mult[i], level_dim)

            def make_block(key):
                attention_key, mlp_key = jr.split(key)
                sizes = (level_dim, level_heads, level_dim // level_heads)
                mlp = (level_dim, hidden, dropout, activation)
                return Block(
                    level_dim,
                    Attention(*sizes, dropout, qkv_bias, key=attention_key),
                    FeedForward(*mlp, key=mlp_key),
                    norm_eps,
                )

            start = sum(depths[:i])
            level = Level(
                4 ** (num_hierarchies - 1 - i),
                block_size,
                make_block,
                level_dim,
                rates[start : start + depths[i]],
                key=key,
            )
            levels.append(level)
        self.levels = tuple(levels)
        self.aggregations = tuple(
            Aggregation(dims[i], dims[i + 1], norm_eps, key=key)
            for i, key in enumerate(jr.split(aggregation_key, num_hierarchies)[:-1])
        )
        self.norm = LayerNorm(dims[-1], norm_eps)
        self.head = Linear(dims[-1], num_classes, key=head_key) if num_classes else None

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
        dropout_key, *level_keys = split_key(key, 1 + len(self.levels))
        x = self.embed(image, key=dropout_key)
        return self.classify(x, keys=level_keys)

    def embed(
        self,
        image: Float[
            AnyArray, "{self.image_size[0]} {self.image_size[1]} {self.channels}"
        ],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "rows columns dim"]:
        """The map that enters the first level."""
        x = self.dropout(self.patch_embedding(image), key=key)
        rows = self.image_size[0] // self.patch_embedding.patch_size[0]
        return rearrange(x, "(h w) d -> h w d", h=rows)

    def classify(
        self,
        x: Float[Array, "height width dim"],
        start: int = 0,
        *,
        keys: Sequence[PRNGKeyArray | None] | None = None,
    ) -> Float[Array, " classes"]:
        """The logits, from the map that enters the level `start`."""
        for i in range(start, len(self.levels)):
            x = x if i == start else self.aggregations[i - 1](x)
            x = self.levels[i](x, key=None if keys is None else keys[i])
        x = jnp.mean(self.norm(x), axis=(0, 1))
        return x if self.head is None else self.head(x)


def grad_cat(
    model: NesT,
    image: Float[AnyArray, "height width channels"],
    label: int | Int[Array, ""],
) -> Int[Array, "picks 4"]:
    """GradCAT, gradient-based class-aware tree traversal: where a NesT saw a class.

    Walks the tree of blocks from the whole image down. Of the four blocks that the
    aggregation merged into one, it goes to the one whose activations raise the class's
    logit most: the mean over the block of activation times gradient, summed over
    channels. (Algorithm 2 of the [paper](https://arxiv.org/abs/2105.12723). The
    activations are those that enter a level, for of the map that leaves the last level
    they say nothing: the normalisation behind it takes out its scale, so that
    activation times gradient sums to zero.)

    **Arguments:**

    - `model`: The NesT. It is taken in inference mode.
    - `image`: A single image. (Use `jax.vmap` for a batch.)
    - `label`: The class to explain; the predicted one is
        `eqx_vit.predict(...)[i].argmax()`.

    **Returns:**

    A row `(top, left, height, width)` in pixels for every pick, from a quarter of the
    image to a block of the first level: `num_hierarchies - 1` rows.

    **Raises:**

    A `ValueError` if `label` is an integer outside the classes, or a
    `jaxtyping.TypeCheckError` if the image is not of the model's shape.
    """
    num_classes = (model.norm if model.head is None else model.head).weight.shape[0]
    if isinstance(label, int) and not 0 <= label < num_classes:
        raise ValueError(
            f"`label={label}` is not a class of the model; the nearest legal value is "
            f"{min(max(label, 0), num_classes - 1)}."
        )
    model = eqx.nn.inference_mode(model)
    maps = [model.embed(image)]
    for level, aggregation in zip(model.levels, model.aggregations):
        maps.append(aggregation(level(maps[-1])))

    # The corner of the block where the walk is, in blocks of its level.
    corner, rows = jnp.zeros(2, int), []
    for i in reversed(range(1, len(model.levels))):
        height, width = model.levels[i].block_size
        gradient = jax.grad(lambda x: model.classify(x, i)[label])(maps[i])
        start = (corner[0] * height, corner[1] * width)
        block = jax.lax.dynamic_slice(
            jnp.sum(maps[i] * gradient, axis=-1), start, (height, width)
        )
        best = jnp.argmax(_quarters(block))
        best = jnp.stack(jnp.unravel_index(best, (2, 2)))
        corner = 2 * corner + best
        blocks = 2 ** (len(model.levels) - i)  # per side of the image, where it goes to
        size = jnp.array([side // blocks for side in model.image_size])
        rows.append(jnp.concatenate([corner * size, size]))
    return jnp.stack(rows) if rows else jnp.zeros((0, 4), int)


def _quarters(x: Float[Array, "height width"]) -> Float[Array, "2 2"]:
    # As adaptive average pooling: halves share the middle of an odd side.
    height, width = ((side + 1) // 2 for side in x.shape)
    top, bottom = x[:height], x[-height:]
    halves = [[half[:, :width], half[:, -width:]] for half in (top, bottom)]
    return jnp.array([[reduce(q, "h w -> ", "mean") for q in row] for row in halves])


def _doubled(name: str, value: int | tuple[int, ...], levels: int) -> tuple[int, ...]:
    """One number a level, from the number of the first level or from a tuple."""
    if isinstance(value, int):
        return tuple(value * 2**i for i in range(levels))
    return per_stage(name, value, levels)
