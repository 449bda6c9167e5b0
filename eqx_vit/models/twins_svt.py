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
    Attention,
    Block,
    check_image,
    check_multiple,
    check_numbers,
    check_odd,
    CrossAttention,
    FeedForward,
    gelu,
    hidden_dim,
    join_windows,
    LayerNorm,
    Linear,
    linear_rates,
    pad_to_multiple,
    PatchEmbedding,
    PEG,
    per_stage,
    split_key,
    split_windows,
    takes_an_image,
)


class LocalAttention(eqx.Module):
    """Locally-grouped attention: within windows, for which the map is padded."""

    attention: Attention
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
        """**Arguments:** as [`eqx_vit.layers.Attention`][]; the side of a window."""
        sizes = (dim, heads, dim // heads, dropout)
        self.attention = Attention(*sizes, qkv_bias=True, key=key)
        self.window_size = window_size

    def __call__(
        self, x: Float[Array, "height width dim"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "height width dim"]:
        height, width, _ = x.shape
        window = (self.window_size, self.window_size)
        # As published, the zeros are seen as tokens.
        x = pad_to_multiple(x, self.window_size)
        windows = self.attention(split_windows(x, window), key=key)
        return join_windows(windows, window, x.shape[1])[:height, :width]


class GlobalAttention(eqx.Module):
    """Global sub-sampled attention: all tokens attend to one summary per window."""

    reduction: PatchEmbedding | None
    norm: LayerNorm | None
    attention: CrossAttention

    def __init__(
        self,
        dim: int,
        heads: int,
        dropout: float,
        factor: int,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** as [`eqx_vit.layers.CrossAttention`][]; the side of what is
        summed up, where 1 is no reduction."""
        reduction_key, attention_key = jr.split(key)
        reduce = factor > 1
        sizes = (dim, heads, dim // heads, dropout)
        self.reduction = (
            PatchEmbedding(factor, dim, dim, key=reduction_key) if reduce else None
        )
        self.norm = LayerNorm(dim, 1e-5) if reduce else None
        self.attention = CrossAttention(*sizes, qkv_bias=True, key=attention_key)

    def __call__(
        self, x: Float[Array, "height width dim"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "height width dim"]:
        height, width, _ = x.shape
        tokens = summary = rearrange(x, "h w d -> (h w) d")
        if self.reduction is not None and self.norm is not None:
            summary = self.norm(self.reduction(x))
        tokens = self.attention(tokens, summary, key=key)
        return rearrange(tokens, "(h w) d -> h w d", h=height, w=width)


class Stage(eqx.Module):
    """Smaller patches of the map before, then local and global attention in turn."""

    patch_embedding: PatchEmbedding
    norm: LayerNorm
    first: Block
    peg: PEG
    rest: AlternatingStack
    first_rate: float = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        dim: int,
        patch_size: int,
        window_size: int,
        factor: int,
        drop_rates: tuple[float, ...],
        heads: int,
        mlp_dim: int,
        dropout: float,
        peg_kernel_size: int,
        norm_eps: float,
        activation: Callable,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** as [`eqx_vit.TwinsSVT`][], a number for each of its blocks in
        `drop_rates`."""
        patch_key, first_key, peg_key, rest_key = jr.split(key, 4)

        def make_block(position, key):
            attention_key, mlp_key = jr.split(key)
            sizes = (dim, heads, dropout)
            if position % 2 == 1:  # global attention follows the first block
                attention = LocalAttention(*sizes, window_size, key=attention_key)
            else:
                attention = GlobalAttention(*sizes, factor, key=attention_key)
            mlp = FeedForward(dim, mlp_dim, dropout, activation, key=mlp_key)
            return Block(dim, attention, mlp, norm_eps)

        self.patch_embedding = PatchEmbedding(patch_size, channels, dim, key=patch_key)
        self.norm = LayerNorm(dim, 1e-5)
        self.first = make_block(1, first_key)
        self.peg = PEG(dim, peg_kernel_size, key=peg_key)
        self.rest = AlternatingStack(make_block, 2, drop_rates[1:], key=rest_key)
        self.first_rate = drop_rates[0]

    def __call__(
        self,
        x: Float[Array, "height width channels"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "new_height new_width dim"]:
        first_key, rest_key = split_key(key, 2)
        height = x.shape[0] // self.patch_embedding.patch_size[0]
        x = self.norm(self.patch_embedding(x))
        x = rearrange(x, "(h w) d -> h w d", h=height)
        x = self.peg(self.first(x, self.first_rate, key=first_key))
        return checkpoint_name(self.rest(x, key=rest_key), "stage")


class TwinsSVT(eqx.Module):
    r"""The Twins-SVT pyramid: attention within windows and attention to a summary of
    all windows take turns, and a convolution after the first block of every stage tells
    the tokens where they are.

    The structure is the authors' as timm builds it. Departures of vit-pytorch that are
    not followed: a group of blocks before and `depth` groups after that convolution, no
    local attention in the last stage, no normalisation at the end, convolutions of the
    whole map to keys and values.

    ??? cite

        [Twins: Revisiting the Design of Spatial Attention in Vision
        Transformers](https://arxiv.org/abs/2104.13840)

        ```bibtex
        @inproceedings{chu2021twins,
            title={Twins: Revisiting the Design of Spatial Attention in Vision
                   Transformers},
            author={Chu, Xiangxiang and Tian, Zhi and Wang, Yuqing and Zhang, Bo and
                    Ren, Haibing and Wei, Xiaolin and Xia, Huaxia and Shen, Chunhua},
            booktitle={Advances in Neural Information Processing Systems},
            year={2021},
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
        s1_emb_dim: int = 64,
        s1_patch_size: int = 4,
        s1_local_patch_size: int = 7,
        s1_global_k: int = 7,
        s1_depth: int = 1,
        s2_emb_dim: int = 128,
        s2_patch_size: int = 2,
        s2_local_patch_size: int = 7,
        s2_global_k: int = 7,
        s2_depth: int = 1,
        s3_emb_dim: int = 256,
        s3_patch_size: int = 2,
        s3_local_patch_size: int = 7,
        s3_global_k: int = 7,
        s3_depth: int = 5,
        s4_emb_dim: int = 512,
        s4_patch_size: int = 2,
        s4_local_patch_size: int = 7,
        s4_global_k: int = 7,
        s4_depth: int = 4,
        peg_kernel_size: int = 3,
        dropout: float = 0.0,
        num_blocks: tuple[int, int, int, int] | None = None,
        heads: int | tuple[int, ...] = (2, 4, 8, 16),
        mlp_mult: float | tuple[float, ...] = 4,
        channels: int = 3,
        stochastic_depth: float = 0.0,
        norm_eps: float = 1e-6,
        activation: Callable = gelu,
        key: PRNGKeyArray,
    ):
        """**Arguments:** all are keyword only.

        - `num_classes`: The number of classes; 0 returns the features that would enter
            the head.
        - `s1_emb_dim`: The size of a token in the first stage; and so on for the
            stages 2, 3 and 4.
        - `s1_patch_size`: The side of the patches that the stage cuts its input into.
        - `s1_local_patch_size`: The side of the windows of local attention. The map is
            padded with zeros where they do not divide it.
        - `s1_global_k`: The side of what one key and value of global attention stands
            for; it must divide the map. (Published: 8, 4, 2, 1.)
        - `s1_depth`: The number of pairs of blocks, one with local and one with global
            attention; the paper counts single blocks. (Published: 1, 1, 5, 2.)
        - `num_blocks`: The number of single blocks of every stage, in place of the
            `s1_depth` and so on: an odd number ends with local attention.
        - `peg_kernel_size`: The side of the kernel of the positional convolution, odd.
        - `dropout`: Dropout rate inside the transformers.
        - `heads`: The number of attention heads, the same in all stages or one number a
            stage; it divides the size of a token.
        - `mlp_mult`: The size of the hidden layer of the feed-forward network, in sizes
            of a token, likewise.
        - `channels`: The number of channels of the image.
        - `stochastic_depth`: The rate at which the last block drops its branches; it
            rises linearly from 0 at the first block.
        - `norm_eps`: The `eps` of the normalisations in blocks and at the end; it is
            1e-5 after patches, as published.
        - `activation`: The activation of the feed-forward networks.
        - `key`: A `jax.random.key` used to initialise the parameters.

        **Raises:**

        A `ValueError` that names the argument, its value and the nearest legal one.
        """
        check_numbers(TwinsSVT.__init__, locals())
        dims = (s1_emb_dim, s2_emb_dim, s3_emb_dim, s4_emb_dim)
        patch_sizes = (s1_patch_size, s2_patch_size, s3_patch_size, s4_patch_size)
        windows = (
            s1_local_patch_size,
            s2_local_patch_size,
            s3_local_patch_size,
            s4_local_patch_size,
        )
        factors = (s1_global_k, s2_global_k, s3_global_k, s4_global_k)
        pairs = (s1_depth, s2_depth, s3_depth, s4_depth)
        depths = num_blocks or tuple(2 * number for number in pairs)
        heads = per_stage("heads", heads, 4)
        mlp_mult = per_stage("mlp_mult", mlp_mult, 4)
        for i in range(4):
            check_multiple(f"s{i + 1}_emb_dim", dims[i], f"heads[{i}]", heads[i])
        check_odd(peg_kernel_size=peg_kernel_size)
        self.channels = channels
        strides = [math.prod(patch_sizes[: i + 1]) for i in range(4)]
        self.image_multiple = math.lcm(*(s * f for s, f in zip(strides, factors)))

        *stage_keys, head_key = jr.split(key, 5)
        rates = linear_rates(stochastic_depth, sum(depths))
        stages = []
        for i in range(4):
            start = sum(depths[:i])
            stage = Stage(
                channels if i == 0 else dims[i - 1],
                dims[i],
                patch_sizes[i],
                windows[i],
                factors[i],
                rates[start : start + depths[i]],
                heads[i],
                hidden_dim("mlp_mult", mlp_mult[i], dims[i]),
                dropout,
                peg_kernel_size,
                norm_eps,
                activation,
                key=stage_keys[i],
            )
            stages.append(stage)
        self.stages = tuple(stages)
        self.norm = LayerNorm(dims[-1], norm_eps)
        self.head = Linear(dims[-1], num_classes, key=head_key) if num_classes else None

    @takes_an_image
    def __call__(
        self,
        image: Float[AnyArray, "height width {self.channels}"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " classes"]:
        """**Arguments:**

        - `image`: A single image of any size that patches and global attention divide:
            of multiples of 224 by default, of 32 with `global_k` 8, 4, 2, 1. (Use
            `jax.vmap` for a batch.)
        - `key`: A `jax.random.key` used for dropout; not needed in
            `equinox.nn.inference_mode`. (Keyword only argument.)

        **Returns:**

        The logits, of shape `(num_classes,)`.

        **Raises:**

        A `ValueError` with the nearest legal size, or a `jaxtyping.TypeCheckError` if
        the image has another shape.
        """
        reason = "`patch_size` and `global_k` of the stages"
        check_image(image.shape, self.image_multiple, reason)
        x = jnp.asarray(image)
        for stage, stage_key in zip(self.stages, split_key(key, 4)):
            x = stage(x, key=stage_key)
        x = jnp.mean(self.norm(x), axis=(0, 1))
        return x if self.head is None else self.head(x)
