import dataclasses
from typing import Any

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from eqx_vit import Recipe, recipe, recipes
from eqx_vit.training import rematerialise
from eqx_vit.training.optimizer import plateau_scale
from eqx_vit.training.recipe import ALGORITHMS, REMATERIALISATIONS

from .helpers import assert_close, copied, equal, images_for, models


@pytest.fixture(autouse=True)
def _promotion():
    with jax.numpy_dtype_promotion("standard"):  # Optax needs it
        yield


def test_the_built_in_recipes():
    papers = {"deit_small", "deit3_small", "cait", "levit"}
    assert set(recipes()) == papers | {"default", "finetune"}
    for name in recipes():
        read = recipe(name)
        assert "%" in read.expected
        for field in dataclasses.fields(Recipe):  # TOML would take 1 for 1.0
            is_float = isinstance(getattr(read, field.name), float)
            assert is_float == (field.type is float), field.name
    assert recipe() == dataclasses.replace(Recipe(), expected=recipe().expected)
    # Table 9 of DeiT.
    deit = recipe("deit_small")
    assert (deit.epochs, deit.batch_size, deit.weight_decay) == (300, 1024, 0.05)
    assert (deit.mixup, deit.cutmix, deit.erasing, deit.repeats) == (0.8, 1.0, 0.25, 3)
    assert recipe("cait").mixup == 0.8 and recipe("cait").epochs == 400


def test_a_recipe_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('base = "finetune"\nepochs = 3\nfreeze = ["head*"]\nwarmup = 1\n')
    mine = recipe(path, clip=0)
    assert (mine.epochs, mine.clip, mine.layer_decay) == (3, 0.0, 0.75)
    assert mine.freeze == ("head*",)
    path.write_text("epoch = 3")
    with pytest.raises(ValueError, match="no `epoch` .*mine.toml.*nearest is `epochs`"):
        recipe(path)
    path.write_text("epochs: 3")
    with pytest.raises(ValueError, match="mine.toml' is not a TOML file"):
        recipe(path)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(epochs=0), "nearest legal value is 1"),
        (
            dict(loss="sigmoid", teacher="cait_s24_224"),
            "`teacher` goes with `loss='softmax'`",
        ),
        (dict(loss="hinge"), "`loss='hinge'` is none of"),
        (dict(class_weights=("many",)), "`class_weights` has 'many'"),
        (dict(loss="squared", class_weights=("balanced",)), "does not go with"),
        (dict(optimizer="adam"), "nearest legal value is 'adamw'"),
        (dict(optimizer="schedule_free_adamw", average=0.9), "keeps an average"),
        (dict(flip=1.5), "`flip=1.5` is a probability"),
        (dict(rand_augment=11.0), "DeiT's is 9"),
        (dict(precision="float16"), "float32"),
        (dict(remat="all"), "blocks"),
        (dict(remat="blocks", remat_keep=("mpl",)), "nearest legal value is 'mlp'"),
        (dict(remat="products", remat_keep=("mlp",)), "goes with `remat='blocks'`"),
        (dict(learning_rate=-1.0), "must not be below 0"),
        (dict(distillation="firm"), "soft"),
        (dict(teacher_weight=2.0), "nearest legal value is 1"),
    ],
)
def test_values_that_are_not_legal(changes, message):
    with pytest.raises(ValueError, match=message):
        recipe(**changes)


def test_schedule():
    schedule = recipe("deit_small").schedule(1000)
    assert schedule(0) == 0 and jnp.isclose(schedule(5000), 1e-3)
    assert jnp.isclose(schedule(2500), 5e-4) and jnp.isclose(schedule(300_000), 1e-5)
    # Accumulation makes fewer updates, of a larger batch.
    schedule = recipe("deit_small", accumulate=2).schedule(1000)
    assert jnp.isclose(schedule(2500), 2e-3) and jnp.isclose(schedule(150_000), 1e-5)


IMAGES, LABELS = jr.normal(jr.key(1), (4, 32, 32, 3)), jnp.arange(4)


@pytest.fixture(scope="module")
def vit():
    make = eqx.nn.make_with_state(models["ViT"])
    return make(dropout=0.0, emb_dropout=0.0, key=jr.key(0))


def trained(vit, batches, **changes) -> Any:
    """The model after a step on each batch, and the optimiser's state."""
    settings: dict[str, Any] = (
        dict(warmup=0.0, epochs=10, precision="float32") | changes
    )
    wanted = recipe(**settings)
    model, state = copied(vit)
    model: Any = wanted.rematerialised(model)
    optimizer = wanted.optimizer(model, 10)
    opt_state = jax.jit(optimizer.init)(eqx.filter(model, eqx.is_inexact_array))
    for images, labels in batches:
        model, state, opt_state, loss = eqx_vit.train_step(
            model, state, opt_state, images, labels, optimizer, key=jr.key(0)
        )
    return model, opt_state


@pytest.mark.slow
def test_two_half_batches_make_one_update(vit):
    halves = [(IMAGES[:2], LABELS[:2]), (IMAGES[2:], LABELS[2:])]
    # (A schedule of the same number of updates.)
    together, _ = trained(vit, [(IMAGES, LABELS)] * 2)
    accumulated, state = trained(vit, 2 * halves, epochs=20, accumulate=2)
    for one, other in zip(*map(jax.tree.leaves, (together, accumulated))):
        if eqx.is_inexact_array(one):
            assert np.allclose(one, other, atol=1e-5)
    # The norm is that of the mean gradient.
    assert optax.tree.get(state, "gradient_norm") > 0


@pytest.mark.slow
def test_what_is_not_kept_is_computed_again(vit):
    """Operations of the backward pass: more where less is kept."""
    image = images_for("ViT", 1)[0]

    def operations(model):
        loss = lambda model: jnp.sum(model(image, key=jr.key(0)))
        gradient: Any = eqx.filter_jit(eqx.filter_grad(loss))
        return gradient.lower(model).compile().compiled.cost_analysis()["flops"]

    model, _ = vit
    everything, most, least = (
        operations(rematerialise(model, keep))
        for keep in (
            jax.checkpoint_policies.everything_saveable,
            ("attention_output",),
            (),
        )
    )
    assert everything < most < least


@pytest.mark.parametrize(
    "remat, keep",
    [*((remat, ()) for remat in REMATERIALISATIONS), ("blocks", ("attention_output",))],
)
def test_what_is_computed_again_changes_nothing(vit, remat, keep):
    model, state = vit
    again = recipe(remat=remat, remat_keep=keep).rematerialised(model)
    once = rematerialise(model, jax.checkpoint_policies.everything_saveable)

    def loss(model):
        logits = jax.vmap(model)(IMAGES)
        return jnp.mean(logits**2)

    gradient: Any = eqx.filter_jit(eqx.filter_grad(loss))
    for one, other in zip(*(jax.tree.leaves(gradient(m)) for m in (once, again))):
        assert_close(one, other)

    def products(model):
        return gradient.lower(model).as_text().count("dot_general")

    assert products(once) < products(again)
    # What is kept is not computed again: without it, one more product.
    if keep:
        every = recipe(remat=remat).rematerialised(model)
        assert products(again) == products(every) - 1


def test_all_links_together(vit):
    changes = dict(layer_decay=0.5, average=0.9, accumulate=2, freeze=("*", "!head*"))
    # Two updates, of which the first has a rate of 0.
    model, state = trained(vit, [(IMAGES, LABELS)] * 4, **changes)
    assert equal(model.transformer, vit[0].transformer)
    assert not np.array_equal(model.head.weight, vit[0].head.weight)
    averaged = eqx_vit.averaged_model(model, state).head.weight
    assert_close(averaged, (2 * vit[0].head.weight + 9 * model.head.weight) / 11)


def test_muon_learns(vit):
    changes = dict(layer_decay=0.5, average=0.9)
    model, state = trained(vit, [(IMAGES, LABELS)] * 3, algorithm="muon", **changes)
    for part in ("transformer", "head"):
        assert not equal(getattr(model, part), getattr(vit[0], part))
    is_muon = lambda x: isinstance(x, optax.contrib.MuonState)
    (muon,) = filter(is_muon, jax.tree.leaves(state, is_leaf=is_muon))
    sizes = sorted(array.shape for array in jax.tree.leaves(muon.mu))
    depth = len(vit[0].transformer.drop_rates)
    assert len(sizes) == 4 and {len(shape) for shape in sizes} == {3}
    assert {shape[0] for shape in sizes} == {depth}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_algorithms_leave_what_is_frozen(algorithm, vit):
    changes: dict[str, Any] = dict(algorithm=algorithm, freeze=("*", "!head*"))
    model, state = trained(vit, [(IMAGES, LABELS)] * 3, layer_decay=0.5, **changes)
    assert equal(model.transformer, vit[0].transformer)
    assert not np.array_equal(model.head.weight, vit[0].head.weight)
    assert equal(eqx_vit.averaged_model(model, state).transformer, vit[0].transformer)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_algorithms_learn(algorithm, vit):
    wanted = recipe(algorithm=algorithm, warmup=0.0, epochs=10, learning_rate=3e-3)
    optimizer = wanted.optimizer(vit[0], 2)
    model, state = copied(vit)
    opt_state = jax.jit(optimizer.init)(eqx.filter(model, eqx.is_inexact_array))
    losses = []
    for _ in range(8):
        model, state, opt_state, loss = eqx_vit.train_step(
            model, state, opt_state, IMAGES, LABELS, optimizer, key=jr.key(0)
        )
        losses.append(float(loss))
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_schedule_free_evaluates_its_average(vit):
    changes = dict(algorithm="schedule_free_adamw", learning_rate_schedule="constant")
    model, opt_state = trained(vit, [(IMAGES, LABELS)] * 3, **changes)
    is_free = lambda x: isinstance(x, optax.contrib.ScheduleFreeState)
    (free,) = filter(is_free, jax.tree.leaves(opt_state, is_leaf=is_free))
    parameters = eqx.filter(model, eqx.is_inexact_array)
    wanted = optax.contrib.schedule_free_eval_params(free, parameters)
    found = eqx_vit.averaged_model(model, opt_state)
    assert_close(found.head.weight, wanted.head.weight)
    assert not np.allclose(found.head.weight, model.head.weight, atol=1e-6)


SHAPES = {
    "linear": {0: 0.0, 10: 1.0, 55: 0.5, 100: 0.0},
    "constant": {5: 0.5, 10: 1.0, 100: 1.0},
    "plateau": {5: 0.5, 10: 1.0, 100: 1.0},
    "warmup_stable_decay": {5: 0.5, 10: 1.0, 80: 1.0, 90: 0.5, 100: 0.0},
}


@pytest.mark.parametrize("name", SHAPES)
def test_schedules(name):
    wanted = recipe(schedule=name, epochs=10, warmup=1.0, learning_rate=1.0)
    rates = wanted.schedule(10)
    for step, rate in SHAPES[name].items():
        assert_close(rates(step), rate)


def test_a_plateau_lowers_the_rate(vit):
    changes: dict[str, Any] = dict(plateau_patience=1, plateau_factor=0.5)
    settings: dict[str, Any] = dict(learning_rate=0.0, warmup=0.0, epochs=10)
    wanted = recipe(schedule="plateau", **changes, **settings)
    optimizer = wanted.optimizer(vit[0], 1)
    model, state = copied(vit)
    opt_state = jax.jit(optimizer.init)(eqx.filter(model, eqx.is_inexact_array))
    for _ in range(4):  # of which none changes the loss
        model, state, opt_state, _ = eqx_vit.train_step(
            model, state, opt_state, IMAGES, LABELS, optimizer, key=jr.key(0)
        )
    assert float(plateau_scale(opt_state)) <= 0.5


def test_a_loss_of_a_recipe():
    wanted = recipe(loss="sigmoid", class_weights=("balanced",), label_smoothing=0.2)
    loss = wanted.loss_of(np.array([0, 0, 0, 1]), 2)
    assert loss.kind == "sigmoid" and loss.class_weights == (4 / 6, 2.0)
    assert recipe(class_weights=("1", "3")).loss_of([], 2).class_weights == (1.0, 3.0)
