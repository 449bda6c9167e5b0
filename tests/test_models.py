"""What every architecture promises; each property is stated once."""

import inspect
import pickle
from typing import Any

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import optax
import pytest

from .helpers import copied, equal, HEAVY, images_for, models, not_square


LABELS = jnp.arange(4)


@pytest.fixture(scope="module", params=models)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def made(name):
    return eqx.nn.make_with_state(models[name])(key=jr.key(0))


@pytest.fixture(scope="module")
def images(name):
    return images_for(name)


def test_logits_have_one_entry_a_class(made, images):
    model, state = made
    assert eqx_vit.predict(model, images, state).shape == (4, 10)


# (The four that stand for all: every operation by itself takes long to compile.)
@pytest.mark.parametrize("eager_name", ["ViT", "CaiT", "DeepViT", "NesT"])
def test_jit_equals_eager(eager_name):
    model, state = eqx.nn.make_with_state(models[eager_name])(key=jr.key(0))
    images = images_for(eager_name)
    eager = eqx.nn.Sequential([eqx.nn.inference_mode(model)])(images[0], state)[0]
    jitted = eqx_vit.predict(model, images, state)[0]
    assert np.allclose(eager, jitted, rtol=1e-5, atol=1e-5)


def test_examples_are_independent_in_inference(made, images):
    model, state = made
    logits = eqx_vit.predict(model, images, state)
    others = eqx_vit.predict(model, images.at[1:].set(0), state)
    assert np.allclose(logits[0], others[0], atol=1e-6)
    assert not np.allclose(logits[1], others[1], atol=1e-6)


def test_training_needs_a_key(made, images):
    model, state = made
    model = eqx.nn.Sequential([model])
    options: Any = dict(in_axes=(0, None), out_axes=(0, None), axis_name="batch")
    batched = jax.vmap(lambda image, state: model(image, state, key=None), **options)
    with pytest.raises(RuntimeError, match="key"):
        eqx.filter_eval_shape(batched, images, state)


@pytest.mark.slow_for(*HEAVY - {"PiT"})
def test_training(made, images):
    """Every parameter moves, the loss falls, keys count, one trace serves."""
    before, (model, state) = made, copied(made)
    adam, traces = optax.adam(1e-2), []

    def update(updates, state, params=None):
        traces.append(None)
        with jax.numpy_dtype_promotion("standard"):  # Optax needs it
            return adam.update(updates, state, params)

    optimizer = optax.GradientTransformation(adam.init, update)
    opt_state = jax.jit(optimizer.init)(eqx.filter(model, eqx.is_inexact_array))

    def step(model, state, opt_state, key):
        arguments = (model, state, opt_state, images, LABELS, optimizer)
        return eqx_vit.train_step(*arguments, key=key)

    losses = []
    for key in jr.split(jr.key(0), 10):
        model, state, opt_state, loss = step(model, state, opt_state, key)
        losses.append(loss)
    assert losses[-1] < losses[0]
    first, same, other = (
        step(copied(model), copied(state), copied(opt_state), jr.key(i))[-1]
        for i in (1, 1, 2)
    )
    assert first == same and first != other
    assert len(traces) == 1
    params, _ = jax.tree_util.tree_flatten_with_path(
        eqx.filter((before[0], model), eqx.is_inexact_array)
    )
    olds, news = params[: len(params) // 2], params[len(params) // 2 :]
    still = [
        jax.tree_util.keystr(path)
        for (path, old), (_, new) in zip(olds, news, strict=True)
        if np.array_equal(old, new)
    ]
    assert not still


def test_serialisation(name, made, tmp_path):
    eqx.tree_serialise_leaves(tmp_path / "model.eqx", made)
    like = eqx.filter_eval_shape(eqx.nn.make_with_state(models[name]), key=jr.key(0))
    loaded = eqx.tree_deserialise_leaves(tmp_path / "model.eqx", like)
    assert equal(loaded, made)


WRONG_SHAPES = {
    (32, 32): "without channels",
    (2, 32, 32, 3): "a single image",
    (3, 32, 32): "did you pass channels first",
    (32, 32, 4): "with `channels=4`",
}


@pytest.mark.parametrize("shape", WRONG_SHAPES)
def test_wrong_shape(name, made, shape):
    model, state = made
    hint = "image" if name == "Eighteenth" else WRONG_SHAPES[shape]
    with pytest.raises(jaxtyping.TypeCheckError, match=hint):
        eqx.nn.Sequential([model])(jnp.zeros(shape), state)


def test_another_size_and_integers_are_refused():
    model = models["ViT"](key=jr.key(0))
    reason = r"shape \(64, 48, 3\).* takes \(32, 32, 3\).*resize\(model, \(64, 48\)\)"
    with pytest.raises(jaxtyping.TypeCheckError, match=reason):
        eqx_vit.predict(model, jnp.zeros((2, 64, 48, 3)))
    with pytest.raises(jaxtyping.TypeCheckError, match="type uint8; it must be float"):
        model(jnp.zeros((32, 32, 3), "uint8"))
    with pytest.raises(jaxtyping.TypeCheckError, match="an array of JAX or NumPy"):
        model([[0.0]])  # pyright: ignore


def test_not_square_and_other_channels(name):
    sides, settings = not_square[name]
    make = eqx.nn.make_with_state(models[name])
    model, state = eqx.filter_eval_shape(make, **settings, channels=5, key=jr.key(0))
    images = jax.ShapeDtypeStruct((1, *sides, 5), jnp.float32)
    logits = eqx.filter_eval_shape(eqx_vit.predict, model, images, state)
    assert jax.tree.leaves(logits)[0].shape == (1, 10)


@pytest.mark.slow_for(*HEAVY)
def test_half_precision(made, images):
    model, state = made
    logits = eqx_vit.predict(model, 100 * images.astype("float16"), state)
    assert logits.dtype == "float16" and jnp.all(jnp.isfinite(logits))
    wider = images.astype("bfloat16")
    assert (
        eqx.filter_eval_shape(eqx_vit.predict, model, wider, state).dtype == "bfloat16"
    )


def test_no_classes_give_features(name, images):
    make = eqx.nn.make_with_state(models[name])

    def features(key):
        model, state = make(num_classes=0, key=key)
        model = eqx.nn.inference_mode(model)
        return eqx.nn.Sequential([model])(images[0], state)[0]

    (leaf,) = jax.tree.leaves(eqx.filter_eval_shape(features, jr.key(0)))
    assert leaf.shape == ({"CrossViT": 8 + 16, "CrossFormer": 64}.get(name, 16),)


def test_arrays_of_numpy(made, images):
    model, state = made
    for dtype in (np.float32, np.float64):
        image: Any = np.asarray(images[0], dtype)
        call = lambda model, state: eqx.nn.Sequential([model])(image, state)[0]
        shape = eqx.filter_eval_shape(call, eqx.nn.inference_mode(model), state)
        assert shape.shape == (10,) and shape.dtype == jnp.float32


def test_a_model_is_pickled(made):
    assert equal(pickle.loads(pickle.dumps(made)), made)


ACTIVATED = [
    name
    for name, make in models.items()
    if "activation" in inspect.signature(make.func).parameters
]


@pytest.mark.parametrize("model", ACTIVATED)
def test_an_activation_of_jax_is_pickled(model):
    made = eqx.filter_eval_shape(models[model], activation=jax.nn.silu, key=jr.key(0))
    again = pickle.loads(pickle.dumps(made))
    assert len(jax.tree.leaves(again)) == len(jax.tree.leaves(made))
