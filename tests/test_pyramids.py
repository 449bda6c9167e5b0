"""What sets the pyramids apart from the other models."""

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import pytest
from eqx_vit.layers import AlternatingStack, BatchNorm, join_windows, split_windows
from eqx_vit.models.cross_former import GroupAttention
from eqx_vit.models.nest import _quarters
from safetensors.numpy import load_file

from .helpers import (
    assert_close,
    equal,
    few,
    images_for,
    models,
    not_square,
    randomised,
)


ANY_SIZE = "CvT CrossFormer RegionViT ScalableViT TwinsSVT DINOv3".split()


def random_state(state, key):
    """Running statistics as after some training: positive and not 0 or 1."""
    return jax.tree.map(lambda x: 1.25 + 0.75 * jnp.tanh(x), randomised(state, key, 1))


def operations(function, *arguments):
    return str(jax.make_jaxpr(function)(*arguments)).count(" = ")


BATCH_NORM = {
    "CvT": {},
    "DeepViT with a stem": dict(conv_stem=True),
    "LeViT": {},
}


@pytest.mark.parametrize("model", few(BATCH_NORM))
def test_fused_models_are_equal_and_smaller(model, getkey):
    name, _, _ = model.partition(" ")
    made, state = eqx.nn.make_with_state(models[name])(
        **BATCH_NORM[model], key=getkey()
    )
    made, state = randomised(made, getkey()), random_state(state, getkey())
    fused, images = eqx_vit.fuse_batch_norm(made, state), images_for(name)
    wanted = eqx_vit.predict(made, images, state)
    assert_close(eqx.filter_jit(eqx.filter_vmap(fused))(images), wanted)
    assert not isinstance(fused, eqx.nn.StatefulLayer)
    inference = eqx.nn.inference_mode(made)
    before = operations(lambda image: inference(image, state)[0], images[0])
    assert operations(fused, images[0]) < before


def test_a_model_without_batch_norm_is_its_own_fusion(getkey):
    model, state = eqx.nn.make_with_state(models["ViT"])(key=getkey())
    fused = eqx_vit.fuse_batch_norm(model, state)
    assert equal(fused, eqx.nn.inference_mode(model))


def test_a_batch_norm_by_itself_cannot_be_fused():
    norm, state = eqx.nn.make_with_state(BatchNorm)(3)
    with pytest.raises(ValueError, match="running_mean.*BatchNormed"):
        eqx_vit.fuse_batch_norm(norm, state)


@pytest.mark.parametrize("name", few(ANY_SIZE))
def test_no_pixel_is_left_out(name, getkey):
    sides, settings = not_square[name]
    make = eqx.nn.make_with_state(models[name])
    model, state = make(**settings, key=getkey())
    model = eqx.nn.inference_mode(randomised(model, getkey()))
    state = random_state(state, getkey())

    @jax.jit
    @jax.grad
    def gradient(image):
        return eqx.nn.Sequential([model])(image, state)[0].sum()

    seen = np.asarray(gradient(jr.normal(getkey(), (*sides, 3))))
    assert seen.any(axis=-1).all() and np.isfinite(seen).all()


@pytest.mark.parametrize(
    "name, sides, nearest",
    [
        ("CvT", (25, 24), "24 x 24"),
        ("CrossFormer", (28, 33), "32 x 32"),
        ("RegionViT", (40, 32), "32 x 32"),
        ("ScalableViT", (40, 49), "32 x 48"),
        ("TwinsSVT", (7, 36), "16 x 32"),
    ],
)
def test_images_that_do_not_fit(name, sides, nearest):
    make = eqx.nn.make_with_state(models[name])
    model, state = eqx.filter_eval_shape(make, key=jr.key(0))
    image = jax.ShapeDtypeStruct((*sides, 3), jnp.float32)
    message = f"`image` of {sides[0]} x {sides[1]} pixels.*{nearest}"
    with pytest.raises(ValueError, match=message):
        eqx.filter_eval_shape(eqx.nn.Sequential([model]), image, state)


def test_windows_are_joined_as_they_were_split(getkey):
    x = jr.normal(getkey(), (6, 8, 3))
    windows = split_windows(x, (3, 2))
    assert windows.shape == (8, 6, 3)
    assert np.array_equal(windows[5], x[3:6, 2:4].reshape(6, 3))
    assert np.array_equal(join_windows(windows, (3, 2), 8), x)


class Affine(eqx.Module):
    """A block whose order in a cycle shows."""

    factor: jax.Array
    position: int = eqx.field(static=True)

    def __call__(self, x, drop_rate, *, key=None):
        return x * self.factor + self.position % 2 + drop_rate


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_blocks_take_turns(depth, getkey):
    rates, key = tuple(0.1 * i for i in range(depth)), getkey()

    def make_block(position, key):
        return Affine(jr.normal(key), position)

    cycle = AlternatingStack(make_block, 2, rates, key=key)
    factors = []
    if cycle.turns is not None:
        turns = [block.factor for block in cycle.turns.blocks.blocks]
        factors += np.stack(turns, axis=-1).ravel().tolist()
    factors += [getattr(block, "factor") for block in cycle.remainder.blocks]
    assert len(factors) == depth
    x = expected = jr.normal(getkey(), (3,))
    for position, factor in enumerate(factors):
        expected = expected * factor + position % 2 + rates[position]
    assert_close(cycle(x, key=getkey()), expected)


@pytest.mark.parametrize("interval", [None, 2])
def test_groups_at_long_distance(interval, getkey):
    """A pixel sees those that stand `interval` apart, and no padding."""
    attention = GroupAttention(8, 2, 0.0, 1e-5, 2, interval, key=getkey())
    gradient = jax.jit(jax.grad(lambda x: attention(x)[0, 0].sum()))
    seen = np.asarray(gradient(jr.normal(getkey(), (5, 5, 8))))
    step = 3 if interval is None else 2  # two groups' worth of 5 pixels
    assert np.flatnonzero(seen.any(axis=(1, 2))).tolist() == [0, step]
    assert np.isfinite(seen).all()


def test_the_peg_of_region_vit_follows_the_first_block(getkey, tmp_path):
    """With a kernel of zeros it changes nothing, with any other the logits."""
    plain, path = models["RegionViT"](key=getkey()), tmp_path / "model.safetensors"
    eqx_vit.save_weights(plain, path)
    weights = load_file(path)
    with_peg, state = eqx.nn.make_with_state(models["RegionViT"])(
        use_peg=True, key=getkey()
    )
    assert [len(s.stacks) for s in with_peg.stages] == [1, 2]
    images, logits = images_for("RegionViT", 1), []
    for scale in (0, 1):
        for i, stage in enumerate(with_peg.stages):
            shape = (stage.peg.conv.weight.shape[2], 1, 3, 3)
            weights[f"layers.{i}.peg.weight"] = np.full(shape, scale, np.float32)
        model, _ = eqx_vit.load_weights(with_peg, weights, state)
        logits.append(eqx_vit.predict(model, images, state))
    assert_close(logits[0], eqx_vit.predict(plain, images, state))
    assert not np.allclose(*logits, atol=1e-3)


def test_grad_cat_walks_to_what_raises_the_logit(getkey):
    """Each pick is the quarter whose activations, scaled up, raise the logit most."""
    model = models["NesT"](num_hierarchies=3, key=getkey())
    model = eqx.nn.inference_mode(randomised(model, getkey()))
    image, label = jr.normal(getkey(), (32, 32, 3)), 3
    regions = eqx.filter_jit(eqx_vit.models.grad_cat)(model, image, label)
    assert regions.shape == (2, 4)

    @eqx.filter_jit
    def maps_of(image):
        maps = [model.embed(image)]
        for level, aggregation in zip(model.levels, model.aggregations):
            maps.append(aggregation(level(maps[-1])))
        return maps

    maps = maps_of(image)

    @eqx.filter_jit
    def slope(i, mask):
        def logit(scale):
            return model.classify(maps[i] * (1 + scale * mask[..., None]), i)[label]

        return jax.jvp(logit, (0.0,), (1.0,))[1]

    corner, side = (0, 0), 32
    for i, region in zip((2, 1), regions):
        side //= 2
        slopes = {}
        for row in (0, 1):
            for column in (0, 1):
                top, left = corner[0] + row * side, corner[1] + column * side
                mask = np.zeros((32, 32), np.float32)
                mask[top : top + side, left : left + side] = 1
                factor = 32 // len(maps[i])
                slopes[top, left] = float(slope(i, mask[::factor, ::factor]))
        corner = max(slopes, key=slopes.__getitem__)
        assert tuple(region.tolist()) == (*corner, side, side)


def test_grad_cat_of_no_class_or_another_image(getkey):
    model = models["NesT"](key=getkey())
    for label, nearest in ((10, 9), (-1, 0)):
        with pytest.raises(ValueError, match=f"`label={label}`.*{nearest}"):
            eqx_vit.models.grad_cat(model, jnp.zeros((32, 32, 3)), label)
    with pytest.raises(jaxtyping.TypeCheckError, match="image"):
        eqx_vit.models.grad_cat(model, jnp.zeros((48, 32, 3)), 0)


def test_quarters_of_an_odd_block_share_its_middle():
    x = jnp.arange(9.0).reshape(3, 3)
    assert_close(_quarters(x), jnp.array([[2.0, 3.0], [5.0, 6.0]]))
