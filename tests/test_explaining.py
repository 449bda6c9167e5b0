"""Looking inside: what is captured, features, attention maps."""

import functools
import re
from typing import Any

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from eqx_vit.interpret.capture import interpret
from jax.ad_checkpoint import checkpoint_name

from .helpers import assert_close, few, HEAVY, images_for, models, randomised


PYRAMIDS = ("PiT", "CvT", "LeViT", "CrossFormer", "NesT", "RegionViT", "ScalableViT")
# (It says where its patches lie as a pyramid does, since it takes any size.)
PYRAMIDS += ("TwinsSVT", "DINOv3")


@functools.cache
def made(name, **settings):
    """A model in inference mode, an image, and the state if there is one."""
    make = eqx.nn.make_with_state(models[name])
    model, state = make(**settings, key=jr.key(0))
    model = eqx.nn.inference_mode(randomised(model, jr.key(1)))
    has_state = isinstance(model, eqx.nn.StatefulLayer)
    return model, (images_for(name, 1)[0], *([state] if has_state else []))


def abstract(name):
    """As `made`, of shapes."""
    make = eqx.nn.make_with_state(models[name])
    model, state = eqx.filter_eval_shape(make, key=jr.key(0))
    model = eqx.nn.inference_mode(model)
    image = jax.ShapeDtypeStruct(images_for(name, 1)[0].shape, jnp.float32)
    has_state = isinstance(model, eqx.nn.StatefulLayer)
    return model, (image, *([state] if has_state else []))


def logits_of(model, arguments):
    out = model(*arguments)
    return out[0] if isinstance(out, tuple) else out


# What leaves a block or stage: height x width x dim, and the number of tokens before.
TOKENS = 2 * ["4x4x16 + 1"]
FEATURES = {
    "ViT": TOKENS,
    "SimpleViT": 2 * ["4x4x16 + 0"],
    "ParallelViT": TOKENS,
    "PatchMergerViT": ["4x4x16 + 0", "3x16"],  # merged tokens lie on no grid
    "SmallDatasetViT": TOKENS,
    "DeepViT": TOKENS,
    "CaiT": 2 * ["4x4x16 + 0"],
    "CrossViT": 2 * ["4x4x8 + 1", "2x2x16 + 1"],
    "T2TViT": 2 * ["2x2x16 + 1"],
    "PiT": ["7x7x8 + 1", "4x4x16 + 1"],
    "CvT": ["8x8x8 + 0", "4x4x8 + 0", "4x4x16 + 1"],
    "LeViT": ["4x4x8 + 0", "2x2x16 + 0"],
    "CrossFormer": ["8x8x32 + 0", "4x4x64 + 0"],
    "NesT": ["8x8x8 + 0", "4x4x16 + 0"],
    "RegionViT": ["8x8x8 + 0", "4x4x16 + 0"],
    "ScalableViT": ["8x8x8 + 0", "4x4x16 + 0"],
    "TwinsSVT": ["8x8x8 + 0", "4x4x8 + 0", "2x2x8 + 0", "2x2x16 + 0"],
    "DINOv3": 2 * ["4x4x16 + 5"],
    "Eighteenth": 2 * ["4x4x16 + 0"],
}


def spelt(feature):
    spell = lambda array: "x".join(map(str, array.shape))
    if feature.map is None:
        return spell(feature.prefix)
    return f"{spell(feature.map)} + {len(feature.prefix)}"


@pytest.mark.parametrize("name", few(models, HEAVY - {"CaiT", "PiT"}))
def test_shapes_inside(name):
    model, arguments = abstract(name)
    names = eqx_vit.named_values(model, *arguments)
    assert {"attention", "attention_output", "mlp", "block"} <= set(names)
    assert ("stage" in names) == (name in PYRAMIDS)
    maps: Any = eqx.filter_eval_shape(eqx_vit.attention_maps, model, *arguments)
    assert len(maps) == names["attention"]
    for layer in maps:
        _, queries, keys = layer.probabilities.shape
        assert queries >= np.prod(layer.query_grid) and keys >= np.prod(layer.key_grid)
    features: Any = eqx.filter_eval_shape(eqx_vit.features, model, *arguments)
    assert list(map(spelt, features)) == FEATURES[name]


def look(model, image, *state):
    logits, inside = eqx_vit.capture(model, ["attention", "block"])(image, *state)
    maps = eqx_vit.attention_maps(model, image, *state)
    sums = [layer.probabilities.sum(-1) for layer in maps]
    return logits, inside, sums, eqx_vit.features(model, image, *state)


def compiled(function, model):
    """The function of arguments, by XLA's newer emitters: what the older ones round
    where depends on what else a program returns."""
    arrays, static = eqx.partition(model, eqx.is_array)
    call = lambda arrays, *arguments: function(eqx.combine(arrays, static), *arguments)
    jitted = jax.jit(call, compiler_options={"xla_cpu_use_fusion_emitters": True})
    return lambda *arguments: jitted(arrays, *arguments)


@pytest.mark.parametrize("name", few(models, HEAVY - {"CaiT", "PiT"}))
def test_looking_inside(name):
    """Logits are what they were to the bit, rows of attention sum to one, and features
    follow their pixels."""
    model, (image, *state) = made(name)
    see = compiled(look, model)
    logits, inside, sums, features = see(image, *state)
    wanted = compiled(lambda model, *x: logits_of(model, x), model)(image, *state)
    assert np.array_equal(logits, wanted)
    assert all(np.isfinite(value).all() for value in jax.tree.leaves(inside))
    for rows in sums:
        assert_close(rows, np.ones(rows.shape))
    *_, changed = see(image.at[:16, :16].multiply(-3), *state)
    for one, other in zip(features, changed):
        one, other = (f.prefix if f.map is None else f.map for f in (one, other))
        assert not np.array_equal(one[0], other[0])


# Those whose head takes neither the first token nor the mean of the last grid.
POOLED_OTHERWISE = {"CaiT", "CrossViT", "RegionViT", "Eighteenth"}


@pytest.mark.parametrize("name", few(models, HEAVY - {"CaiT", "PiT"}))
def test_what_is_pooled_comes_from_the_tokens(name):
    model, (image, *state) = made(name)
    found = eqx_vit.embed(model, image, *state)
    bare = eqx_vit.reset_head(model, 0, key=jr.key(0))
    pooled = compiled(lambda model, *x: logits_of(model, x), bare)(image, *state)
    assert_close(found.pooled, pooled)
    if name in POOLED_OTHERWISE:
        return
    if found.map is None:  # merged
        assert_close(found.prefix.mean(0), pooled)
    elif len(found.prefix):
        assert_close(found.prefix[0], pooled)
    else:
        assert_close(found.map.mean((0, 1)), pooled)


def test_a_rollout_ends_in_what_the_head_reads(vit):
    mean = eqx_vit.layers.replaced(vit, pool="mean")
    assert not np.allclose(eqx_vit.rollout(vit, IMAGE), eqx_vit.rollout(mean, IMAGE))


def test_local_maps_do_not_change_with_pixels_they_do_not_see():
    model, (image,) = made("NesT")
    one, other = (
        np.asarray(eqx_vit.features(model, pixels)[0].map)
        for pixels in (image, image.at[:4, :4].add(1))
    )
    difference = one - other
    assert np.abs(difference[:4, :4]).min() > 0  # its block
    assert np.abs(difference[4:]).max() == np.abs(difference[:, 4:]).max() == 0


@pytest.fixture(scope="module")
def vit():
    return made("ViT")[0]


IMAGE = images_for("ViT", 1)[0]


def program(function, model):
    """The instructions of the compiled function, without their numbers."""
    jitted: Any = eqx.filter_jit(function)
    compiled = jitted.lower(model, IMAGE).compile().compiled
    lines = [line.split(", metadata=")[0] for line in compiled.as_text().splitlines()]
    lines = [line for line in lines if line.strip().startswith(("%", "ROOT", "ENTRY"))]
    return sorted(re.sub(r"\.\d+", "", line) for line in lines)


def test_nothing_is_computed_that_is_not_asked_for(vit):
    nothing = lambda vit, image: eqx_vit.capture(vit, [])(image)[0]
    alone = program(lambda vit, image: vit(image), vit)
    assert program(nothing, vit) == alone

    def look(vit, image):
        return eqx_vit.capture(vit, ["block"], depth=0)(image)[1]

    # Of two blocks: the body of the loop over both has the products of one.
    products = [" dot(" in line for line in alone].count(True)
    assert [" dot(" in line for line in program(look, vit)].count(True) < products


def test_depth(vit):
    _, every = eqx_vit.capture(vit, ["attention", "block"])(IMAGE)
    for depth in (0, 1, -1):
        logits, one = eqx_vit.capture(vit, ["attention", "block"], depth=depth)(IMAGE)
        assert_close(logits, vit(IMAGE))
        for name in one:
            assert_close(one[name], every[name][depth])
    model, (image,) = made("NesT")
    _, every = eqx_vit.capture(model, ["block"])(image)
    _, one = eqx_vit.capture(model, ["block"], depth=-1)(image)
    assert_close(one["block"], every["block"][-1][-1])


def test_capture_composes(vit):
    look = eqx_vit.capture(vit, ["attention"])
    images = images_for("ViT", 2)
    logits, inside = jax.jit(jax.vmap(look))(images)
    assert inside["attention"].shape == (2, 2, 2, 17, 17)
    assert_close(logits[1], vit(images[1]))
    again = eqx_vit.training.rematerialise(vit)
    for model in (vit, again):
        seen = eqx_vit.capture(model, ["mlp"])
        ours, theirs = lambda x: seen(x)[0][3], lambda x: vit(x)[3]
        assert_close(jax.jit(jax.grad(ours))(IMAGE), jax.jit(jax.grad(theirs))(IMAGE))
        total = lambda x: sum(leaf.sum() for leaf in jax.tree.leaves(seen(x)[1]))
        assert np.abs(jax.jit(jax.grad(total))(IMAGE)).max() > 0


def test_what_there_is_not_is_named(vit):
    with pytest.raises(
        ValueError, match="no value 'blok'.*attention, attention_output"
    ):
        eqx_vit.capture(vit, ["blok"])(IMAGE)
    with pytest.raises(ValueError, match="`depth=2`, but of 'block' there are 2"):
        eqx_vit.capture(vit, ["block"], depth=2)(IMAGE)
    with pytest.raises(ValueError, match="has 3, but there are 2; .* legal value is 1"):
        eqx_vit.features(vit, IMAGE, blocks=[3])


def test_an_offset_moves_a_value_and_what_follows(vit):
    model, image = vit, IMAGE
    _, found = interpret(model, ["mlp"], image, unstack=True)
    offsets = [jnp.zeros_like(value) for _, value in found]
    offsets[1] = jr.normal(jr.key(0), offsets[1].shape)
    logits, moved = interpret(model, ["mlp"], image, unstack=True, offsets=offsets)
    assert_close(moved[1][1], found[1][1] + offsets[1])
    assert_close(moved[0][1], found[0][1])
    assert not np.allclose(logits, model(image))


@pytest.mark.parametrize("explain", [eqx_vit.rollout, eqx_vit.relevance])
def test_only_what_is_seen_is_shown(explain):
    # All attend to one patch alone: keys are large where it is bright.
    model = models["ViT"](depth=1, qkv_bias=False, key=jr.key(0))
    model = eqx.nn.inference_mode(model)
    zeros = lambda m: (
        m.position_embedding,
        m.class_token,
        m.patch_embedding.linear.bias,
    )
    model = eqx.tree_at(zeros, model, replace_fn=jnp.zeros_like)
    image = jnp.zeros((32, 32, 3)).at[8:16, 16:24].set(1)
    options = {} if explain is eqx_vit.rollout else dict(label=3)
    # (All values but the bright patch's are zero, and so is what they could move.)
    found = explain(model, image, **options)
    if explain is eqx_vit.relevance:
        assert found[1, 2] > 0 and found.sum() == found[1, 2]
    else:
        # Fresh attention sees all patches alike, whatever is in them.
        assert np.allclose(found, found[0, 0], rtol=1e-2) and found[0, 0] > 0


@pytest.mark.parametrize("name", ["CaiT", "RegionViT"])
def test_relevance(name):
    model, arguments = made(name)
    found = eqx_vit.relevance(model, *arguments, label=3)
    assert found.ndim == 2 and jnp.isfinite(found).all()
    assert found.min() >= 0 and found.max() > 0


def test_rollout():
    model, arguments = made("CaiT")
    found = eqx_vit.rollout(model, *arguments)
    assert found.ndim == 2 and found.min() > 0 and 0 < found.sum() <= 1 + 1e-5


def test_what_has_no_explanation():
    with pytest.raises(ValueError, match="For NesT see `relevance`"):
        eqx_vit.rollout(models["NesT"](key=jr.key(0)), IMAGE)
    with pytest.raises(ValueError, match="CrossViT does not have; see `attention_maps"):
        eqx_vit.relevance(abstract("CrossViT")[0], IMAGE, label=3)


def test_rollout_by_hand(vit):
    (attention,) = eqx_vit.capture(vit, ["attention"])(IMAGE)[1].values()
    flow = np.eye(17)
    for layer in np.asarray(attention, np.float64).mean(1):
        flow = (0.5 * np.eye(17) + 0.5 * layer) @ flow
    assert_close(eqx_vit.rollout(vit, IMAGE), flow[0, 1:].reshape(4, 4))


def shapes(name):
    model, arguments = abstract(name)
    found: Any = eqx.filter_eval_shape(eqx_vit.class_attention, model, *arguments)
    return [layer.shape for layer in found]


def test_class_attention():
    assert shapes("CaiT") == [(2, 4, 4)] * 2
    grids = [(4, 4), (2, 2), (2, 2), (2, 2), (2, 2), (4, 4), (4, 4)]
    assert [shape[1:] for shape in shapes("CrossViT")] == 2 * grids
    with pytest.raises(ValueError, match="SimpleViT has no class token"):
        shapes("SimpleViT")


def test_a_fused_model_is_explained():
    model, state = eqx.nn.make_with_state(models["LeViT"])(key=jr.key(0))
    image = jr.normal(jr.key(1), (64, 64, 3))
    fused = eqx_vit.fuse_batch_norm(model, state)
    found = eqx.filter_eval_shape(eqx_vit.attention_maps, fused, image)
    like = eqx.filter_eval_shape(eqx_vit.attention_maps, model, image, state)
    assert jax.tree.structure(found) == jax.tree.structure(like)


def test_a_name_that_is_not_looked_at_is_refused(vit):
    def either(image, *, key=None):
        taken = lambda image: checkpoint_name(vit(image), "mlp")
        return jax.lax.cond(image.sum() > 0, taken, lambda image: vit(image), image)

    with pytest.raises(ValueError, match="'mlp' inside JAX's primitive 'cond'"):
        eqx_vit.capture(either, ["mlp"])(IMAGE)
