import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest

from .helpers import by_path, models


# What is called `weight` and is not the weight of a product.
SCALES = ("norm", "norm1", "norm2", "pre_norm", "small_norm", "large_norm", "norms")
SCALES += ("local_norm", "regional_norm", "feed_forward_norm", "variance_norm")
SCALES += ("layer_scale", "layer_scale1", "layer_scale2")


@pytest.mark.parametrize("model", models)
def test_every_parameter_is_decayed_or_not(model):
    made = eqx.filter_eval_shape(models[model], key=jr.key(0))
    is_parameter = lambda x: getattr(x, "dtype", None) == jnp.float32
    parameters = eqx.filter(made, is_parameter)
    mask = eqx_vit.decay_mask(parameters)
    assert jax.tree.structure(mask) == jax.tree.structure(parameters)
    for path, decayed in by_path(mask).items():
        *owners, name = path.split(".")
        owner = next(o for o in reversed([""] + owners) if not o.isdigit())
        product = name == "weight" and owner not in SCALES and "peg" not in owners
        assert decayed == product, path


@pytest.fixture
def vit():
    return models["ViT"](key=jr.key(0))


def updated(optimizer, vit):
    """The model after a step along a gradient of ones, and the optimiser's state."""
    parameters = eqx.filter(vit, eqx.is_inexact_array)
    gradients = jax.tree.map(jnp.ones_like, parameters)
    state = optimizer.init(parameters)
    with jax.numpy_dtype_promotion("standard"):
        updates, state = optimizer.update(gradients, state, parameters)
    return eqx.apply_updates(vit, updates), state


def test_mask_in_adamw(vit):
    decayed, _ = updated(
        optax.adamw(0.1, weight_decay=0.5, mask=eqx_vit.decay_mask), vit
    )
    plain, _ = updated(optax.adam(0.1), vit)
    assert jnp.allclose(
        decayed.head.weight, plain.head.weight - 0.05 * vit.head.weight, atol=1e-6
    )
    assert jnp.array_equal(decayed.head.bias, plain.head.bias)
    assert jnp.array_equal(decayed.position_embedding, plain.position_embedding)


def test_freeze(vit):
    optimizer = eqx_vit.freeze(optax.adamw(0.1), vit, ["*", "!head*", "head.bias"])
    new, state = updated(optimizer, vit)
    new, old = by_path(new), by_path(vit)
    changed = {
        path
        for path in old
        if eqx.is_inexact_array(old[path]) and not jnp.array_equal(old[path], new[path])
    }
    assert changed == {"head.weight"}
    # Both moments of the one weight, and counters.
    sizes = [leaf.size for leaf in jax.tree.leaves(state)]
    assert sum(sizes) < 3 * vit.head.weight.size
    with pytest.raises(ValueError, match="'hat.*'.*nearest is 'head"):
        eqx_vit.freeze(optax.sgd(0.1), vit, ["hat*"])


def test_a_frozen_model_trains(vit):
    optimizer = eqx_vit.freeze(optax.sgd(0.1), vit, ["*", "!head*"])
    opt_state = optimizer.init(eqx.filter(vit, eqx.is_inexact_array))
    old = jax.tree.map(lambda x: jnp.copy(x) if eqx.is_array(x) else x, vit)
    state = eqx.nn.State(vit)
    with jax.numpy_dtype_promotion("standard"):
        new, *_ = eqx_vit.train_step(
            vit,
            state,
            opt_state,
            jr.normal(jr.key(0), (2, 32, 32, 3)),
            jnp.arange(2),
            optimizer,
            key=jr.key(1),
        )
    assert eqx.tree_equal(new.transformer, old.transformer)
    assert not jnp.array_equal(new.head.weight, old.head.weight)
