import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from einops import rearrange
from eqx_vit.interpret.capture import interpret
from eqx_vit.layers import (
    _conv,
    _cudnn,
    attend,
    Attention,
    BatchNorm,
    Block,
    Conv,
    DepthwiseConv,
    FeedForward,
    gelu,
    gelu_tanh,
    LayerNorm,
    Linear,
    PatchEmbedding,
    quick_gelu,
    softmax,
    split_key,
    Stack,
    stack,
    stacked,
    StochasticDepth,
    uniform,
)
from eqx_vit.models import cait
from eqx_vit.models.cait import TalkingHeadsAttention
from eqx_vit.models.simple_vit import sincos_2d

from .helpers import assert_close, equal, randomised


def test_split_key_hands_none_on(getkey):
    assert split_key(None, 3) == [None, None, None]
    first, second = split_key(getkey(), 2)
    assert jnp.any(first != second)


# (A row longer than 4**9 numbers is of another length.)
@pytest.mark.parametrize("shape", [(), (0, 4), (7, 5, 3), (600, 500)])
def test_uniform_draws_the_numbers_of_jax(shape, getkey):
    key = getkey()
    wanted = jr.uniform(key, shape, minval=-0.3, maxval=0.3)
    traced = jax.vmap(lambda key: uniform(key, shape, 0.3))(key[None])
    for numbers in (uniform(key, shape, 0.3), traced[0]):
        assert equal(numbers, wanted)


def test_stacks_of_modules_that_hold_a_key(getkey):
    class Noisy(eqx.Module):
        key: Any

    keys = jr.split(jr.key(0), 2)
    assert equal(stacked(Noisy, keys).key, keys)


def test_parameters_stay_where_the_key_is(getkey):
    device = jax.devices()[0]
    key = jax.device_put(jr.key(0), device)
    numbers, pair = uniform(key, (3,), 0.3), stack([jax.device_put(0.0, device)] * 2)
    assert numbers.committed and pair.committed
    assert equal(numbers, jr.uniform(key, (3,), minval=-0.3, maxval=0.3))


def test_new_layers_share_the_program_that_draws(getkey, caplog):
    with jax.log_compiles():
        stacked(
            lambda key: [Linear(2, n, key=key) for n in range(1001, 1009)],
            getkey()[None],
        )
        jax.jit(lambda x: x + 1)(1.0)  # What is compiled is seen.
    compiled = [r.message for r in caplog.records if "Finished XLA" in r.message]
    number = lambda name: sum(name in message for message in compiled)
    assert number("<lambda>") == 1
    assert number("_uniform") <= 2 and number("jit(stack)") == 0


@pytest.mark.parametrize("leading", [(), (5,), (2, 3, 4)])
def test_layers_take_the_last_axis(leading, getkey):
    x = jr.normal(getkey(), (*leading, 6))
    linear = Linear(6, 7, key=getkey())
    norm = randomised(LayerNorm(6), getkey())
    normalised = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(
        x.var(-1, keepdims=True) + norm.eps
    )
    assert linear.bias is not None
    assert_close(linear(x), jnp.tensordot(x, linear.weight, (-1, -1)) + linear.bias)
    assert_close(norm(x), normalised * norm.weight + norm.bias)


def test_activations():
    x = jnp.linspace(-3, 3, 7)
    erf = jax.scipy.special.erf(x / jnp.sqrt(2.0))
    inner = jnp.sqrt(2 / jnp.pi) * (x + 0.044715 * x**3)
    assert_close(gelu(x), 0.5 * x * (1 + erf))
    assert_close(gelu_tanh(x), 0.5 * x * (1 + jnp.tanh(inner)))
    assert_close(quick_gelu(x), x / (1 + jnp.exp(-1.702 * x)))


def test_statistics_are_taken_in_float32():
    x = jnp.full((1, 4096), 300.0, jnp.float16).at[0, ::2].set(-300.0)
    assert jnp.all(jnp.abs(LayerNorm(4096)(x)) == 1)  # the squares overflow float16
    assert softmax(jnp.zeros((1, 4096), jnp.float16)).sum(dtype=jnp.float32) == 1


@pytest.mark.parametrize("queries", [7, 300])  # at once, and in blocks
def test_attention_and_what_is_seen_of_it(queries, getkey):
    # Two windows of three heads; the bias is that of both.
    shapes = ((2, 3, queries, 4), (2, 3, 270, 4), (2, 3, 270, 5), (3, 1, 270))
    inputs = [jr.normal(getkey(), shape) for shape in shapes]
    weight = jr.normal(getkey(), (2, queries, 15))

    def plain(q, k, v, bias, offset: float | jax.Array = 0.0):
        maps = jax.nn.softmax(q @ k.mT / 2 + bias) + offset
        return rearrange(maps @ v, "w h n d -> w n (h d)"), maps

    def model(inputs, *, key=None):
        return attend(*inputs)

    def weighted(function, *arguments):
        return jnp.sum(weight * function(*arguments)[0])

    @jax.jit
    def check(inputs):
        out, [(_, seen)] = interpret(model, ["attention"], inputs)
        look = lambda o: interpret(model, ["attention"], inputs, offsets=[o])
        offset, attended = jnp.zeros_like(seen), lambda *inputs: (attend(*inputs),)
        ours, theirs = (
            jax.grad(lambda inputs: weighted(f, *inputs))(inputs)
            for f in (attended, plain)
        )
        ours = out, seen, ours, jax.grad(lambda o: weighted(look, o))(offset)
        to_offset = jax.grad(lambda o: weighted(plain, *inputs, o))(offset)
        return ours, (*plain(*inputs), theirs, to_offset)

    jax.tree.map(assert_close, *check(inputs))


def test_patch_embedding_is_a_convolution(getkey):
    image = jr.normal(getkey(), (12, 8, 3))
    embed = PatchEmbedding((4, 2), 3, 5, key=getkey())
    kernel = embed.linear.weight.reshape(5, 4, 2, 3)
    numbers = ("NHWC", "OHWI", "NHWC")
    out = jax.lax.conv_general_dilated(
        image[None], kernel, (4, 2), "VALID", dimension_numbers=numbers
    )
    assert embed.linear.bias is not None
    assert_close(embed(image), out.reshape(-1, 5) + embed.linear.bias)


@pytest.mark.parametrize(
    "multiplier, kernel_size, stride, padding",
    [
        ("all", 3, 2, 1),
        ("all", 5, 1, 2),
        ("all", 2, 2, 1),  # fewer places than channels
        ("all, on a GPU", 3, 2, 1),
        ("all, on a GPU", 5, 1, 2),
        ("all, on a GPU", 2, 2, 1),
        (1, 3, 1, 1),
        (1, 3, 2, 1),
        (1, 5, 1, 2),
        (1, 2, 2, 0),
        (2, 3, 2, 1),
        (2, 5, 1, 2),
        (2, 3, 3, 0),
        (3, 3, 1, 1),
    ],
)
def test_convolutions_and_derivatives_are_xlas(
    multiplier, kernel_size, stride, padding, getkey, monkeypatch
):
    monkeypatch.setattr(_conv, "on_cuda", lambda: multiplier == "all, on a GPU")
    if isinstance(multiplier, int):
        shape, groups = (kernel_size, kernel_size, 1, 4 * multiplier), 4
        numbers = (4, kernel_size, stride, padding, multiplier)
        conv = DepthwiseConv(*numbers, key=getkey())
    else:
        shape, groups = (kernel_size, kernel_size, 4, 6), 1
        conv = Conv(4, 6, kernel_size, stride, padding, key=getkey())

    @functools.partial(jax.vmap, in_axes=(0, None, None))
    def xlas(x, weight, bias):
        out = jax.lax.conv_general_dilated(
            x[None],
            weight.reshape(shape),
            (stride, stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )[0]
        return out + bias

    @functools.partial(jax.vmap, in_axes=(0, None, None))
    def ours(x, *parameters):
        return eqx.tree_at(lambda c: (c.weight, c.bias), conv, parameters)(x)

    assert conv.bias is not None
    shapes = ((2, 7, 8, 4), conv.weight.shape, conv.bias.shape)
    primals, tangents = (
        tuple(jr.normal(getkey(), shape) for shape in shapes) for _ in range(2)
    )

    def derivatives(function):
        out, pull = jax.vjp(function, *primals)
        return jax.jvp(function, primals, tangents), pull(out)

    both = jax.jit(lambda: (derivatives(ours), derivatives(xlas)))
    jax.tree.map(assert_close, *both())


def test_stochastic_depth_draws_once_an_example(getkey):
    drop = jax.vmap(lambda x, key: StochasticDepth()(x, 0.25, key=key))
    out = drop(jnp.ones((2000, 3, 2)), jr.split(getkey(), 2000)).reshape(2000, 6)
    assert np.all((out == 0).all(axis=1) | np.isclose(out, 1 / 0.75).all(axis=1))
    assert abs(float((out == 0).mean()) - 0.25) < 0.04


def test_stochastic_depth_in_inference_and_without_rate():
    x = jnp.ones(3)
    assert StochasticDepth()(x, 0.0) is x
    assert eqx.nn.inference_mode(StochasticDepth())(x, 0.5) is x
    with pytest.raises(RuntimeError, match="key"):
        StochasticDepth()(x, 0.5)


def test_stack_is_its_blocks_one_by_one(getkey):
    def make(key):
        attention_key, mlp_key = jr.split(key)
        attention = Attention(8, 2, 4, key=attention_key)
        return Block(8, attention, FeedForward(8, 16, key=mlp_key), layer_scale=0.1)

    stack = randomised(Stack(make, 3, key=getkey()), getkey())
    x = expected = jr.normal(getkey(), (5, 8))
    arrays, static = eqx.partition(stack.blocks, eqx.is_array)
    for i in range(3):
        block = eqx.combine(jax.tree.map(lambda a: a[i], arrays), static)
        expected = block(expected)
    assert_close(stack(x), expected)


def test_stack_blocks_differ_and_drop_more_with_depth(getkey):
    stack = Stack(lambda key: Linear(8, 8, key=key), 3, 0.2, key=getkey())
    weight = stack.blocks.weight
    assert not np.allclose(weight[0], weight[1])
    assert stack.drop_rates == (0.0, 0.1, 0.2)


def _batched(norm, state, x):
    return jax.vmap(norm, (0, None), (0, None), axis_name="batch")(x, state)


@pytest.fixture
def cudnn(monkeypatch):
    """The shapes of queries and keys that cuDNN is asked to take; JAX's own attention,
    the same function, stands in for it."""
    asked, attention = [], jax.nn.dot_product_attention

    def stand_in(q, k, v, *, implementation, **settings):
        assert implementation == "cudnn"
        # (JAX 0.10 cannot map over a batch where only one of them is given.)
        assert sum(name.endswith("_seq_lengths") for name in settings) in (0, 2)
        asked.append((q.shape, k.shape))
        return attention(q, k, v, **settings)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    monkeypatch.setattr(_cudnn, "on_cuda", lambda: True)
    with jax.numpy_dtype_promotion("standard"):  # (JAX's own promotes.)
        yield asked


@pytest.mark.parametrize("windows, queries, keys", [((), 7, 7), ((3, 2), 6, 5)])
def test_attention_in_cudnn(windows, queries, keys, getkey, cudnn):
    q, k, v = (
        jr.normal(getkey(), (2, *windows, 3, n, 8), jnp.bfloat16)
        for n in (queries, keys, keys)
    )

    def total(q, k, v):
        return jnp.sin(jax.vmap(attend)(q, k, v).astype(jnp.float32)).sum()

    # (Compiled anew for every dtype.)
    gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2)))
    in_cudnn = gradients(q, k, v)
    # Heads go third, and an even number of tokens second.
    assert cudnn[0][0][1:] == (queries + queries % 2, 3, 8)
    assert cudnn[0][1][1:] == (keys + keys % 2, 3, 8)
    wide = (x.astype(jnp.float32) for x in (q, k, v))
    exact = gradients(*wide)
    assert len(cudnn) == 1  # (Not in float32.)
    for ours, theirs in zip(jax.tree.leaves(in_cudnn), jax.tree.leaves(exact)):
        assert jnp.abs(ours - theirs).max() < 2e-2 * jnp.abs(theirs).max()


def test_a_token_more_for_cudnn(getkey, cudnn):
    attention = Attention(16, 2, 8, qkv_bias=True, key=getkey())
    x = jr.normal(getkey(), (5, 16))
    narrow, found = interpret(attention, ["attention"], x.astype(jnp.bfloat16))
    assert cudnn == [((1, 6, 2, 8),) * 2]
    assert [value.shape for _, value in found] == [(2, 5, 5)]
    assert jnp.abs(narrow - attention(x)).max() < 2e-2


def test_heads_mixed_without_a_product(getkey, monkeypatch):
    attention = TalkingHeadsAttention(16, 2, 8, 0.0, False, key=getkey())
    x = jr.normal(getkey(), (5, 16))
    # (A function for each, since JAX keeps what it traced.)
    with_products, without = (lambda x: jnp.sin(attention(x)).sum() for _ in range(2))
    products = lambda f: str(jax.make_jaxpr(f)(x)).count("dot_general")
    expected, number = jax.value_and_grad(with_products)(x), products(with_products)
    monkeypatch.setattr(cait, "on_cuda", lambda: True)
    assert products(without) == number - 2
    for ours, theirs in zip(jax.value_and_grad(without)(x), expected):
        assert_close(ours, theirs)


def test_padding_is_not_attended_to(getkey):
    q, k, v = (jr.normal(getkey(), (3, 6, 8)) for _ in range(3))
    short = attend(q[:, :-1], k[:, :-1], v[:, :-1])
    assert_close(attend(q, k, v, padding=1)[:-1], short)


def test_batch_norm(getkey):
    norm, state = eqx.nn.make_with_state(BatchNorm)(4)
    norm = randomised(norm, getkey())
    x = 3 + 2 * jr.normal(getkey(), (6, 5, 7, 4))
    out, state = _batched(norm, state, x)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    expected = (x - mean) / jnp.sqrt(variance + 1e-5) * norm.weight + norm.bias
    assert_close(out, expected)
    unbiased = x.var((0, 1, 2), ddof=1)
    assert_close(state.get(norm.running_mean), 0.1 * mean)
    assert_close(state.get(norm.running_var), 0.9 + 0.1 * unbiased)
    # In inference one example stands alone, with no named axis.
    one, _ = eqx.nn.inference_mode(norm)(x[0], state)
    scale = norm.weight / jnp.sqrt(0.9 + 0.1 * unbiased + 1e-5)
    assert_close(one, (x[0] - 0.1 * mean) * scale + norm.bias)


def test_batch_norm_of_one_value(getkey):
    norm, state = eqx.nn.make_with_state(BatchNorm)(4)
    with pytest.raises(ValueError, match="more than one value"):
        _batched(norm, state, jnp.ones((1, 4)))


def test_sincos_puts_the_column_first():
    table = sincos_2d((2, 3), 8)
    assert table.shape == (6, 8)
    row, column = 1, 2
    phases = [(np.array([1, 1e-4]) * place) for place in (column, row)]
    waves = np.concatenate([f(p) for p in phases for f in (np.sin, np.cos)])
    assert_close(table[row * 3 + column], waves)


def test_stacked_modules_are_those_of_vmap(getkey):
    keys = jr.split(getkey(), 3)
    make = lambda key: Linear(4, 5, key=key)
    assert equal(stacked(make, keys), eqx.filter_vmap(make)(keys))
    traced = eqx.filter_jit(lambda keys: stacked(make, keys))(keys)
    assert equal(stacked(make, keys), traced)
