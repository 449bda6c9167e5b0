"""Every number that a constructor takes has a range, and what is in it works."""

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import pytest
from eqx_vit.layers._ranges import _numeric

from .helpers import images_for, models as all_models


# (The ranges of the eighteenth are its own business.)
models = {name: make for name, make in all_models.items() if name != "Eighteenth"}


REFUSED = (ValueError, jaxtyping.TypeCheckError)


def numbers(name):
    """The arguments of a model that are numbers, with their kind."""
    found = _numeric(models[name].func.__init__)
    return [(argument, kind) for argument, (kind, _) in found.items()]


@pytest.mark.parametrize("name", models)
def test_numbers_out_of_range_are_refused(name):
    for argument, kind in numbers(name):
        for value in (float("nan"), float("inf"), -1, True, 2**70):
            if kind == "float" and value == 2**70:
                continue
            with pytest.raises(REFUSED, match=argument):
                models[name](**{argument: value}, key=jr.key(0))
    assert len(numbers(name)) > 7


def logits(name, settings):
    """The shapes of what a model returns, in training."""
    make = eqx.nn.make_with_state(models[name])
    model, state = eqx.filter_eval_shape(
        lambda key: make(**settings, key=key), jr.key(0)
    )
    side = settings.get("image_size", images_for(name, 1).shape[1])
    shape = (2, side, side, settings.get("channels", 3))

    def call(model, images, state):
        call_one = lambda image, key: eqx.nn.Sequential([model])(image, state, key=key)[
            0
        ]
        keys = jr.split(jr.key(0), len(images))
        return jax.vmap(call_one, axis_name="batch")(images, keys)

    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.tree.leaves(eqx.filter_eval_shape(call, model, images, state))


@pytest.mark.slow
@pytest.mark.parametrize("name", models)
def test_numbers_are_refused_or_work(name):
    tried = refused = 0
    for argument, kind in numbers(name):
        whole = [0, 1, 3, 8, 16]
        for value in whole if kind == "int" else [0.0, 2.0]:
            tried += 1
            settings = {argument: value}
            try:
                found = logits(name, settings)
            except REFUSED as error:
                # (A number may not go with another one, or with the size of the image.)
                assert str(error)[0] == "`" or f"parameter '{argument}'" in str(error)
                refused += 1
            else:
                classes = settings.get("num_classes", 10)
                assert all(x.shape[0] == 2 for x in found)
                assert classes == 0 or all(x.shape[1] == classes for x in found)
    print(f"{name}: {tried} tried, {refused} refused")
    assert 0 < refused < tried


@pytest.mark.parametrize(
    "call, name",
    [
        (lambda x: eqx_vit.Distillation(weight=x), "weight"),
        (lambda x: eqx_vit.Distillation(temperature=x), "temperature"),
        (lambda x: eqx_vit.layers.LayerNorm(4, x), "eps"),
        (lambda x: eqx_vit.layers.LayerScale(4, x), "init"),
        (
            lambda x: eqx_vit.layers.StochasticDepth()(jnp.ones(3), x, key=jr.key(0)),
            "rate",
        ),
        (lambda x: mixed(mixup=x), "mixup"),
        (lambda x: mixed(cutmix=x), "cutmix"),
        (lambda x: mixed(probability=x), "probability"),
        (lambda x: mixed(switch=x), "switch"),
    ],
)
def test_numbers_of_functions(call, name):
    for value in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ValueError, match=f"`{name}="):
            call(value)


def dropped(rate):
    layer = eqx_vit.layers.StochasticDepth()
    return layer(jnp.ones(3), rate, key=jr.key(0))


def mixed(**settings):
    images, labels = jnp.zeros((2, 4, 4, 3)), jnp.zeros(2, int)
    return eqx_vit.mixup_cutmix(images, labels, 3, **settings, key=jr.key(0))


def test_numbers_of_functions_are_checked():
    model = all_models["ViT"](key=jr.key(0))
    image = jax.ShapeDtypeStruct((32, 32, 3), jnp.float32)
    with pytest.raises(ValueError, match="`depth=-1`"):
        eqx_vit.summary(model, image, depth=-1)
    for size, channels in ((0, 3), (32, 0)):
        with pytest.raises(ValueError, match="=0` is too small"):
            eqx_vit.export(model, size, channels=channels)
    with pytest.raises(ValueError, match="`num_classes=-1`"):
        eqx_vit.reset_head(model, -1, key=jr.key(0))
