from typing import Any

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from eqx_vit.training import keep_gradient_norm, per_layer
from eqx_vit.training.optimizer import is_parameter

from .helpers import by_path, copied, equal, few, images_for, models


# What is called `weight` and is not the weight of a product.
SCALES = ("norm", "norm1", "norm2", "pre_norm", "small_norm", "large_norm", "norms")
SCALES += ("local_norm", "regional_norm", "feed_forward_norm")
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
    ones = jax.tree.map(jnp.ones_like, parameters)
    updates, state = first_updates(optimizer, parameters, ones)
    return eqx.apply_updates(vit, updates), state


def first_updates(optimizer, parameters, gradients) -> Any:
    """The updates and the state of a first step, as one program."""

    def update(parameters, gradients):
        return optimizer.update(gradients, optimizer.init(parameters), parameters)

    with jax.numpy_dtype_promotion("standard"):
        return jax.jit(update)(parameters, gradients)


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
    groups = eqx_vit.training.parameter_groups(made, ["*head.*"])
    paths = [path for group in groups.values() for path in group]
    assert len(paths) == len(set(paths))
    # A row of a scanned stack counts by itself; together they are the whole model.
    parameters = by_path(eqx.filter(made, is_parameter))
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
    averaged = eqx_vit.averaged_model(model, state)
    assert np.allclose(averaged.head.bias, expected, atol=1e-5)
    assert eqx_vit.averaged_model(model, optax.sgd(1.0).init(arrays(vit))) is model
    with pytest.raises(ValueError, match="`decay=1.5` must be in"):
        eqx_vit.moving_average(optax.sgd(1.0), 1.5)


def test_the_gradient_is_watched(vit):
    _, state = updated(optax.chain(keep_gradient_norm(), optax.sgd(1.0)), vit)
    number = sum(leaf.size for leaf in jax.tree.leaves(arrays(vit)))
    assert np.allclose(optax.tree.get(state, "gradient_norm") ** 2, number, rtol=1e-5)


# What is frozen runs in inference mode.


def around(name, optimizer):
    """An optimiser with something around it."""
    return {
        "nothing": lambda: optimizer,
        "chain": lambda: optax.chain(optax.identity(), optimizer),
        "moving average": lambda: eqx_vit.moving_average(optimizer, 0.9),
        "MultiSteps": lambda: optax.MultiSteps(optimizer, 2).gradient_transformation(),
        "apply_if_finite": lambda: optax.apply_if_finite(optimizer, 3),
    }[name]()


def stepped(name, wrap, patterns, **settings):
    """A model before and after a step with a part frozen, and both states."""
    before = eqx.nn.make_with_state(models[name])(**settings, key=jr.key(0))
    model, state = copied(before)
    adamw = optax.sgd(0.1)
    optimizer = around(wrap, eqx_vit.freeze(adamw, model, patterns))
    opt_state = jax.jit(optimizer.init)(eqx.filter(model, eqx.is_inexact_array))
    images = 3 + images_for(name, 2)
    with jax.numpy_dtype_promotion("standard"):
        model, state, *_ = eqx_vit.train_step(
            model, state, opt_state, images, np.arange(2), optimizer, key=jr.key(1)
        )
    return before, (model, state)


WRAPPERS = ["nothing", "chain", "moving average", "MultiSteps", "apply_if_finite"]


@pytest.mark.parametrize("wrap", few(WRAPPERS, {"MultiSteps", "apply_if_finite"}))
def test_frozen_statistics_stay(wrap):
    (_, before), (model, after) = stepped("LeViT", wrap, ["*", "!head.linear*"])
    assert equal(before, after)
    # The model itself is in training mode as before.
    assert not model.stem.convs[0].norm.inference


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CvT", "DeepViT"])
def test_only_what_is_frozen_stays(name):
    before, after = stepped(name, "nothing", ["*", "!*norm*"])
    assert not equal(before[1], after[1])
    before, after = stepped(name, "nothing", ["*", "!head*"])
    assert equal(before[1], after[1])


def test_what_is_frozen_drops_nothing():
    steps = [
        stepped("ViT", "nothing", ["*", "!head*"], emb_dropout=0.0, dropout=rate)
        for rate in (0.0, 0.5)
    ]
    assert equal(*(model.head for _, (model, _) in steps))


# Optimisers that look at shapes see layers, not stacks.


def unstacked(model):
    """The parameters of a model, of each block by itself."""
    parameters = by_path(eqx.filter(model, eqx.is_inexact_array))
    found = {}
    for path, array in parameters.items():
        if "transformer.blocks" in path:
            found |= {f"{path}[{i}]": row for i, row in enumerate(array)}
        else:
            found[path] = array
    return found


SHAPED = {
    "lamb": optax.lamb(0.1),
    "adafactor": optax.adafactor(0.1, min_dim_size_to_factor=4),
    "agc": eqx_vit.training.adaptive_clip(0.01),
    "block rms": optax.chain(optax.clip_by_block_rms(0.01), optax.sgd(1.0)),
}


@pytest.mark.parametrize("name", SHAPED)
def test_per_layer_is_the_same_as_layers_apart(vit, name):
    """On a stack it does what it does on a dictionary of the blocks' arrays."""
    parameters = eqx.filter(vit, eqx.is_inexact_array)
    rng = np.random.default_rng(0)
    gradients = jax.tree.map(
        lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), parameters
    )

    ours, _ = first_updates(per_layer(SHAPED[name]), parameters, gradients)
    ours = unstacked(ours)
    apart = map(unstacked, (parameters, gradients))
    theirs, _ = first_updates(SHAPED[name], *apart)
    assert ours.keys() == theirs.keys()
    for path in ours:
        assert np.allclose(ours[path], theirs[path], rtol=1e-4, atol=1e-6), path


@pytest.mark.parametrize("model", models)
def test_muon_is_for_the_matrices_of_blocks(model):
    made = eqx.filter_eval_shape(models[model], key=jr.key(0))
    parameters = eqx.filter(made, is_parameter)
    is_leaf = lambda x: x is None or isinstance(x, optax.contrib.MuonDimensionNumbers)
    dimensions = jax.tree_util.tree_leaves_with_path(
        eqx_vit.training.muon_dimensions(parameters), is_leaf=is_leaf
    )
    spell = lambda path: jax.tree_util.keystr(path, simple=True, separator=".")
    dimensions = {spell(path): leaf for path, leaf in dimensions}
    muons = 0
    for path, shape in by_path(parameters).items():
        if dimensions[path] is None:
            continue
        muons += 1
        assert path.endswith("weight") and "norm" not in path.split(".")[-2]
        assert not path.startswith(("head", "patch_embedding", "small_head"))
        rows, columns = dimensions[path].output_axis, dimensions[path].reduction_axis
        if isinstance(columns, int):  # a linear layer: outputs, inputs
            assert (rows % shape.ndim, columns % shape.ndim) == (
                shape.ndim - 2,
                shape.ndim - 1,
            )
    assert muons >= 4


def test_muon_takes_blocks_one_by_one(vit):
    """A step of Muon on the stack is that on every block's matrix by itself."""
    muon = optax.contrib.muon(
        0.1, muon_weight_dimension_numbers=eqx_vit.training.muon_dimensions
    )
    new, _ = updated(muon, vit)
    qkv = vit.transformer.blocks.attention.qkv.weight
    alone = optax.contrib.muon(0.1)
    for i in range(len(qkv)):  # (inputs come first where nothing else is said)
        matrix, state = qkv[i].T, alone.init(qkv[i].T)
        with jax.numpy_dtype_promotion("standard"):
            updates, _ = alone.update(jnp.ones_like(matrix), state, matrix)
        expected = (matrix + updates).T
        found = new.transformer.blocks.attention.qkv.weight[i]
        assert np.allclose(found, expected, atol=1e-5)
    # A norm's weight goes to Adam.
    by_adam, _ = updated(optax.adam(0.1, nesterov=True), vit)
    assert np.allclose(new.norm.weight, by_adam.norm.weight, atol=1e-6)


def test_equinox_layers_decay():
    keys = jr.split(jr.key(0), 4)
    layers = (
        eqx.nn.Linear(2, 3, key=keys[0]),
        eqx.nn.Conv2d(2, 3, 3, key=keys[1]),
        eqx.nn.LayerNorm(3),
        eqx.nn.Embedding(3, 2, key=keys[2]),
        eqx.nn.GRUCell(2, 3, key=keys[3]),
    )
    decayed = {
        path
        for path, is_true in by_path(eqx_vit.decay_mask(layers)).items()
        if is_true is True
    }
    assert decayed == {"0.weight", "1.weight", "4.weight_ih", "4.weight_hh"}
