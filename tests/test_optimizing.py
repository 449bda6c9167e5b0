import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from .helpers import by_path, equal, models


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
    assert np.allclose(
        decayed.head.weight, plain.head.weight - 0.05 * vit.head.weight, atol=1e-6
    )
    assert np.array_equal(decayed.head.bias, plain.head.bias)
    assert np.array_equal(decayed.position_embedding, plain.position_embedding)


def test_freeze(vit):
    optimizer = eqx_vit.freeze(optax.adamw(0.1), vit, ["*", "!head*", "head.bias"])
    new, state = updated(optimizer, vit)
    new, old = by_path(new), by_path(vit)
    changed = {
        path
        for path in old
        if eqx.is_inexact_array(old[path]) and not np.array_equal(old[path], new[path])
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
    assert equal(new.transformer, old.transformer)
    assert not np.array_equal(new.head.weight, old.head.weight)


@pytest.mark.parametrize("model", models)
def test_every_parameter_is_in_one_group(model):
    made = eqx.filter_eval_shape(models[model], key=jr.key(0))
    groups = eqx_vit.parameter_groups(made, ["*head.*"])
    paths = [path for group in groups.values() for path in group]
    assert len(paths) == len(set(paths))
    # A row of a scanned stack counts by itself; together they are the whole model.
    parameters = by_path(eqx.filter(made, eqx_vit.optimizing.is_parameter))
    rows = {path: {p for p in paths if p.split("[")[0] == path} for path in parameters}
    assert sum(map(len, rows.values())) == len(paths)
    for path, shape in parameters.items():
        assert rows[path] in ({path}, {f"{path}[{i}]" for i in range(shape.shape[0])})
    layers = sorted({group.layer for group in groups})
    assert layers == list(range(layers[-1] + 1)) and layers[-1] >= 3
    for group, members in groups.items():
        is_head = {"head." in path for path in members}
        assert is_head == {not group.trained}
        assert group.trained or group.layer == layers[-1]


def test_layer_decay(vit):
    new, _ = updated(optax.chain(optax.sgd(1.0), eqx_vit.layer_decay(vit, 0.5)), vit)
    moves = by_path(jax.tree.map(lambda n, o: o - n, *map(arrays, (new, vit))))
    assert np.allclose(moves["head.weight"], 1)
    assert np.allclose(moves["patch_embedding.linear.weight"], 0.125)
    blocks = moves["transformer.blocks.norm1.weight"]
    assert np.allclose(blocks, jnp.array([[0.25], [0.5]]))
    with pytest.raises(ValueError, match="`rate=0.0` must be in"):
        eqx_vit.layer_decay(vit, 0.0)


def arrays(model):
    return eqx.filter(model, eqx.is_inexact_array)


def test_layer_decay_of_a_frozen_model(vit):
    slow = optax.chain(optax.sgd(1.0), eqx_vit.layer_decay(vit, 0.5))
    new, _ = updated(eqx_vit.freeze(slow, vit, ["transformer*"]), vit)
    assert equal(new.transformer, vit.transformer)
    assert np.allclose(new.head.weight, vit.head.weight - 1)


def test_moving_average(vit):
    optimizer = eqx_vit.moving_average(optax.sgd(1.0), 0.5)
    state, model = optimizer.init(arrays(vit)), vit
    expected = vit.head.bias
    for decay in (0.1, 2 / 11, 0.25, 4 / 13, 5 / 14, 0.4, 7 / 16, 8 / 17, 0.5, 0.5):
        ones = jax.tree.map(jnp.ones_like, arrays(model))
        updates, state = optimizer.update(ones, state, arrays(model))
        model = eqx.apply_updates(model, updates)
        expected = decay * expected + (1 - decay) * model.head.bias
    assert np.allclose(model.head.bias, vit.head.bias - 10)
    averaged = eqx_vit.averaged(model, state)
    assert np.allclose(averaged.head.bias, expected, atol=1e-5)
    assert eqx_vit.averaged(model, optax.sgd(1.0).init(arrays(vit))) is model
    with pytest.raises(ValueError, match="`decay=1.5` must be in"):
        eqx_vit.moving_average(optax.sgd(1.0), 1.5)


def test_the_gradient_is_watched(vit):
    _, state = updated(optax.chain(eqx_vit.watch_gradient(), optax.sgd(1.0)), vit)
    number = sum(leaf.size for leaf in jax.tree.leaves(arrays(vit)))
    assert np.allclose(optax.tree.get(state, "gradient_norm") ** 2, number, rtol=1e-5)
