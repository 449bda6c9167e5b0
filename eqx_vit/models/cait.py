from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from ..layers import (
    AnyArray,
    Block,
    check_choice,
    check_multiple,
    check_numbers,
    CrossAttention,
    FeedForward,
    gelu,
    LayerNorm,
    LayerScale,
    Linear,
    on_cuda,
    pair,
    PatchEmbedding,
    softmax,
    split_key,
    Stack,
    takes_an_image,
    widen,
)


class TalkingHeadsAttention(eqx.Module):
    """Attention whose heads are mixed before and after the softmax.

    [Talking-Heads Attention](https://arxiv.org/abs/2003.02436).
    """

    qkv: Linear
    mix_logits: Linear
    mix_probabilities: Linear
    output: Linear
    dropout: eqx.nn.Dropout
    heads: int = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        heads: int,
        dim_head: int,
        dropout: float,
        qkv_bias: bool,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:** as [`eqx_vit.CaiT`][]."""
        qkv_key, logits_key, probabilities_key, output_key = jr.split(key, 4)
        inner_dim = heads * dim_head
        self.qkv = Linear(dim, 3 * inner_dim, qkv_bias, key=qkv_key)
        self.mix_logits = Linear(heads, heads, key=logits_key)
        self.mix_probabilities = Linear(heads, heads, key=probabilities_key)
        self.output = Linear(inner_dim, dim, key=output_key)
        self.dropout = eqx.nn.Dropout(dropout)
        self.heads = heads

    def __call__(
        self, x: Float[Array, "tokens dim"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "tokens dim"]:
        probability_key, output_key = split_key(key, 2)
        q, k, v = rearrange(
            self.qkv(x), "n (qkv h d) -> qkv h n d", qkv=3, h=self.heads
        )
        logits = jnp.einsum("hqd,hkd->hqk", q * q.shape[-1] ** -0.5, k)
        probabilities = softmax(_mix(self.mix_logits, logits))
        probabilities = checkpoint_name(probabilities, "attention")
        probabilities = _mix(self.mix_probabilities, probabilities)
        probabilities = self.dropout(probabilities, key=probability_key)
        x = rearrange(jnp.einsum("hqk,hkd->hqd", probabilities, v), "h n d -> n (h d)")
        x = self.dropout(self.output(x), key=output_key)
        return checkpoint_name(x, "attention_output")


def _mix(
    linear: Linear, maps: Float[Array, "heads queries keys"]
) -> Float[Array, "heads queries keys"]:
    """A linear layer over heads, which here are the first axis."""
    assert linear.bias is not None
    matrix, bias = linear.matrix(), linear.bias[:, None, None]
    if len(matrix) < 8 and on_cuda():
        # A product would pad the maps to 8 heads. A sum is part of the softmax's loops.
        columns = widen(matrix.T)[..., None, None]
        x = sum(column * one for column, one in zip(columns, widen(maps)))
        return (x + widen(bias)).astype(maps.dtype)
    mixed = jnp.einsum("gh,hqk->gqk", matrix.astype(maps.dtype), maps)
    return mixed + bias.astype(maps.dtype)


class ClassBlock(eqx.Module):
    """A block in which the class token alone attends, to itself and the patches."""

    norm1: LayerNorm
    attention: CrossAttention
    layer_scale1: LayerScale
    norm2: LayerNorm
    feed_forward: FeedForward
    layer_scale2: LayerScale

    def __init__(
        self,
        dim: int,
        attention: CrossAttention,
        feed_forward: FeedForward,
        norm_eps: float,
        layer_scale: float,
    ):
        """**Arguments:** as [`eqx_vit.layers.Block`][]."""
        self.norm1 = LayerNorm(dim, norm_eps)
        self.attention = attention
        self.layer_scale1 = LayerScale(dim, layer_scale)
        self.norm2 = LayerNorm(dim, norm_eps)
        self.feed_forward = feed_forward
        self.layer_scale2 = LayerScale(dim, layer_scale)

    def __call__(
        self,
        x: Float[Array, "1 dim"],
        drop_rate: float | Float[Array, ""],
        patches: Float[Array, "patches dim"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "1 dim"]:
        del drop_rate  # no stochastic depth here, as in the authors' code
        attention_key, mlp_key = split_key(key, 2)
        tokens = self.norm1(jnp.concatenate([x, patches]))
        branch = self.attention(tokens[:1], tokens, key=attention_key)
        x = x + self.layer_scale1(branch)
        x = x + self.layer_scale2(self.feed_forward(self.norm2(x), key=mlp_key))
        return checkpoint_name(x, "class_block")


class CaiT(eqx.Module):
    r"""Class-attention in image transformers: patches attend to each other first, then
    a class token attends to them.

    LayerScale on every branch and talking heads let the patches' transformer be deep.
    The structure is the authors' as timm builds it. Departures of vit-pytorch and
    vit-flax that are not followed: talking heads without bias, and in class attention
    too; patches not normalised where the class token attends to them; LayerScale by the
    index of a block. `layer_dropout` is the authors' stochastic depth, a draw per
    example and branch, instead of the removal of layers for a whole batch, in inference
    too.

    ??? cite

        [Going deeper with Image Transformers](https://arxiv.org/abs/2103.17239)

        ```bibtex
        @inproceedings{touvron2021going,
            title={Going deeper with Image Transformers},
            author={Touvron, Hugo and Cord, Matthieu and Sablayrolles, Alexandre and
                    Synnaeve, Gabriel and J{\'e}gou, Herv{\'e}},
            booktitle={IEEE/CVF International Conference on Computer Vision},
            year={2021},
        }
        ```
    """

    patch_embedding: PatchEmbedding
    position_embedding: Float[Array, "patches dim"]
    dropout: eqx.nn.Dropout
    patch_transformer: Stack
    class_token: Float[Array, "1 dim"]
    class_transformer: Stack
    norm: LayerNorm
    head: Linear | None
    image_size: tuple[int, int] = eqx.field(static=True)
    channels: int = eqx.field(static=True)
    pool: str = eqx.field(static=True)

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 256,
        patch_size: int | tuple[int, int] = 32,
        num_classes: int = 1000,
        dim: int = 1024,
        depth: int = 12,
        cls_depth: int = 2,
        heads: int = 16,
        mlp_dim: int = 2048,
        pool: str = "cls",
        channels: int = 3,
        dim_head: int = 64,
        dropout: float = 0.0,
        emb_dropout: float = 0.0,
        layer_dropout: float = 0.0,
        qkv_bias: bool = False,
        norm_eps: float = 1e-6,
        activation: Callable = gelu,
        layer_scale: float | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:** all are keyword only.

        - `image_size`: The side of the image in pixels, or its `(height, width)`;
            multiples of `patch_size`.
        - `patch_size`: The side of a patch in pixels, or its `(height, width)`.
        - `num_classes`: The number of classes; 0 returns the features that would enter
            the head.
        - `dim`: The size of a token.
        - `depth`: The number of blocks in which patches attend to patches.
        - `cls_depth`: The number of blocks in which the class token attends to them.
        - `heads`: The number of attention heads in a block.
        - `mlp_dim`: The size of the hidden layer of the feed-forward network.
        - `pool`: The input of the head: `"cls"`, the class token; or `"mean"`, the mean
            over the patches' tokens, as timm's `global_pool="avg"`.
        - `channels`: The number of channels of the image.
        - `dim_head`: The size of a query, a key or a value, per head.
        - `dropout`: Dropout rate inside the transformers.
        - `emb_dropout`: Dropout rate on the embedded patches.
        - `layer_dropout`: The rate at which each branch of a patches' block is dropped,
            the same at every depth, in training only.
        - `qkv_bias`: Whether queries, keys and values have a bias.
        - `norm_eps`: The `eps` of all normalisations.
        - `activation`: The activation of the feed-forward networks.
        - `layer_scale`: The initial value of LayerScale; by default the paper's, 0.1 up
            to a depth of 18, 1e-5 up to 24, and 1e-6 beyond.
        - `key`: A `jax.random.key` used to initialise the parameters.

        **Raises:**

        A `ValueError` that names the argument, its value and the nearest legal one.
        """
        check_numbers(CaiT.__init__, locals())
        check_multiple("image_size", image_size, "patch_size", patch_size)
        check_choice("pool", pool, ("cls", "mean"))
        if layer_scale is None:
            layer_scale = 0.1 if depth <= 18 else 1e-5 if depth <= 24 else 1e-6
        patch_key, position_key, stack_key, class_key, head_key = jr.split(key, 5)
        token_key, class_key = jr.split(class_key)
        self.image_size = height, width = pair(image_size)
        self.channels = channels
        self.pool = pool
        self.patch_embedding = PatchEmbedding(patch_size, channels, dim, key=patch_key)
        patch_height, patch_width = self.patch_embedding.patch_size
        patches = (height // patch_height) * (width // patch_width)
        self.position_embedding = 0.02 * jr.normal(position_key, (patches, dim))
        self.dropout = eqx.nn.Dropout(emb_dropout)
        sizes = (dim, heads, dim_head, dropout, qkv_bias)

        def make_block(key):
            attention_key, mlp_key = jr.split(key)
            attention = TalkingHeadsAttention(*sizes, key=attention_key)
            mlp = FeedForward(dim, mlp_dim, dropout, activation, key=mlp_key)
            return Block(dim, attention, mlp, norm_eps, layer_scale)

        def make_class_block(key):
            attention_key, mlp_key = jr.split(key)
            attention = CrossAttention(*sizes, key=attention_key)
            mlp = FeedForward(dim, mlp_dim, dropout, activation, key=mlp_key)
            return ClassBlock(dim, attention, mlp, norm_eps, layer_scale)

        rates = (layer_dropout,) * depth
        self.patch_transformer = Stack(make_block, depth, rates, key=stack_key)
        self.class_token = 0.02 * jr.normal(token_key, (1, dim))
        self.class_transformer = Stack(make_class_block, cls_depth, key=class_key)
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
        dropout_key, patch_key, class_key = split_key(key, 3)
        x = self.patch_embedding(image)
        x = x + self.position_embedding.astype(x.dtype)
        x = self.dropout(x, key=dropout_key)
        patches = self.patch_transformer(x, key=patch_key)
        if self.pool == "mean":
            x = jnp.mean(self.norm(patches), axis=0)
        else:
            class_token = self.class_token.astype(x.dtype)
            x = self.class_transformer(class_token, patches, key=class_key)
            x = self.norm(x[0])
        return x if self.head is None else self.head(x)
