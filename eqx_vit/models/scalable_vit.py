import math
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from ..layers import (
    AlternatingStack,
    AnyArray,
    attend,
    Block,
    check_image,
    check_numbers,
    Conv,
    DepthwiseConv,
    FeedForward,
    gelu,
    hidden_dim,
    join_windows,
    LayerNorm,
    Linear,
    linear_rates,
    PEG,
    per_stage,
    picklable,
    split_key,
    split_windows,
    takes_an_image,
)


class InteractiveAttention(eqx.Module):
    """IWSA: attention within windows, and a convolution of the whole map of values that
    lets windows interact."""

    qkv: Linear
    interaction: DepthwiseConv
    output: Linear
    dropout: eqx.nn.Dropout
    heads: int = eqx.field(static=True)
    dim_key: int = eqx.field(static=True)
    window_size: int | None = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        heads: int,
        dim_key: int,
        dim_value: int,
        dropout: float,
        window_size: int | None,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** as [`eqx_vit.ScalableViT`][]."""
        qkv_key, interaction_key, output_key = jr.split(key, 3)
        inner_dim = heads * dim_value
        self.qkv = Linear(dim, 2 * heads * dim_key + inner_dim, key=qkv_key)
        self.interaction = DepthwiseConv(inner_dim, 3, padding=1, key=interaction_key)
        self.output = Linear(inner_dim, dim, key=output_key)
        self.dropout = eqx.nn.Dropout(dropout)
        self.heads = heads
        self.dim_key = dim_key
        self.window_size = window_size

    def __call__(
        self, x: Float[Array, "height width dim"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "height width dim"]:
        probability_key, output_key = split_key(key, 2)
        height, width, _ = x.shape
        whole, side = (height, width), self.window_size
        window = whole if side is None else (side, side)
        keys = self.heads * self.dim_key
        maps = jnp.split(self.qkv(x), [keys, 2 * keys], axis=-1)
        q, k, v = (
            rearrange(split_windows(m, window), "w n (h d) -> w h n d", h=self.heads)
            for m in maps
        )
        x = attend(q, k, v, dropout=self.dropout, key=probability_key)
        x = join_windows(x, window, width) + self.interaction(maps[2])
        x = self.dropout(self.output(x), key=output_key)
        return checkpoint_name(x, "attention_output")


class Reduction(eqx.Module):
    """Scales a map down in space, and up in channels."""

    conv: DepthwiseConv
    linear: Linear
    norm: LayerNorm
    activation: Callable = eqx.field(static=True, converter=picklable)

    def __init__(
        self,
        dim: int,
        out_dim: int,
        factor: int,
        activation: Callable,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** the channels before and after; the factor in space."""
        conv_key, linear_key = jr.split(key)
        self.conv = DepthwiseConv(dim, factor, factor, key=conv_key)
        self.linear = Linear(dim, out_dim, key=linear_key)
        self.norm = LayerNorm(out_dim, 1e-5)
        self.activation = activation

    def __call__(
        self, x: Float[Array, "height width dim"]
    ) -> Float[Array, "new_height new_width out_dim"]:
        return self.activation(self.norm(self.linear(self.conv(x))))


class ScalableAttention(eqx.Module):
    """SSA: attention of the whole map to a map that is smaller in space, with queries
    and keys of a size of their own."""

    query: Linear
    reduction: Reduction | None
    key_value: Linear
    output: Linear
    dropout: eqx.nn.Dropout
    heads: int = eqx.field(static=True)
    dim_key: int = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        heads: int,
        dim_key: int,
        dim_value: int,
        dropout: float,
        factor: int,
        activation: Callable,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** as [`eqx_vit.ScalableViT`][]."""
        query_key, reduction_key, key_value_key, output_key = jr.split(key, 4)
        keys, values = heads * dim_key, heads * dim_value
        reduce = factor > 1
        self.query = Linear(dim, keys, key=query_key)
        self.reduction = (
            Reduction(dim, keys, factor, activation, key=reduction_key)
            if reduce
            else None
        )
        self.key_value = Linear(
            keys if reduce else dim, keys + values, key=key_value_key
        )
        self.output = Linear(values, dim, key=output_key)
        self.dropout = eqx.nn.Dropout(dropout)
        self.heads = heads
        self.dim_key = dim_key

    def __call__(
        self, x: Float[Array, "height width dim"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "height width dim"]:
        probability_key, output_key = split_key(key, 2)
        height, width, _ = x.shape
        reduced = x if self.reduction is None else self.reduction(x)
        k, v = jnp.split(self.key_value(reduced), [self.heads * self.dim_key], axis=-1)
        q, k, v = (
            rearrange(m, "y x (h d) -> h (y x) d", h=self.heads)
            for m in (self.query(x), k, v)
        )
        x = attend(q, k, v, dropout=self.dropout, key=probability_key)
        x = rearrange(x, "(h w) d -> h w d", h=height)
        x = self.dropout(self.output(x), key=output_key)
        return checkpoint_name(x, "attention_output")


class Stage(eqx.Module):
    """Overlapping patches of the map before, then IWSA and SSA in turn, with a PEG
    after the first block."""

    conv: Conv
    norm: LayerNorm
    first: Block
    peg: PEG
    rest: AlternatingStack
    first_rate: float = eqx.field(static=True)

    def __call__(
        self,
        x: Float[Array, "height width channels"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "new_height new_width dim"]:
        first_key, rest_key = split_key(key, 2)
        x = self.norm(self.conv(x))
        x = self.peg(self.first(x, self.first_rate, key=first_key))
        return checkpoint_name(self.rest(x, key=rest_key), "stage")


class MLPHead(eqx.Module):
    """A wide layer before the logits."""

    expand: Linear
    norm: LayerNorm
    output: Linear
    activation: Callable = eqx.field(static=True, converter=picklable)

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        num_classes: int,
        norm_eps: float,
        activation: Callable,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** as [`eqx_vit.ScalableViT`][]."""
        expand_key, output_key = jr.split(key)
        self.expand = Linear(dim, hidden_dim, key=expand_key)
        self.norm = LayerNorm(hidden_dim, norm_eps)
        self.output = Linear(hidden_dim, num_classes, key=output_key)
        self.activation = activation

    def __call__(self, x: Float[Array, " dim"]) -> Float[Array, " classes"]:
        return self.output(self.activation(self.norm(self.expand(x))))


class ScalableViT(eqx.Module):
    r"""The scalable vision transformer: attention that scales space and channels, and
    attention within windows that a convolution lets interact, take turns.

    The structure is the authors'. Departures of vit-pytorch that are not followed: the
    other order of the two attentions, dense convolutions, no activation in the
    reduction, normalisations at the end of stages.

    ??? cite

        [ScalableViT: Rethinking the Context-oriented Generalization of Vision
        Transformer](https://arxiv.org/abs/2203.10790)

        ```bibtex
        @inproceedings{yang2022scalablevit,
            title={ScalableViT: Rethinking the Context-oriented Generalization of Vision
                   Transformer},
            author={Yang, Rui and Ma, Hailong and Wu, Jie and Tang, Yansong and
                    Xiao, Xuefeng and Zheng, Min and Li, Xiu},
            booktitle={European Conference on Computer Vision},
            year={2022},
        }
        ```
    """

    stages: tuple[Stage, ...]
    norm: LayerNorm
    head: Linear | MLPHead | None
    channels: int = eqx.field(static=True)
    image_multiple: int = eqx.field(static=True)

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        dim: int | tuple[int, ...] = 64,
        heads: int | tuple[int, ...] = (2, 4, 8, 16),
        depth: tuple[int, ...] = (2, 2, 20, 2),
        ssa_dim_key: int | tuple[int, ...] = (40, 40, 40, 32),
        reduction_factor: int | tuple[int, ...] = (8, 4, 2, 1),
        window_size: int | tuple[int | None, ...] | None = (64, 32, None, None),
        iwsa_dim_key: int | tuple[int, ...] = 32,
        iwsa_dim_value: int | tuple[int, ...] = 32,
        ssa_dim_value: int | tuple[int, ...] = 32,
        ff_expansion_factor: float | tuple[float, ...] = 4,
        channels: int = 3,
        dropout: float = 0.0,
        head_dim: int | None = None,
        stochastic_depth: float = 0.0,
        norm_eps: float = 1e-6,
        activation: Callable = gelu,
        key: PRNGKeyArray,
    ):
        """**Arguments:** all are keyword only.

        - `num_classes`: The number of classes; 0 returns the features that would enter
            the head.
        - `dim`: The size of a token in the first stage, which doubles with every stage;
            or the size in every stage.
        - `heads`: The number of attention heads of every stage.
        - `depth`: The number of single blocks of every stage, with IWSA and SSA in
            turn. (vit-pytorch counts pairs, and begins with SSA.)
        - `ssa_dim_key`: The size of a query or a key of SSA, per head. (The paper's
            channel ratio times the size of a value.)
        - `reduction_factor`: The factor between the map and the keys and values of SSA,
            per side.
        - `window_size`: The side of the windows of IWSA; `None` is the whole map.
            (Published: 7, for images of 224 pixels.)
        - `iwsa_dim_key`: The size of a query or a key of IWSA, per head.
        - `iwsa_dim_value`: The size of a value of IWSA, per head.
        - `ssa_dim_value`: The size of a value of SSA, per head.
        - `ff_expansion_factor`: The size of the hidden layer of the feed-forward
            network, in sizes of a token.
        - `channels`: The number of channels of the image.
        - `dropout`: Dropout rate inside the transformers.
        - `head_dim`: The size of a hidden layer of the head (published: 4096), or
            `None` for a linear head.
        - `stochastic_depth`: The rate at which the last block drops its branches; it
            rises linearly from 0 at the first block.
        - `norm_eps`: The `eps` of the normalisations; it is 1e-5 in the reduction, as
            published.
        - `activation`: The activation everywhere.
        - `key`: A `jax.random.key` used to initialise the parameters.

        **Raises:**

        A `ValueError` that names the argument, its value and the nearest legal one.
        """
        check_numbers(ScalableViT.__init__, locals())
        num_stages = len(depth)
        if num_stages == 0:
            raise ValueError("`depth=()` must have an entry per stage, as (2, 2).")
        if isinstance(dim, int):
            dim = tuple(dim * 2**i for i in range(num_stages))
        dims = per_stage("dim", dim, num_stages)
        depths = per_stage("depth", depth, num_stages)
        heads = per_stage("heads", heads, num_stages)
        factors = per_stage("reduction_factor", reduction_factor, num_stages)
        windows = per_stage("window_size", window_size, num_stages)
        iwsa_keys = per_stage("iwsa_dim_key", iwsa_dim_key, num_stages)
        iwsa_values = per_stage("iwsa_dim_value", iwsa_dim_value, num_stages)
        ssa_keys = per_stage("ssa_dim_key", ssa_dim_key, num_stages)
        ssa_values = per_stage("ssa_dim_value", ssa_dim_value, num_stages)
        mlp_mult = per_stage("ff_expansion_factor", ff_expansion_factor, num_stages)
        self.channels = channels
        self.image_multiple = math.lcm(
            *(
                4 * 2**i * math.lcm(window or 1, factor)
                for i, (window, factor) in enumerate(zip(windows, factors))
            )
        )

        stage_key, head_key = jr.split(key)
        rates = linear_rates(stochastic_depth, sum(depths))
        stages = []
        for i, key in enumerate(jr.split(stage_key, num_stages)):
            conv_key, first_key, peg_key, rest_key = jr.split(key, 4)

            def make_block(position, key):
                attention_key, mlp_key = jr.split(key)
                if position % 2 == 1:  # SSA follows the first block
                    sizes = (heads[i], iwsa_keys[i], iwsa_values[i], dropout)
                    attention = InteractiveAttention(
                        dims[i], *sizes, windows[i], key=attention_key
                    )
                else:
                    sizes = (heads[i], ssa_keys[i], ssa_values[i], dropout)
                    attention = ScalableAttention(
                        dims[i], *sizes, factors[i], activation, key=attention_key
                    )
                hidden = hidden_dim("ff_expansion_factor", mlp_mult[i], dims[i])
                mlp = (dims[i], hidden, dropout, activation)
                mlp = FeedForward(*mlp, key=mlp_key)
                return Block(dims[i], attention, mlp, norm_eps)

            in_dim = channels if i == 0 else dims[i - 1]
            window = (7, 4, 3) if i == 0 else (3, 2, 1)
            start, stop = sum(depths[:i]), sum(depths[: i + 1])
            stage = Stage(
                Conv(in_dim, dims[i], *window, key=conv_key),
                LayerNorm(dims[i], norm_eps),
                make_block(1, first_key),
                PEG(dims[i], key=peg_key),
                AlternatingStack(make_block, 2, rates[start + 1 : stop], key=rest_key),
                rates[start],
            )
            stages.append(stage)
        self.stages = tuple(stages)
        self.norm = LayerNorm(dims[-1], norm_eps)
        if num_classes == 0:
            self.head = None
        elif head_dim is None:
            self.head = Linear(dims[-1], num_classes, key=head_key)
        else:
            sizes = (dims[-1], head_dim, num_classes)
            self.head = MLPHead(*sizes, norm_eps, activation, key=head_key)

    @takes_an_image
    def __call__(
        self,
        image: Float[AnyArray, "height width {self.channels}"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " classes"]:
        """**Arguments:**

        - `image`: A single image of any size that windows and reductions divide: of
            multiples of 256 by default, of 224 with `window_size=7`. (Use `jax.vmap`
            for a batch.)
        - `key`: A `jax.random.key` used for dropout; not needed in
            `equinox.nn.inference_mode`. (Keyword only argument.)

        **Returns:**

        The logits, of shape `(num_classes,)`.

        **Raises:**

        A `ValueError` with the nearest legal size, or a `jaxtyping.TypeCheckError` if
        the image has another shape.
        """
        reason = "`window_size` and `reduction_factor` of the stages"
        check_image(image.shape, self.image_multiple, reason)
        x = jnp.asarray(image)
        for stage, stage_key in zip(self.stages, split_key(key, len(self.stages))):
            x = stage(x, key=stage_key)
        x = jnp.mean(self.norm(x), axis=(0, 1))
        return x if self.head is None else self.head(x)
