import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..layers import (
    AlternatingStack,
    AnyArray,
    attend,
    Block,
    check_image,
    check_multiple,
    check_numbers,
    Conv,
    DepthwiseConv,
    FeedForward,
    gelu,
    hidden_dim,
    LayerNorm,
    Linear,
    linear_rates,
    pad_to_multiple,
    per_stage,
    split_key,
    takes_an_image,
)


class CrossScaleEmbedding(eqx.Module):
    """Convolutions with kernels of several sizes and one stride, side by side."""

    convs: tuple[Conv, ...]

    def __init__(
        self,
        channels: int,
        dim: int,
        kernel_sizes: tuple[int, ...],
        stride: int,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** as [`eqx_vit.CrossFormer`][]. Half of the channels come from
        the smallest kernel, half of the rest from the next, and so on."""
        sizes = sorted(kernel_sizes)
        dims = [dim // 2 ** (i + 1) for i in range(len(sizes) - 1)]
        dims.append(dim - sum(dims))
        self.convs = tuple(
            Conv(channels, dims[i], sizes[i], stride, (sizes[i] - stride) // 2, key=key)
            for i, key in enumerate(jr.split(key, len(sizes)))
        )

    def __call__(
        self, x: Float[Array, "height width channels"]
    ) -> Float[Array, "new_height new_width dim"]:
        return jnp.concatenate([conv(x) for conv in self.convs], axis=-1)


class DynamicPositionBias(eqx.Module):
    """A bias per head and displacement by a small network: for groups of any size."""

    project: Linear
    norms: tuple[LayerNorm, ...]
    linears: tuple[Linear, ...]

    def __init__(self, dim: int, heads: int, norm_eps: float, *, key: PRNGKeyArray):
        """**Arguments:** as [`eqx_vit.CrossFormer`][]."""
        project_key, *keys = jr.split(key, 4)
        hidden = max(1, dim // 16)
        self.project = Linear(2, hidden, key=project_key)
        self.norms = tuple(LayerNorm(hidden, norm_eps) for _ in keys)
        self.linears = tuple(
            Linear(hidden, out, key=k) for out, k in zip((hidden, hidden, heads), keys)
        )

    def __call__(self, side: int) -> Float[Array, "heads queries keys"]:
        span = np.arange(1 - side, side)
        displacements = np.stack(np.meshgrid(span, span, indexing="ij"), axis=-1)
        x = self.project(jnp.asarray(displacements.reshape(-1, 2), jnp.float32))
        for norm, linear in zip(self.norms, self.linears):
            x = linear(jax.nn.relu(norm(x)))
        places = np.indices((side, side)).reshape(2, -1).T
        displaced = places[:, None] - places + side - 1  # queries, keys, 2
        return x.T[:, displaced[..., 0] * (2 * side - 1) + displaced[..., 1]]


_GROUPS = "(r g i) (s f j) d -> (r i s j) (g f) d"


class GroupAttention(eqx.Module):
    """Attention within groups: of adjacent embeddings (short distance), or of such as
    stand `interval` apart (long distance)."""

    qkv: Linear
    position_bias: DynamicPositionBias
    output: Linear
    dropout: eqx.nn.Dropout
    heads: int = eqx.field(static=True)
    group_size: int = eqx.field(static=True)
    interval: int | None = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        heads: int,
        dropout: float,
        norm_eps: float,
        group_size: int,
        interval: int | None,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** as [`eqx_vit.CrossFormer`][]."""
        qkv_key, bias_key, output_key = jr.split(key, 3)
        self.qkv = Linear(dim, 3 * dim, key=qkv_key)
        self.position_bias = DynamicPositionBias(dim, heads, norm_eps, key=bias_key)
        self.output = Linear(dim, dim, key=output_key)
        self.dropout = eqx.nn.Dropout(dropout)
        self.heads = heads
        self.group_size = group_size
        self.interval = interval

    def _groups(self, height: int, width: int) -> dict[str, int]:
        """The number of groups' rows `g` and columns `f`, of the intervals `i` and `j`
        between them, for a map of this size."""
        side = min(self.group_size, height, width)
        if side == min(height, width):  # the map is one group, or one row of groups
            intervals = (1, 1)
        elif self.interval is None:
            intervals = (-(-height // side), -(-width // side))
        else:
            intervals = (self.interval, self.interval)
        return dict(g=side, f=side, i=intervals[0], j=intervals[1])

    def places(self, height: int, width: int) -> Int[np.ndarray, "groups tokens"]:
        """The index of the embedding at each place of each group, row by row; -1 for
        the padding."""
        sizes = self._groups(height, width)
        below, right = (
            -side % (sizes["g"] * interval)
            for side, interval in ((height, sizes["i"]), (width, sizes["j"]))
        )
        places = np.arange(height * width).reshape(height, width)
        places = np.pad(places, ((0, below), (0, right)), constant_values=-1)
        return rearrange(places[..., None], _GROUPS, **sizes)[..., 0]

    def __call__(
        self, x: Float[Array, "height width dim"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "height width dim"]:
        probability_key, output_key = split_key(key, 2)
        height, width, _ = x.shape
        sizes = self._groups(height, width)
        multiple = (sizes["g"] * sizes["i"], sizes["f"] * sizes["j"])
        x = pad_to_multiple(x, multiple)
        padded_height = x.shape[0]
        tokens = self.qkv(rearrange(x, _GROUPS, **sizes))
        pattern = "n t (qkv h d) -> qkv n h t d"
        q, k, v = rearrange(tokens, pattern, qkv=3, h=self.heads)
        bias = self.position_bias(sizes["g"])
        if x.shape[:2] != (height, width):
            # The padding is nobody's key. (Finite, since groups may be all padding.)
            is_padding = self.places(height, width) < 0
            mask = np.where(is_padding, np.float32(-1e6), np.float32(0))
            bias = bias + mask[:, None, None]
        x = attend(q, k, v, bias, dropout=self.dropout, key=probability_key)
        x = self.dropout(self.output(x), key=output_key)
        ungroup = "(r i s j) (g f) d -> (r g i) (s f j) d"
        x = rearrange(x, ungroup, **sizes, r=padded_height // multiple[0])
        return checkpoint_name(x[:height, :width], "attention_output")


class Cooling(eqx.Module):
    """The amplitude cooling layer: no residual leads past it, so that the amplitude of
    the embeddings falls."""

    conv: DepthwiseConv
    norm: LayerNorm

    def __init__(self, dim: int, norm_eps: float, *, key: PRNGKeyArray):
        """**Arguments:** as [`eqx_vit.CrossFormer`][]."""
        self.conv = DepthwiseConv(dim, 3, padding=1, key=key)
        self.norm = LayerNorm(dim, norm_eps)

    def __call__(
        self, x: Float[Array, "height width dim"]
    ) -> Float[Array, "height width dim"]:
        return self.norm(self.conv(x))


class CrossBlock(eqx.Module):
    """A transformer block, perhaps with a cooling layer behind it."""

    block: Block
    cooling: Cooling | None

    def __call__(
        self,
        x: Float[Array, "height width dim"],
        drop_rate: float | Float[Array, ""] = 0.0,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "height width dim"]:
        x = self.block(x, drop_rate, key=key)
        return x if self.cooling is None else self.cooling(x)


class Stage(eqx.Module):
    """A cross-scale embedding of the map before, then attention at short and at long
    distance in turn."""

    norm: LayerNorm
    embedding: CrossScaleEmbedding
    blocks: AlternatingStack
    norm_first: bool = eqx.field(static=True)

    def __call__(
        self,
        x: Float[Array, "height width channels"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "new_height new_width dim"]:
        if self.norm_first:
            x = self.embedding(self.norm(x))
        else:
            x = self.norm(self.embedding(x))
        return checkpoint_name(self.blocks(x, key=key), "stage")


class CrossFormer(eqx.Module):
    r"""CrossFormer: embeddings from patches of several scales, and attention at short
    and long distance in turn.

    The structure is the authors', CrossFormer++ included. Departures of vit-pytorch
    that are not followed: one position bias for all heads, read at wrong displacements;
    no biases of queries, keys and values; no normalisation around embeddings and at the
    end.

    ??? cite

        [CrossFormer: A Versatile Vision Transformer Hinging on Cross-scale
        Attention](https://arxiv.org/abs/2108.00154),
        [CrossFormer++](https://arxiv.org/abs/2303.06908)

        ```bibtex
        @inproceedings{wang2022crossformer,
            title={CrossFormer: A Versatile Vision Transformer Hinging on Cross-scale
                   Attention},
            author={Wang, Wenxiao and Yao, Lu and Chen, Long and Lin, Binbin and
                    Cai, Deng and He, Xiaofei and Liu, Wei},
            booktitle={International Conference on Learning Representations},
            year={2022},
        }
        ```
    """

    stages: tuple[Stage, ...]
    norm: LayerNorm
    head: Linear | None
    channels: int = eqx.field(static=True)
    image_multiple: int = eqx.field(static=True)

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        dim: tuple[int, ...] = (64, 128, 256, 512),
        depth: int | tuple[int, ...] = (2, 2, 8, 2),
        global_window_size: int | tuple[int, ...] = (8, 4, 2, 1),
        local_window_size: int | tuple[int, ...] = 7,
        cross_embed_kernel_sizes: tuple[tuple[int, ...], ...] = (
            (4, 8, 16, 32),
            (2, 4),
            (2, 4),
            (2, 4),
        ),
        cross_embed_strides: int | tuple[int, ...] = (4, 2, 2, 2),
        attn_dropout: float = 0.0,
        ff_dropout: float = 0.0,
        channels: int = 3,
        interval: int | tuple[int, ...] | None = None,
        dim_head: int = 32,
        heads: int | tuple[int, ...] | None = None,
        mlp_mult: float | tuple[float, ...] = 4,
        cooling: bool = False,
        stochastic_depth: float = 0.0,
        norm_eps: float = 1e-5,
        activation: Callable = gelu,
        key: PRNGKeyArray,
    ):
        """**Arguments:** all are keyword only.

        - `num_classes`: The number of classes; 0 returns the features that would enter
            the head.
        - `dim`: The size of an embedding in every stage, multiples of `dim_head` or of
            `heads`.
        - `depth`: The number of single blocks of every stage, with short- and
            long-distance attention in turn. (vit-pytorch counts pairs.)
        - `global_window_size`: The side of a group of long-distance attention. (The
            paper's group size, 7. Its (8, 4, 2, 1) are intervals.)
        - `local_window_size`: The side of a group of short-distance attention.
        - `cross_embed_kernel_sizes`: The sides of the kernels of every stage, each even
            if the stride is and odd if it is.
        - `cross_embed_strides`: The stride of these kernels.
        - `attn_dropout`: Dropout rate on the attention probabilities and on the output.
        - `ff_dropout`: Dropout rate in the feed-forward networks.
        - `channels`: The number of channels of the image.
        - `interval`: How far apart the embeddings of a long-distance group stand; by
            default so far that a group spans the map. (CrossFormer++: 4, 2, 1, 1. Where
            groups do not divide a map, it is padded, and the padding masked.)
        - `dim_head`: The size of a query, a key or a value, per head.
        - `heads`: The number of heads, the same in all stages or one number a stage, in
            place of `dim_head`.
        - `mlp_mult`: The size of the hidden layer of the feed-forward network, in sizes
            of an embedding.
        - `cooling`: Whether an amplitude cooling layer follows every third block but
            the last of a stage (CrossFormer++).
        - `stochastic_depth`: The rate at which the last block drops its branches; it
            rises linearly from 0 at the first block.
        - `norm_eps`: The `eps` of all normalisations.
        - `activation`: The activation of the feed-forward networks.
        - `key`: A `jax.random.key` used to initialise the parameters.

        **Raises:**

        A `ValueError` that names the argument, its value and the nearest legal one.
        """
        check_numbers(CrossFormer.__init__, locals())
        num_stages = len(dim)
        if num_stages == 0:
            raise ValueError("`dim=()` must have an entry per stage, as (64, 128).")
        depths = per_stage("depth", depth, num_stages)
        long = per_stage("global_window_size", global_window_size, num_stages)
        short = per_stage("local_window_size", local_window_size, num_stages)
        intervals = per_stage("interval", interval, num_stages)
        mlp_mult = per_stage("mlp_mult", mlp_mult, num_stages)
        strides = per_stage("cross_embed_strides", cross_embed_strides, num_stages)
        if len(cross_embed_kernel_sizes) != num_stages:
            raise ValueError(
                f"`cross_embed_kernel_sizes={cross_embed_kernel_sizes}` must have an "
                f"entry for each of the {num_stages} stages of `dim`."
            )
        divisors = num_stages * [("dim_head", dim_head)]
        if heads is not None:
            numbers = per_stage("heads", heads, num_stages)
            divisors = [(f"heads[{i}]", number) for i, number in enumerate(numbers)]
        for i in range(num_stages):
            check_multiple(f"dim[{i}]", dim[i], *divisors[i])
            for size in cross_embed_kernel_sizes[i]:
                if size < strides[i] or (size - strides[i]) % 2:
                    raise ValueError(
                        f"`cross_embed_kernel_sizes={cross_embed_kernel_sizes}`: a "
                        f"kernel of {size} does not go with a stride of {strides[i]}; "
                        f"the nearest legal value is {max(strides[i], size + 1)}."
                    )
        if heads is None:
            heads = tuple(d // dim_head for d in dim)
        heads = per_stage("heads", heads, num_stages)
        self.channels = channels
        self.image_multiple = math.prod(strides)

        stage_key, head_key = jr.split(key)
        rates = linear_rates(stochastic_depth, sum(depths))
        stages = []
        for i, key in enumerate(jr.split(stage_key, num_stages)):
            embedding_key, blocks_key = jr.split(key)
            in_dim = channels if i == 0 else dim[i - 1]

            def make_block(position, key):
                attention_key, mlp_key, cooling_key = jr.split(key, 3)
                attention = GroupAttention(
                    dim[i],
                    heads[i],
                    attn_dropout,
                    norm_eps,
                    short[i] if position % 2 == 0 else long[i],
                    1 if position % 2 == 0 else intervals[i],
                    key=attention_key,
                )
                hidden = hidden_dim("mlp_mult", mlp_mult[i], dim[i])
                mlp = (dim[i], hidden, ff_dropout, activation)
                mlp = FeedForward(*mlp, key=mlp_key)
                cools = cooling and position % 3 == 2 and position < depths[i] - 1
                return CrossBlock(
                    Block(dim[i], attention, mlp, norm_eps),
                    Cooling(dim[i], norm_eps, key=cooling_key) if cools else None,
                )

            start = sum(depths[:i])
            stage = Stage(
                LayerNorm(dim[i] if i == 0 else in_dim, norm_eps),
                CrossScaleEmbedding(
                    in_dim,
                    dim[i],
                    cross_embed_kernel_sizes[i],
                    strides[i],
                    key=embedding_key,
                ),
                AlternatingStack(
                    make_block,
                    6 if cooling else 2,
                    rates[start : start + depths[i]],
                    # The last block never cools, so that its turn is another.
                    (depths[i] - 1) // 6 if cooling else None,
                    key=blocks_key,
                ),
                norm_first=i > 0,
            )
            stages.append(stage)
        self.stages = tuple(stages)
        self.norm = LayerNorm(dim[-1], norm_eps)
        self.head = Linear(dim[-1], num_classes, key=head_key) if num_classes else None

    @takes_an_image
    def __call__(
        self,
        image: Float[AnyArray, "height width {self.channels}"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " classes"]:
        """**Arguments:**

        - `image`: A single image of any size that the strides divide: of multiples of
            32 by default. (Use `jax.vmap` for a batch.)
        - `key`: A `jax.random.key` used for dropout; not needed in
            `equinox.nn.inference_mode`. (Keyword only argument.)

        **Returns:**

        The logits, of shape `(num_classes,)`.

        **Raises:**

        A `ValueError` with the nearest legal size, or a `jaxtyping.TypeCheckError` if
        the image has another shape.
        """
        check_image(image.shape, self.image_multiple, "`cross_embed_strides`")
        x = jnp.asarray(image)
        for stage, stage_key in zip(self.stages, split_key(key, len(self.stages))):
            x = stage(x, key=stage_key)
        x = jnp.mean(self.norm(x), axis=(0, 1))
        return x if self.head is None else self.head(x)
