"""The classes of transformers that are ours: their weights give us their outputs, and
what we save loads there strictly and computes the same."""

import re

import eqx_vit
import jax.numpy as jnp
import jax.random as jr
import pytest
import torch
import transformers

from .formats import build, CLASSES, compare, ours, PAGE
from .helpers import channels_first, random_images, randomised


@pytest.mark.parametrize("spelling", ["live", "disk"])
@pytest.mark.parametrize("name", CLASSES)
def test_weights_go_both_ways(name, spelling, tmp_path):
    row = compare(name, spelling, tmp_path)
    assert row.read <= 1e-5 * (1 + row.largest)
    assert row.written <= 1e-6 * (1 + row.largest)


def test_the_page_has_these_classes():
    rows = re.findall(r"^\| `(\w+)` \| \[", PAGE.read_text(), re.MULTILINE)
    assert rows == list(CLASSES)


@pytest.mark.parametrize("prefix", ["model.", "module.", "_orig_mod.", "backbone."])
@pytest.mark.parametrize("keys", [(), ("state_dict",), ("model",)])
@pytest.mark.parametrize("name", ["ViTForImageClassification", "Dinov2Model"])
def test_wrapped_as_training_scripts_do(name, keys, prefix, caplog):
    theirs = build(name)
    source = {f"{prefix}{n}": t for n, t in theirs.state_dict().items()}
    for key in keys:
        source = {key: source, "epoch": 3}
    model, _ = eqx_vit.load_weights(*ours(theirs)[:1], source)
    plain, _ = eqx_vit.load_weights(*ours(theirs)[:1], theirs.state_dict())
    assert jnp.array_equal(model.norm.weight, plain.norm.weight)
    assert prefix in caplog.text


def test_what_is_left_out_is_said(caplog):
    theirs = build("ViTModel")  # with a pooler
    eqx_vit.load_weights(*ours(theirs)[:1], theirs.state_dict())
    assert "left out pooler.dense" in caplog.text


def test_a_whole_clip(tmp_path):
    """The tower for images in a file that has one for texts too."""
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    sizes |= dict(intermediate_size=48)
    vision = sizes | dict(image_size=32, patch_size=8)
    config = transformers.CLIPConfig(
        vision_config=vision, text_config=sizes | dict(vocab_size=50), projection_dim=12
    )
    theirs = randomised(transformers.CLIPModel(config))
    theirs.save_pretrained(tmp_path)
    model, _ = eqx_vit.create_model(str(tmp_path), key=jr.key(0))
    images = random_images(2, 32, 32, 3)
    with torch.no_grad():
        wanted = theirs.get_image_features(channels_first(images))
    wanted = getattr(wanted, "pooler_output", wanted).numpy()
    found = eqx_vit.predict(model, jnp.asarray(images))
    assert abs(found - wanted).max() <= 1e-5 * (1 + abs(wanted).max())


def test_siglip2_for_images_of_one_size():
    """It takes patches, with the pixels of a channel far apart, instead of an image."""
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    sizes |= dict(intermediate_size=48, num_patches=16, patch_size=8)
    sizes["architectures"] = ["Siglip2VisionModel"]
    config = transformers.Siglip2VisionConfig(**sizes)
    theirs = randomised(transformers.Siglip2VisionModel(config))
    images = random_images(2, 32, 32, 3)
    patches = images.reshape(2, 4, 8, 4, 8, 3).transpose(0, 1, 3, 2, 4, 5)
    with torch.no_grad():
        wanted = theirs(
            pixel_values=torch.tensor(patches.reshape(2, 16, -1)),
            pixel_attention_mask=torch.ones(2, 16),
            spatial_shapes=torch.tensor([[4, 4], [4, 4]]),
        ).pooler_output.numpy()
    model, _ = eqx_vit.load_weights(*ours(theirs)[:1], theirs.state_dict())
    found = eqx_vit.predict(model, jnp.asarray(images))
    assert abs(found - wanted).max() <= 1e-5 * (1 + abs(wanted).max())
