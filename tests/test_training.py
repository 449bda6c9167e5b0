import re
from typing import Any

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from eqx_vit.layers import BatchNorm, Linear
from eqx_vit.training import FlatStep

from .helpers import assert_close, copied, equal, few, images_for, models, randomised


IMAGES = jr.normal(jr.key(1), (8, 32, 32, 3))
LABELS = jnp.arange(8)
SGD = optax.sgd(1e-2)


class BatchNormNet(eqx.nn.StatefulLayer):
    """A small model with BatchNorm, of a user's own."""

    linear: Linear
    norm: BatchNorm
    head: Linear

    def __init__(self, *, key):
        linear_key, head_key = jr.split(key)
        self.linear = Linear(3, 8, key=linear_key)
        self.norm = BatchNorm(8)
        self.head = Linear(8, 10, key=head_key)

    def __call__(self, image, state, *, key=None):
        x, state = self.norm(self.linear(image[::4, ::4]), state)
        return self.head(jax.nn.relu(x).mean((0, 1))), state


@pytest.fixture(scope="module")
def made():
    make = eqx.nn.make_with_state(models["ViT"])
    return make(dropout=0.0, emb_dropout=0.0, key=jr.key(0))


def step(made, labels=LABELS, **settings):
    model, state = copied(made)
    opt_state = SGD.init(eqx.filter(model, eqx.is_inexact_array))
    return eqx_vit.train_step(
        model, state, opt_state, IMAGES, labels, SGD, key=jr.key(0), **settings
    )


def test_soft_labels_equal_integer_labels(made):
    new, _, _, loss = step(made)
    soft, _, _, soft_loss = step(made, jax.nn.one_hot(LABELS, 10))
    assert_close(loss, soft_loss)
    assert_close(new.head.weight, soft.head.weight)
    model, state = made
    logits = eqx_vit.predict(model, IMAGES, state)
    integer = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)
    assert_close(loss, integer.mean())


def test_label_smoothing(made):
    smooth = 0.9 * jax.nn.one_hot(LABELS, 10) + 0.01
    assert_close(step(made, label_smoothing=0.1)[-1], step(made, smooth)[-1])


def test_a_label_that_is_no_class_gives_nan(made):
    for label in (-1, 10):
        assert jnp.isnan(step(made, LABELS.at[0].set(label))[-1])


def test_float16_is_widened_or_refused(made):
    model, state = made
    opt_state = SGD.init(eqx.filter(model, eqx.is_inexact_array))
    train_step: Any = eqx_vit.train_step
    half, losses = IMAGES.astype(jnp.float16), []
    for images in (half, half.astype(jnp.float32)):
        trees = copied((model, state, opt_state))
        losses.append(train_step(*trees, images, LABELS, SGD, key=jr.key(0))[-1])
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match="`compute_dtype='float16'` .*bfloat16"):
        step(made, compute_dtype=jnp.float16)


def test_mixed_precision(made):
    (model, state), half = made, IMAGES.astype(jnp.bfloat16)
    new, _, _, loss = step(made, compute_dtype=jnp.bfloat16)
    exact = step(made)
    assert {x.dtype for x in jax.tree.leaves(eqx.filter(new, eqx.is_array))} == {
        jnp.dtype("float32")
    }
    assert loss.dtype == jnp.float32
    assert loss != exact[-1] and np.allclose(loss, exact[-1], rtol=2e-2)
    jaxpr = str(eqx.filter_make_jaxpr(eqx_vit.predict)(model, half, state)[0])
    products = [line for line in jaxpr.splitlines() if "dot_general" in line]
    assert products and all("bf16[" in line.split("=")[0] for line in products)


def test_what_a_gpu_is_told(made):
    # No GPU is needed to lower for one.
    model, state = made
    opt_state = SGD.init(eqx.filter(model, eqx.is_inexact_array))
    flat = FlatStep(model, state, opt_state, SGD, compute_dtype=jnp.bfloat16)
    leaves = flat.leaves(model, state, opt_state)
    traced = flat._step.trace(leaves, IMAGES, LABELS, None, jr.key(0))
    program = traced.lower(lowering_platforms=("cuda",)).as_text().splitlines()
    of = lambda kind: [line for line in program if f"stablehlo.{kind}" in line]
    products, maps = of("dot_general"), "x17x17x"
    # Products in bfloat16; softmax and normalisations in float32; nothing in more.
    assert products and all(line.count("bf16>") == 3 for line in products)
    softmax = [line for line in of("exponential") if maps in line]
    assert softmax and all(f"{maps}f32>" in line for line in softmax)
    assert of("rsqrt") and all("xf32>" in line for line in of("rsqrt"))
    assert not any("f64>" in line for line in program)
    # Heads and images lead, the product's rows and columns follow.
    batched = [line for line in products if maps in line]
    assert all("batching_dims = [0, 1] x [0, 1]" in line for line in batched)


def test_blocks_written_out(made):
    model, state, images = randomised(made[0], jr.key(1)), made[1], IMAGES

    def compiled(model):
        infer = jax.jit(lambda images: eqx_vit.predict(model, images, state))
        return infer.lower(images).compile()

    def loops(program):
        return " while(" in str(program.as_text())

    loop, written_out = compiled(model), compiled(eqx_vit.training.unroll(model))
    assert loops(loop) and not loops(written_out)
    assert_close(written_out(images), loop(images))
    again = eqx_vit.training.rematerialise(eqx_vit.training.unroll(model))
    assert equal(again, eqx_vit.training.rematerialise(model))


def test_stacks_in_a_stack_are_unrolled(getkey):
    model = models["CrossViT"](key=getkey())
    unrolled = eqx_vit.training.unroll(model)
    image = images_for("CrossViT", 1)[0]
    program = str(jax.make_jaxpr(unrolled)(image, key=getkey()))
    loops = [re.findall(rf"{name}=(\d+)", program) for name in ("length", "unroll")]
    assert loops[0] and loops[0] == loops[1]
    again = eqx_vit.training.rematerialise(unrolled)
    assert equal(again, eqx_vit.training.rematerialise(model))


def test_buffers_are_donated(made):
    model, state = copied(made)
    opt_state = SGD.init(eqx.filter(model, eqx.is_inexact_array))
    eqx_vit.train_step(model, state, opt_state, IMAGES, LABELS, SGD, key=jr.key(0))
    assert model.head.weight.is_deleted()
    assert not IMAGES.is_deleted() and not LABELS.is_deleted()


def test_a_flat_step_is_the_step_and_compiles_once(made):
    model, state = copied(made)
    opt_state = SGD.init(eqx.filter(model, eqx.is_inexact_array))
    flat = FlatStep(model, state, opt_state, SGD, label_smoothing=0.1)
    given = flat.leaves(model, state, opt_state)
    leaves, _ = flat(given, IMAGES, LABELS, key=jr.key(0))
    assert given[0].is_deleted()
    leaves, _ = flat(leaves, IMAGES, LABELS, key=jr.key(0))
    assert flat._step._cache_size() == 1
    model, state = copied(made)
    settings: Any = dict(label_smoothing=0.1, key=jr.key(0))
    for _ in range(2):
        model, state, opt_state, _ = eqx_vit.train_step(
            model, state, opt_state, IMAGES, LABELS, SGD, **settings
        )
    assert_close(flat.trees(leaves)[0].head.weight, model.head.weight)
    with pytest.raises(ValueError, match="make another one"):
        flat.leaves(model, state, optax.adam(1e-3).init(model.head.weight))


def test_clipping_is_a_link_of_the_optimiser(made):
    clipped = optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0))
    model, state = copied(made)
    opt_state = clipped.init(eqx.filter(model, eqx.is_inexact_array))
    new, *_ = eqx_vit.train_step(
        model, state, opt_state, IMAGES, LABELS, clipped, key=jr.key(0)
    )
    moves = jax.tree.map(
        lambda a, b: a - b,
        eqx.filter(new, eqx.is_array),
        eqx.filter(made[0], eqx.is_array),
    )
    assert np.allclose(optax.tree.norm(moves), 1e-3, rtol=1e-3)


def test_evaluate(made):
    model, state = made
    logits = eqx_vit.predict(model, IMAGES, state)
    labels = logits.argmax(-1).at[0].add(1) % 10
    loss, accuracy = eqx_vit.evaluate(model, IMAGES, labels, state)
    integer = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    assert_close(loss, integer.mean())
    assert accuracy == 7 / 8


def test_a_model_with_batch_norm_trains_by_the_same_step():
    model, state = eqx.nn.make_with_state(BatchNormNet)(key=jr.key(0))
    sgd, traces = optax.sgd(0.1), []

    def update(updates, state, params=None):
        traces.append(None)
        return sgd.update(updates, state, params)

    optimizer = optax.GradientTransformation(sgd.init, update)
    opt_state = jax.jit(optimizer.init)(eqx.filter(model, eqx.is_inexact_array))
    losses = []
    for key in jr.split(jr.key(0), 60):
        model, state, opt_state, loss = eqx_vit.train_step(
            model, state, opt_state, IMAGES, LABELS, optimizer, key=key
        )
        losses.append(loss)
    assert losses[-1] < losses[0] and len(traces) == 1
    # The running statistics have converged to those of the one batch.
    x = model.linear(IMAGES[:, ::4, ::4])
    running_mean = state.get(model.norm.running_mean)
    assert np.allclose(running_mean, x.mean((0, 1, 2)), atol=0.05)
    loss, _ = eqx_vit.evaluate(model, IMAGES, LABELS, state)
    assert np.allclose(loss, losses[-1], rtol=0.05)


TEACHER = jr.normal(jr.key(2), (8, 10))


def test_distillation_with_one_head(made):
    model, state = made
    logits = eqx_vit.predict(model, IMAGES, state)
    labels = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()
    hard = optax.softmax_cross_entropy_with_integer_labels(logits, TEACHER.argmax(-1))
    theirs, ours = jax.nn.softmax(TEACHER / 2), jax.nn.log_softmax(logits / 2)
    soft = 4 * jnp.sum(theirs * (jnp.log(theirs) - ours), axis=-1)
    for kind, expected in (("hard", hard), ("soft", soft)):
        distillation = eqx_vit.Distillation(kind, weight=0.25, temperature=2.0)
        loss = step(made, distillation=distillation, teacher_logits=TEACHER)[-1]
        assert_close(loss, 0.75 * labels + 0.25 * expected.mean())


@pytest.mark.parametrize("name", few(["ViT", "LeViT"], {"LeViT"}))
def test_distillation_with_a_head_of_its_own(name):
    make, images = eqx.nn.make_with_state(models[name]), images_for(name, 8)
    settings = {} if name == "LeViT" else dict(emb_dropout=0.0)
    made = make(distilled=True, dropout=0.0, **settings, key=jr.key(0))

    model: Any = made[0]
    if name == "LeViT":
        heads = jax.vmap(model.head_logits, (0, None), (0, None), axis_name="batch")
        (first, second), _ = eqx.filter_jit(heads)(images, made[1])
    else:
        first, second = jax.vmap(model.head_logits)(images)
    loss = optax.softmax_cross_entropy_with_integer_labels
    expected = 0.75 * loss(first, LABELS) + 0.25 * loss(second, TEACHER.argmax(-1))
    model, state = copied(made)
    opt_state = SGD.init(eqx.filter(model, eqx.is_inexact_array))
    *_, loss = eqx_vit.train_step(
        model,
        state,
        opt_state,
        images,
        LABELS,
        SGD,
        distillation=eqx_vit.Distillation(weight=0.25),
        teacher_logits=TEACHER,
        key=jr.key(0),
    )
    assert_close(loss, expected.mean())


def test_a_teacher_without_distillation(made):
    with pytest.raises(ValueError, match="`distillation` and `teacher_logits` go toge"):
        step(made, teacher_logits=TEACHER)


def test_evaluate_with_weights(made):
    model, state = made
    weights = jnp.array([1, 1, 1, 0, 0, 1, 1, 0], jnp.float32)
    some = weights > 0
    expected = eqx_vit.evaluate(model, IMAGES[some], LABELS[some], state)
    labels = jnp.where(some, LABELS, -1)  # what fills up a batch has any label
    found = eqx_vit.evaluate(model, IMAGES, labels, state, weights=weights)
    assert_close(jnp.array(found), jnp.array(expected))


# What people bring: labels, arrays, optimisers.


NO_DISTRIBUTIONS = {
    "several labels": np.eye(10, dtype=np.float32)[:8]
    + np.eye(10, dtype=np.float32)[1:9],
    "numbers": np.linspace(-3, 3, 80, dtype=np.float32).reshape(8, 10),
    "negative": np.eye(10, dtype=np.float32)[:8] * 2 - 0.1,
    "nothing": np.zeros((8, 10), np.float32),
}


@pytest.mark.parametrize("kind", NO_DISTRIBUTIONS)
def test_labels_that_are_no_distributions_are_refused(kind, made):
    (model, state), labels = made, NO_DISTRIBUTIONS[kind]
    with pytest.raises(ValueError, match=r"`labels\[0\]` sums to"):
        step(made, labels)
    with pytest.raises(ValueError, match=r"`labels\[0\]` sums to"):
        eqx_vit.evaluate(model, IMAGES, labels, state)
    # Where the values are not known, the loss says it.
    traced: Any = eqx.filter_jit(eqx_vit.evaluate)
    loss, _ = traced(model, IMAGES, jnp.asarray(labels), state)
    assert jnp.isnan(loss)


def test_distributions_of_16_bits_are_distributions(made):
    images, labels = eqx_vit.mixup_cutmix(IMAGES, LABELS, 10, key=jr.key(0))
    smooth = optax.smooth_labels(labels, 0.1)
    for dtype in (jnp.bfloat16, jnp.float16):
        assert jnp.isfinite(step(made, smooth.astype(dtype))[-1])


def test_one_output_is_refused():
    make = eqx.nn.make_with_state(models["ViT"])
    single = model, state = make(num_classes=1, key=jr.key(0))
    with pytest.raises(ValueError, match="one output.*num_classes=2"):
        step(single, jnp.zeros(8, int))
    with pytest.raises(ValueError, match="one output"):
        eqx_vit.evaluate(model, IMAGES, jnp.zeros(8, int), state)


def test_logits_that_are_nan_are_not_right(made):
    model, state = made
    broken = eqx.tree_at(lambda m: m.head.bias, model, jnp.full(10, jnp.nan))
    loss, accuracy = eqx_vit.evaluate(broken, IMAGES, jnp.zeros(8, int), state)
    assert jnp.isnan(loss) and accuracy == 0


def test_a_teacher_of_nan_teaches_nothing(made):
    hard = eqx_vit.Distillation("hard")
    *_, loss = step(
        made, distillation=hard, teacher_logits=TEACHER.at[0, 3].set(jnp.nan)
    )
    assert jnp.isnan(loss)


def test_arrays_of_numpy(made):
    model, state = copied(made)
    opt_state = SGD.init(eqx.filter(model, eqx.is_inexact_array))
    *_, loss = eqx_vit.train_step(
        model,
        state,
        opt_state,
        np.asarray(IMAGES),
        np.arange(8),
        SGD,
        key=jr.key(0),
    )
    assert_close(loss, step(made)[-1])


OPTIMIZERS = {
    "reduce_on_plateau": optax.chain(
        optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1)
    ),
    "polyak_sgd": optax.polyak_sgd(),
    "lbfgs": optax.lbfgs(),
    "prodigy": optax.contrib.prodigy(),
    "dadapt_adamw": optax.contrib.dadapt_adamw(),
    "schedule_free": optax.contrib.schedule_free_adamw(0.1),
    "sam": optax.contrib.sam(
        optax.sgd(0.1), optax.contrib.normalize(), sync_period=2, opaque_mode=True
    ),
    "sam by turns": optax.contrib.sam(
        optax.sgd(0.1), optax.contrib.normalize(), sync_period=2
    ),
    "average of plateau": eqx_vit.moving_average(
        optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()), 0.9
    ),
    "muon": optax.contrib.muon(
        0.1, muon_weight_dimension_numbers=eqx_vit.training.muon_dimensions
    ),
    "lamb by layers": eqx_vit.training.per_layer(optax.lamb(0.1)),
}


@pytest.mark.parametrize("optimizer", few(OPTIMIZERS, {"lbfgs"}))
def test_optimisers_of_all_kinds_train(optimizer, made):
    optimizer = OPTIMIZERS[optimizer]
    model, state = copied(made)
    opt_state = jax.jit(optimizer.init)(eqx.filter(model, eqx.is_inexact_array))
    loss = jnp.nan
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(2):
            model, state, opt_state, loss = eqx_vit.train_step(
                model, state, opt_state, IMAGES, LABELS, optimizer, key=jr.key(0)
            )
    assert np.isfinite(loss)
    assert not equal(model.head, made[0].head)


class Tied(eqx.Module):
    """A module that uses one layer twice."""

    first: Linear
    second: Linear

    def __call__(self, image, *, key=None):
        return self.second(jax.nn.relu(self.first(image[::4, ::4]))).mean((0, 1))


def test_a_layer_at_two_places_is_said():
    layer = Linear(3, 3, key=jr.key(0))
    model = Tied(layer, layer)
    opt_state = SGD.init(eqx.filter(model, eqx.is_inexact_array))
    state = eqx.nn.State(model)
    with pytest.warns(UserWarning, match="equinox.nn.Shared"):
        *_, loss = eqx_vit.train_step(
            model, state, opt_state, IMAGES, LABELS % 3, SGD, key=jr.key(0)
        )
    assert jnp.isfinite(loss)
