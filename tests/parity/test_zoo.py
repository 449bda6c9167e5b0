"""The zoo against timm and transformers: names, shapes, photograph, transform."""

import dataclasses
import re

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import timm
import torch
from eqx_vit.pretrained.weights import publish
from transformers import CvtConfig, CvtForImageClassification

from ..helpers import assert_close
from .helpers import format_named, random_images, randomised, their_logits
from .table import compare, PAGE, PHOTOGRAPH, VARIANTS


@pytest.mark.parametrize("name", VARIANTS)
def test_photograph(name, tmp_path):
    row = compare(name, tmp_path)
    assert np.isnan(row.pixels) if name == "cvt_13" else row.pixels <= 1e-3
    assert row.logits <= 1e-5 * (1 + row.largest)
    assert row.back <= 1e-6 * (1 + row.largest)


def test_the_page_has_these_variants():
    rows = re.findall(r"^\| `(\S+)` \|", PAGE.read_text(), re.MULTILINE)
    assert rows == list(VARIANTS)


def _reference(record):
    """The shapes of the reference's tensors, none of which is made."""
    with torch.device("meta"):
        if record.model is eqx_vit.CvT:
            depth = [record.settings.get(f"s{i}_depth", i) for i in (1, 2, 3)]
            heads = [record.settings.get(f"s{i}_heads", h) for i, h in _HEADS]
            dims = [record.settings.get(f"s{i}_emb_dim", d) for i, d in _DIMS]
            config = CvtConfig(
                num_labels=1000, depth=depth, num_heads=heads, embed_dim=dims
            )
            module = CvtForImageClassification(config)
        else:
            module = timm.create_model(record.name, num_classes=record.num_classes)
    return {n: tuple(t.shape) for n, t in module.state_dict().items()}


_HEADS, _DIMS = ((1, 1), (2, 3), (3, 6)), ((1, 64), (2, 192), (3, 384))
_BUFFERS = ("num_batches_tracked", "attention_bias_idxs")
# One checkpoint of every size and number of classes that a reference has.
_SIZES = {
    (name.partition(".")[0], record.num_classes): name
    for name, record in eqx_vit.zoo.items()
    if timm.is_model(name.partition(".")[0]) or record.model is eqx_vit.CvT
}


@pytest.mark.parametrize(
    "model", sorted({eqx_vit.zoo[name].model.__name__ for name in _SIZES.values()})
)
def test_every_size(model):
    """Every tensor of every variant has the name and the shape that timm has."""
    for name in _SIZES.values():
        record = eqx_vit.zoo[name]
        if record.model.__name__ != model:
            continue
        make = eqx.nn.make_with_state(record.model)
        arguments = record.arguments()
        ours, state = eqx.filter_eval_shape(make, **arguments, key=jr.key(0))
        if model == "CvT":
            format = "transformers"
        else:
            format = "timm_conv" if name.startswith("levit_conv") else "timm"
        format = format_named(ours, format)
        names = format.names(ours)
        arrays = eqx_vit.pretrained.weights.flatten(ours, state)
        published = jax.eval_shape(lambda a: publish(names, a), arrays)
        zeros = {
            n: np.broadcast_to(np.float32(0), t.shape) for n, t in published.items()
        }
        spelt = format.spell(ours, zeros)
        shapes = {n: t.shape for n, t in spelt.items() if not n.endswith(_BUFFERS)}
        theirs = _reference(record)
        theirs = {n: s for n, s in theirs.items() if not n.endswith(_BUFFERS)}
        assert shapes == theirs, name


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", "crossvit_9_240", "nest_tiny_jx", "levit_128s"]
    + ["vit_base_patch16_clip_384.openai_ft_in12k_in1k", "eva_large_patch14_336"]
    + ["vit_so400m_patch14_siglip_gap_896", "test_vit"],
)
@pytest.mark.parametrize("size", [(300, 411), (900, 640), (64, 64)], ids=str)
def test_preprocess(name, size):
    """As timm's own evaluation transform, for images of any shape."""
    record = eqx_vit.zoo[name]
    config = timm.get_pretrained_cfg(record.name).to_dict()
    config = timm.data.resolve_data_config(pretrained_cfg=config)
    theirs = timm.data.create_transform(**config)(PHOTOGRAPH.resize(size))
    ours = eqx_vit.preprocess(record, PHOTOGRAPH.resize(size))
    np.testing.assert_allclose(ours, theirs.permute(1, 2, 0), atol=1e-3)


def test_preprocess_oblong():
    record = dataclasses.replace(eqx_vit.zoo["cait_s24_224"], image_size=(160, 224))
    transform = timm.data.create_transform(
        (3, 160, 224), interpolation="bicubic", crop_pct=1.0
    )
    theirs = transform(PHOTOGRAPH).permute(1, 2, 0)
    np.testing.assert_allclose(
        eqx_vit.preprocess(record, PHOTOGRAPH), theirs, atol=1e-3
    )


@pytest.mark.parametrize("side", [96, 224])
@pytest.mark.parametrize(
    "name",
    ["test_vit", "test_vit2", "deit_tiny_distilled_patch16_224", "nest_tiny_jx"],
)
def test_resize(name, side):
    """As timm loads the same weights into a model of another size."""
    record = eqx_vit.zoo[name]
    theirs = randomised(timm.create_model(record.name), 0.05)
    state_dict = theirs.state_dict()
    model, _ = eqx_vit.create_model(
        name, weights=state_dict, image_size=side, key=jr.key(0)
    )
    resized = timm.create_model(record.name, img_size=side).eval()
    if name.startswith("nest"):  # whose own filter looks for names of the past
        wanted = resized.state_dict()
        for key in [key for key in state_dict if key.endswith("pos_embed")]:
            resize = timm.models.nest.resize_pos_embed
            state_dict[key] = resize(state_dict[key], wanted[key])
    else:
        state_dict = timm.models.deit.checkpoint_filter_fn(state_dict, resized)
    resized.load_state_dict(state_dict)
    images = random_images(1, side, side, 3)
    logits = their_logits(resized, images)
    assert_close(jax.vmap(model)(jnp.asarray(images)), logits)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", ["test_vit", "pit_ti_224", "levit_128s"])
def test_channels(name, channels):
    """As timm adapts a first layer."""
    record = eqx_vit.zoo[name]
    theirs = randomised(timm.create_model(record.name), 0.05)
    weights = theirs.state_dict()
    model, state = eqx_vit.create_model(
        name, weights=weights, channels=channels, key=jr.key(0)
    )
    first = next(n for n, t in weights.items() if t.ndim == 4 and t.shape[1] == 3)
    adapted = timm.models.adapt_input_conv(channels, weights[first])
    other = timm.create_model(record.name, in_chans=channels).eval()
    other.load_state_dict(weights | {first: adapted})
    images = random_images(1, *record.image_size, channels)
    logits = their_logits(other, images)
    assert_close(eqx_vit.predict(model, jnp.asarray(images), state), logits)
