from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from ..layers import (
    AnyArray,
    attend,
    check_at_least,
    check_image,
    check_multiple,
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
    PatchEmbedding,
    PEG,
    per_stage,
    picklable,
    split_key,
    split_windows,
    Stack,
    StochasticDepth,
    takes_an_image,
)


class RelativeAttention(eqx.Module):
    """Attention with a learnt bias for every displacement within a window."""

    qkv: Linear
    position_bias: Float[Array, "heads displacements"]
    output: Linear
    dropout: eqx.nn.Dropout
    window_size: int = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        heads: int,
        dropout: float,
        window_size: int,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** as [`eqx_vit.RegionViT`][]."""
        qkv_key, bias_key, output_key = jr.split(key, 3)
        self.qkv = Linear(dim, 3 * dim, key=qkv_key)
        displacements = (2 * window_size - 1) ** 2
        self.position_bias = 0.02 * jr.normal(bias_key, (heads, displacements))
        self.output = Linear(dim, dim, key=output_key)
        self.dropout = eqx.nn.Dropout(dropout)
        self.window_size = window_size

    def bias(self) -> Float[Array, "heads queries keys"]:
        """For a sequence of a regional token, which has none, and a window's tokens."""
        side, span = self.window_size, 2 * self.window_size - 1
        places = np.indices((side, side)).reshape(2, -1).T
        # The order of the authors' table: displacements from key to query wrap around.
        displaced = (places - places[:, None] + side // 2) % span
        bias = self.position_bias[:, displaced[..., 0] * span + displaced[..., 1]]
        return jnp.pad(bias, ((0, 0), (1, 0), (1, 0)))

    def __call__(
        self,
        x: Float[Array, "*windows tokens dim"],
        bias: Float[Array, "heads tokens tokens"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*windows tokens dim"]:
        probability_key, output_key = split_key(key, 2)
        pattern = "... n (qkv h d) -> qkv ... h n d"
        heads = len(self.position_bias)
        q, k, v = rearrange(self.qkv(x), pattern, qkv=3, h=heads)
        x = attend(q, k, v, bias, dropout=self.dropout, key=probability_key)
        x = self.dropout(self.output(x), key=output_key)
        return checkpoint_name(x, "attention_output")


class RegionalToLocal(eqx.Module):
    """Regional tokens attend to one another, then each with the tokens of its window:
    by the same attention."""

    regional_norm: LayerNorm
    local_norm: LayerNorm
    attention: RelativeAttention
    feed_forward_norm: LayerNorm
    feed_forward: FeedForward
    stochastic_depth: StochasticDepth

    def __init__(
        self,
        dim: int,
        attention: RelativeAttention,
        feed_forward: FeedForward,
        norm_eps: float,
    ):
        """**Arguments:** as [`eqx_vit.layers.Block`][]."""
        self.regional_norm = LayerNorm(dim, norm_eps)
        self.local_norm = LayerNorm(dim, norm_eps)
        self.attention = attention
        self.feed_forward_norm = LayerNorm(dim, norm_eps)
        self.feed_forward = feed_forward
        self.stochastic_depth = StochasticDepth()

    def __call__(
        self,
        x: Float[Array, "regions tokens dim"],
        drop_rate: float | Float[Array, ""] = 0.0,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "regions tokens dim"]:
        """**Arguments:** the regional token of every region, then its local ones."""
        regional_key, local_key, mlp_key, *depth_keys = split_key(key, 6)
        regional = x[:, 0]
        branch = self.attention(self.regional_norm(regional), key=regional_key)
        regional += self.stochastic_depth(branch, drop_rate, key=depth_keys[0])
        x = jnp.concatenate([regional[:, None], x[:, 1:]], axis=1)
        bias = self.attention.bias()
        branch = self.attention(self.local_norm(x), bias, key=local_key)
        x = x + self.stochastic_depth(branch, drop_rate, key=depth_keys[1])
        branch = self.feed_forward(self.feed_forward_norm(x), key=mlp_key)
        x = x + self.stochastic_depth(branch, drop_rate, key=depth_keys[2])
        return checkpoint_name(x, "block")


class Downsampling(eqx.Module):
    """Halves a map and widens it."""

    norm: LayerNorm
    conv: DepthwiseConv
    activation: Callable = eqx.field(static=True, converter=picklable)

    def __init__(
        self, dim: int, out_dim: int, activation: Callable, *, key: PRNGKeyArray
    ):
        """**Arguments:** the number of channels before and after."""
        self.norm = LayerNorm(dim, 1e-5)
        self.conv = DepthwiseConv(dim, 3, 2, 1, out_dim // dim, key=key)
        self.activation = activation

    def __call__(
        self, x: Float[Array, "height width dim"]
    ) -> Float[Array, "half_height half_width out_dim"]:
        return self.conv(self.activation(self.norm(x)))


class Stage(eqx.Module):
    """Downsampling of both maps, then blocks, with a PEG after the first if wanted."""

    downsampling: Downsampling | None
    stacks: tuple[Stack, ...]
    peg: PEG | None
    window_size: int = eqx.field(static=True)

    def __call__(
        self,
        regional: Float[Array, "rows columns channels"],
        local: Float[Array, "height width channels"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[
        Float[Array, "new_rows new_columns dim"],
        Float[Array, "new_height new_width dim"],
    ]:
        if self.downsampling is not None:
            regional, local = self.downsampling(regional), self.downsampling(local)
        for i, stack_key in enumerate(split_key(key, len(self.stacks))):
            regional, local = self._attend(self.stacks[i], regional, local, stack_key)
            if i == 0 and self.peg is not None:
                regional, local = self.peg(regional), self.peg(local)
        return regional, checkpoint_name(local, "stage")

    def _attend(self, stack, regional, local, key):
        window, width = (self.window_size, self.window_size), local.shape[1]
        regions = rearrange(regional, "r c d -> (r c) 1 d")
        x = jnp.concatenate([regions, split_windows(local, window)], axis=1)
        x = stack(x, key=key)
        regional = rearrange(x[:, 0], "(r c) d -> r c d", c=regional.shape[1])
        return regional, join_windows(x[:, 1:], window, width)


class ThreeConvs(eqx.Module):
    """Local tokens by three small convolutions; two of them halve the map."""

    convs: tuple[Conv, ...]
    norms: tuple[LayerNorm, ...]
    activation: Callable = eqx.field(static=True, converter=picklable)

    def __init__(
        self, channels: int, dim: int, activation: Callable, *, key: PRNGKeyArray
    ):
        """**Arguments:** as [`eqx_vit.RegionViT`][]."""
        dims = (channels, dim // 4, dim // 2, dim)
        self.convs = tuple(
            Conv(dims[i], dims[i + 1], 3, stride, 1, key=key)
            for i, (stride, key) in enumerate(zip((2, 2, 1), jr.split(key, 3)))
        )
        self.norms = (LayerNorm(dim // 4, 1e-5), LayerNorm(dim // 2, 1e-5))
        self.activation = activation

    def __call__(
        self, x: Float[Array, "height width channels"]
    ) -> Float[Array, "new_height new_width dim"]:
        for conv, norm in zip(self.convs, self.norms):
            x = self.activation(norm(conv(x)))
        return self.convs[-1](x)


class RegionViT(eqx.Module):
    r"""The regional-to-local vision transformer: coarse tokens of whole regions carry
    what the fine tokens of one region must know of the others.

    The structure is the authors'. Departures of vit-pytorch that are not followed:
    dense convolutions between stages, position biases that all blocks of a stage share,
    four heads everywhere, one normalisation for both attentions. (vit-flax returns
    NaN.)

    ??? cite

        [RegionViT: Regional-to-Local Attention for Vision
        Transformers](https://arxiv.org/abs/2106.02689)

        ```bibtex
        @inproceedings{chen2022regionvit,
            title={RegionViT: Regional-to-Local Attention for Vision Transformers},
            author={Chen, Chun-Fu and Panda, Rameswar and Fan, Quanfu},
            booktitle={International Conference on Learning Representations},
            year={2022},
        }
        ```
    """

    local_embedding: Conv | ThreeConvs
    regional_embedding: PatchEmbedding
    stages: tuple[Stage, ...]
    norm: LayerNorm
    head: Linear | None
    channels: int = eqx.field(static=True)
    image_multiple: int = eqx.field(static=True)

    def __init__(
        self,
        *,
        dim: tuple[int, ...] = (64, 128, 256, 512),
        depth: int | tuple[int, ...] = (2, 2, 8, 2),
        window_size: int = 7,
        num_classes: int = 1000,
        tokenize_local_3_conv: bool = False,
        local_patch_size: int = 4,
        use_peg: bool = False,
        attn_dropout: float = 0.0,
        ff_dropout: float = 0.0,
        channels: int = 3,
        heads: int | tuple[int, ...] | None = None,
        mlp_mult: float | tuple[float, ...] = 4,
        stochastic_depth: float = 0.0,
        norm_eps: float = 1e-6,
        activation: Callable = gelu,
        key: PRNGKeyArray,
    ):
        """**Arguments:** all are keyword only.

        - `dim`: The size of a token in every stage, a multiple of that in the stage
            before.
        - `depth`: The number of blocks of every stage.
        - `window_size`: The side of a region, in local tokens. (Published: 7 or 14.)
        - `num_classes`: The number of classes; 0 returns the features that would enter
            the head.
        - `tokenize_local_3_conv`: Whether local tokens come from three convolutions
            (RegionViT-Ti and -S), for which `local_patch_size` must be 4, or from one
            that is twice as wide as its stride (-M and -B).
        - `local_patch_size`: The number of pixels from one local token to the next, at
            least 2.
        - `use_peg`: Whether a positional encoding generator follows the first block of
            every stage (for detection).
        - `attn_dropout`: Dropout rate on the attention probabilities and on the output.
        - `ff_dropout`: Dropout rate in the feed-forward networks.
        - `channels`: The number of channels of the image.
        - `heads`: The number of attention heads, the same in all stages or one number a
            stage; it divides the size of a token. By default the size of a token over
            32, and at least 1.
        - `mlp_mult`: The size of the hidden layer of the feed-forward network, in sizes
            of a token.
        - `stochastic_depth`: The rate at which the last block drops its branches; it
            rises linearly from 0 at the first block.
        - `norm_eps`: The `eps` of the normalisations in blocks and at the end; it is
            1e-5 around convolutions, as published.
        - `activation`: The activation everywhere.
        - `key`: A `jax.random.key` used to initialise the parameters.

        **Raises:**

        A `ValueError` that names the argument, its value and the nearest legal one.
        """
        check_numbers(RegionViT.__init__, locals())
        num_stages = len(dim)
        if num_stages == 0:
            raise ValueError("`dim=()` must have an entry per stage, as (64, 128).")
        check_at_least(2, local_patch_size=local_patch_size)
        depths = per_stage("depth", depth, num_stages)
        if heads is None:
            heads = tuple(max(1, d // 32) for d in dim)
        heads = per_stage("heads", heads, num_stages)
        mlp_mult = per_stage("mlp_mult", mlp_mult, num_stages)
        for i in range(num_stages):
            check_multiple(f"dim[{i}]", dim[i], f"heads[{i}]", heads[i])
            if i > 0:
                check_multiple(f"dim[{i}]", dim[i], f"dim[{i - 1}]", dim[i - 1])
        if tokenize_local_3_conv and local_patch_size != 4:
            raise ValueError(
                f"`local_patch_size={local_patch_size}` does not go with "
                "`tokenize_local_3_conv=True`; the nearest legal value is 4."
            )
        self.channels = channels
        region_size = window_size * local_patch_size
        self.image_multiple = region_size * 2 ** (num_stages - 1)

        local_key, regional_key, stage_key, head_key = jr.split(key, 4)
        if tokenize_local_3_conv:
            local = ThreeConvs(channels, dim[0], activation, key=local_key)
        else:
            window = (2 * local_patch_size, local_patch_size, local_patch_size - 1)
            local = Conv(channels, dim[0], *window, key=local_key)
        self.local_embedding = local
        self.regional_embedding = PatchEmbedding(
            region_size, channels, dim[0], key=regional_key
        )
        rates = linear_rates(stochastic_depth, sum(depths))
        stages = []
        for i, key in enumerate(jr.split(stage_key, num_stages)):
            down_key, peg_key, *stack_keys = jr.split(key, 4)

            def make_block(key):
                attention_key, mlp_key = jr.split(key)
                sizes = (dim[i], heads[i], attn_dropout, window_size)
                hidden = hidden_dim("mlp_mult", mlp_mult[i], dim[i])
                mlp = (dim[i], hidden, ff_dropout, activation)
                return RegionalToLocal(
                    dim[i],
                    RelativeAttention(*sizes, key=attention_key),
                    FeedForward(*mlp, key=mlp_key),
                    norm_eps,
                )

            start, stop = sum(depths[:i]), sum(depths[: i + 1])
            split = start + 1 if use_peg else stop
            runs = [run for run in (rates[start:split], rates[split:stop]) if run]
            stage = Stage(
                Downsampling(dim[i - 1], dim[i], activation, key=down_key)
                if i > 0
                else None,
                tuple(
                    Stack(make_block, len(run), run, key=stack_key)
                    for run, stack_key in zip(runs, stack_keys)
                ),
                PEG(dim[i], use_bias=False, key=peg_key) if use_peg else None,
                window_size,
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

        - `image`: A single image of any size that the regions of the last stage divide:
            of multiples of 224 by default. (Use `jax.vmap` for a batch.)
        - `key`: A `jax.random.key` used for dropout; not needed in
            `equinox.nn.inference_mode`. (Keyword only argument.)

        **Returns:**

        The logits, of shape `(num_classes,)`.

        **Raises:**

        A `ValueError` with the nearest legal size, or a `jaxtyping.TypeCheckError` if
        the image has another shape.
        """
        reason = "`local_patch_size * window_size`, halved from stage to stage"
        check_image(image.shape, self.image_multiple, reason)
        image = jnp.asarray(image)
        local = self.local_embedding(image)
        rows = image.shape[0] // self.regional_embedding.patch_size[0]
        regional = rearrange(self.regional_embedding(image), "(r c) d -> r c d", r=rows)
        for stage, stage_key in zip(self.stages, split_key(key, len(self.stages))):
            regional, local = stage(regional, local, key=stage_key)
        x = jnp.mean(self.norm(regional), axis=(0, 1))
        return x if self.head is None else self.head(x)
