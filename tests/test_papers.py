"""What sets each paper's model apart, one claim a test."""

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from eqx_vit.layers import Buffer, Conv, unfold
from eqx_vit.models.small_dataset_vit import LocalitySelfAttention

from .helpers import assert_close, copied, equal, models, randomised


def test_the_patch_merger_averages(getkey):
    """Each token that comes out is a convex combination of normalised ones."""
    merger = eqx_vit.PatchMerger(8, 3, key=getkey())
    for tokens in (2, 20):
        assert merger(jr.normal(getkey(), (tokens, 8))).shape == (3, 8)
    constant = jnp.tile(jr.normal(getkey(), (1, 8)), (5, 1))
    assert_close(merger(constant), jnp.tile(merger.norm(constant[:1]), (3, 1)))


@pytest.mark.parametrize("cardinal, reach", [(False, 4), (True, 1)])
def test_shifted_patches_see_beyond_their_borders(cardinal, reach, getkey):
    spt = eqx_vit.SPT(6, 8, channels=1, cardinal_shifts=cardinal, key=getkey())
    image = jr.normal(getkey(), (24, 24, 1))
    token = lambda image: spt(image)[4].sum()  # of the patch in the middle
    seen = np.any(np.asarray(jax.jit(jax.grad(token))(image))[..., 0] != 0, axis=0)
    assert np.flatnonzero(seen).tolist() == list(range(8 - reach, 16 + reach))


def test_no_token_attends_to_itself(getkey):
    attention = LocalitySelfAttention(8, 2, 4, 0.0, key=getkey())
    x = jr.normal(getkey(), (2, 8))
    values = jnp.split(attention.qkv(x), 3, axis=-1)[2]
    # Of two tokens each can only see the other.
    assert_close(attention(x), attention.output(values[::-1]))


def test_attention_of_deep_vit_is_normalised_over_the_batch(getkey):
    model, state = eqx.nn.make_with_state(models["DeepViT"])(
        dropout=0.0, emb_dropout=0.0, key=getkey()
    )
    images = jr.normal(getkey(), (2, 32, 32, 3))
    batched = jax.vmap(model, (0, None), (0, None), axis_name="batch")
    logits, new_state = batched(images, state)
    index = model.stacks[1].blocks.attention.mix.norm.running_var
    assert new_state.get(index).shape == (1, 2)  # blocks, heads
    assert not np.allclose(new_state.get(index), state.get(index))
    # Another second image changes the first one's logits, in training only.
    other = images.at[1].set(0)
    assert not np.allclose(batched(other, state)[0][0], logits[0], atol=1e-4)


def test_layer_dropout_of_cait_draws_for_each_example(getkey):
    model = models["CaiT"](
        dropout=0.0, emb_dropout=0.0, layer_dropout=0.5, layer_scale=1.0, key=getkey()
    )
    images = jnp.tile(jr.normal(getkey(), (32, 32, 3)), (16, 1, 1, 1))
    keys = jr.split(getkey(), 16)
    logits = eqx.filter_jit(jax.vmap(lambda x, key: model(x, key=key)))(images, keys)
    kinds = {tuple(row) for row in jnp.round(logits, 3).tolist()}
    assert 4 < len(kinds) <= 16  # two blocks of two branches make sixteen


def test_both_directions_of_cross_vit_start_from_the_same_tokens(getkey):
    model = eqx.nn.inference_mode(models["CrossViT"](key=getkey()))
    arrays, static = eqx.partition(model.transformer.blocks, eqx.is_array)
    block = eqx.combine(jax.tree.map(lambda a: a[0], arrays), static)
    small, large = jr.normal(getkey(), (17, 8)), jr.normal(getkey(), (5, 16))

    @jax.jit
    def parts(small, large):
        small, large = block.small(small), block.large(large)
        fused = block.small_fusion(small, large), block.large_fusion(large, small)
        return small, fused

    new_small, new_large = eqx.filter_jit(block)((small, large), 0.0)
    small, fused = parts(small, large)
    assert_close(new_small, fused[0])
    assert_close(new_large, fused[1])
    assert_close(new_small[1:], small[1:])  # the exchange is the class tokens' alone


@pytest.mark.parametrize("kernel, stride, padding", [(7, 4, 2), (3, 2, 1), (2, 2, 0)])
def test_the_soft_split_is_an_unfold_without_a_gather(kernel, stride, padding, getkey):
    x = jr.normal(getkey(), (16, 20, 3))
    patches = jax.lax.conv_general_dilated_patches(
        x.transpose(2, 0, 1)[None],
        (kernel, kernel),
        (stride, stride),
        [(padding, padding)] * 2,
    )[0].transpose(1, 2, 0)
    split = lambda x: unfold(x, kernel, stride, padding)
    assert_close(jax.jit(split)(x), patches)
    jaxpr = str(jax.make_jaxpr(jax.grad(lambda x: (split(x) ** 2).sum()))(x))
    assert "gather" not in jaxpr and "scatter" not in jaxpr


@pytest.mark.slow
def test_buffers_of_t2t_vit_are_not_trained(getkey):
    """Neither by gradients nor by weight decay."""
    made = eqx.nn.make_with_state(models["T2TViT"])(performer=True, key=getkey())
    model, state = copied(made)
    optimizer = optax.adamw(1e-2, weight_decay=0.5)
    opt_state = jax.jit(optimizer.init)(eqx.filter(model, eqx.is_inexact_array))
    images = jr.normal(getkey(), (2, 32, 32, 3))
    with jax.numpy_dtype_promotion("standard"):
        model, *_ = eqx_vit.train_step(
            model, state, opt_state, images, jnp.arange(2), optimizer, key=getkey()
        )
    for buffers in (
        lambda model: model.position_embedding,
        lambda model: [layer.features for layer in model.token_attentions],
    ):
        assert equal(buffers(model), buffers(made[0]))
    old, new = made[0].token_attentions[0], model.token_attentions[0]
    assert not np.allclose(old.kqv.weight, new.kqv.weight)


def test_a_buffer_holds_its_value(getkey):
    value = jr.normal(getkey(), (3, 4))
    assert np.array_equal(Buffer(value).value, value)


def test_random_features_approach_softmax_attention(getkey):
    """The more features, the closer the performer is to exp(qk)."""
    from eqx_vit.models.t2t_vit import TokenPerformer

    q, k = 0.25 * jr.normal(getkey(), (2, 4, 16))
    errors = []
    for features in (16, 16_000):
        performer = TokenPerformer(16, 16, 1e-5, jax.nn.gelu, key=getkey())
        buffer = Buffer(jr.normal(getkey(), (features, 16)))
        performer = eqx.tree_at(lambda p: p.features, performer, buffer)
        estimate = performer._project(q) @ performer._project(k).T
        errors.append(float(jnp.abs(estimate / jnp.exp(q @ k.T) - 1).mean()))
    assert errors[1] < 0.05 < errors[0]


def test_pooling_of_pit_halves_the_map_and_doubles_the_width(getkey):
    model = models["PiT"](key=getkey())
    class_tokens, x = model.poolings[0](jnp.ones((1, 8)), jnp.ones((7, 5, 8)))
    assert class_tokens.shape == (1, 16) and x.shape == (4, 3, 16)


@pytest.mark.parametrize("kernel, stride", [(3, 2), ((3, 2), (2, 1))])
def test_convolution(getkey, kernel, stride):
    conv = Conv(3, 5, kernel, stride, 1, key=getkey())
    x = jr.normal(getkey(), (9, 8, 3))
    patches = unfold(x, kernel, stride, 1)
    weight = conv.weight.transpose(2, 0, 1, 3).reshape(-1, 5)
    assert conv.bias is not None
    assert_close(conv(x), patches @ weight + conv.bias)


def test_parallel_branches_are_summed(getkey):
    model = randomised(models["ParallelViT"](key=getkey()), getkey())
    model = eqx.nn.inference_mode(model)
    arrays, static = eqx.partition(model.transformer.blocks, eqx.is_array)
    block = eqx.combine(jax.tree.map(lambda a: a[0], arrays), static)
    x = expected = jr.normal(getkey(), (5, 16))
    for branches in (block.attentions, block.feed_forwards):
        arrays, static = eqx.partition(branches, eqx.is_array)
        before = expected
        for i in range(2):
            branch = eqx.combine(jax.tree.map(lambda a: a[i], arrays), static)
            expected = expected + eqx.filter_jit(branch)(before, 0.0)
    assert_close(eqx.filter_jit(block)(x), expected)
