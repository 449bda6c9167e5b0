"""The classes of transformers that are ViTs here: their weights give us their outputs,
and what we save loads there strictly and computes the same."""

import equinox as eqx
import eqx_vit
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import torch
import transformers
from eqx_vit.families import families
from safetensors.torch import load_file

from ..helpers import assert_close
from .helpers import channels_first, random_images, randomised


SIZES = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    image_size=32,
    patch_size=8,
)
DINO = {k: v for k, v in SIZES.items() if k != "intermediate_size"} | dict(mlp_ratio=2)
LEVIT = dict(
    image_size=64,
    hidden_sizes=[16, 32, 32],
    num_attention_heads=[2, 2, 4],
    depths=[2, 1, 1],
    key_dim=[4, 4, 4],
)
CVT = dict(
    embed_dim=[8, 8, 16],
    num_heads=[1, 2, 2],
    depth=[1, 2, 3],  # (there each stage needs as many as its number)
    mlp_ratio=[1.0, 2.0, 2.0],
)
LABELS = dict(num_labels=5)
MASKED = dict(mask_ratio=0.0)  # of MAE only

# The class, and the settings of its configuration.
CLASSES = {
    "ViTForImageClassification": SIZES | LABELS,
    "ViTModel": SIZES | dict(hidden_act="gelu_new"),
    "DeiTForImageClassification": SIZES | LABELS,
    "DeiTForImageClassificationWithTeacher": SIZES | LABELS,
    "DeiTModel": SIZES,
    "Dinov2ForImageClassification": DINO | LABELS,
    "Dinov2Model": DINO | dict(use_swiglu_ffn=True),
    "Dinov2WithRegistersForImageClassification": DINO | LABELS,
    "Dinov2WithRegistersModel": DINO,
    "CLIPVisionModel": SIZES,
    "CLIPVisionModelWithProjection": SIZES | dict(projection_dim=12),
    "CLIPForImageClassification": dict(vision_config=SIZES) | LABELS,
    "SiglipVisionModel": SIZES,
    "SiglipForImageClassification": dict(vision_config=SIZES) | LABELS,
    "ViTMAEModel": SIZES | MASKED,
    "ViTMSNForImageClassification": SIZES | LABELS,
    "IJepaForImageClassification": SIZES | LABELS,
    "IJepaModel": SIZES,
    "LevitForImageClassification": LEVIT | LABELS,
    "LevitForImageClassificationWithTeacher": LEVIT | LABELS,
    "LevitModel": LEVIT,
    "CvtForImageClassification": CVT | LABELS,
}


def build(name):
    kind = getattr(transformers, name)
    config = kind.config_class(**CLASSES[name], architectures=[name])
    return randomised(kind(config))


def kind_of(config):
    """Our class, and how it is described there."""
    return next(
        (family, kind)
        for family in families().values()
        for kind in family.kinds
        if config["model_type"] in kind.model_types
    )


def ours(theirs):
    config = theirs.config.to_dict()
    family, kind = kind_of(config)
    arguments = kind.read(config)
    if family.model is eqx_vit.CvT:
        del arguments["image_size"]
    make = eqx.nn.make_with_state(family.model)
    return make(**arguments, key=jr.key(0))


def outputs(theirs, images, **options):
    """Whatever of theirs is what our model returns."""
    if isinstance(theirs, transformers.ViTMAEModel):  # it shuffles the patches
        options["noise"] = torch.arange(16.0).expand(len(images), 16)
    with torch.no_grad():
        found = theirs(pixel_values=channels_first(images), **options)
    pooled = isinstance(
        theirs, transformers.SiglipVisionModel | transformers.CLIPVisionModel
    )
    for name in ("logits", "image_embeds", *(["pooler_output"] if pooled else [])):
        if getattr(found, name, None) is not None:
            return getattr(found, name).numpy()
    tokens = found.last_hidden_state.numpy()
    is_jepa = isinstance(theirs, transformers.IJepaModel)
    return tokens.mean(1) if is_jepa else tokens[:, 0]


@pytest.mark.parametrize("spelling", ["live", "disk"])
@pytest.mark.parametrize("name", CLASSES)
def test_weights_go_both_ways(name, spelling, tmp_path):
    theirs = build(name)
    source = theirs.state_dict()
    if spelling == "disk":
        theirs.save_pretrained(tmp_path / "theirs")
        source = tmp_path / "theirs" / "model.safetensors"
    model, state = ours(theirs)
    model, state = eqx_vit.load_weights(model, source, state)
    side = getattr(theirs.config, "image_size", None) or 32
    images = random_images(2, side, side, 3)
    wanted = outputs(theirs, images)
    assert_close(eqx_vit.predict(model, jnp.asarray(images), state), wanted)

    path = tmp_path / "ours.safetensors"
    eqx_vit.save_weights(model, path, state, names="transformers")
    _, kind = kind_of(theirs.config.to_dict())
    config = type(theirs.config).from_dict(kind.write(model) | LABELS | MASKED)
    again, info = type(theirs).from_pretrained(
        None, config=config, state_dict=load_file(path), output_loading_info=True
    )
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    unused = ("pooler.", "vision_model.head.")
    assert all(key.startswith(unused) for key in info["missing_keys"])
    np.testing.assert_allclose(outputs(again.eval(), images), wanted, atol=1e-5)
