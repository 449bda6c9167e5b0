"""Adapters go both ways between this library and peft, on the models of transformers
and timm."""

from typing import Any, NamedTuple

import eqx_vit
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from ..helpers import with_trained
from .formats import build, CLASSES, ours
from .helpers import channels_first, random_images, randomised


peft = pytest.importorskip("peft", reason="install tests/parity/requirements.txt")

IMAGES = random_images(2, 32, 32, 3)
TIMM = dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2)
TIMM |= dict(num_classes=5)
OURS = dict(image_size=32, patch_size=8, dim=32, depth=2, heads=2, mlp_dim=128)
OURS |= dict(dim_head=16, qkv_bias=True)

# What is adapted, by the library's names and by ours.
TARGETS = {
    ("transformers", "attention"): (["q_proj", "k_proj", "v_proj"], ["*.qkv"]),
    ("transformers", "queries and values"): (["q_proj", "v_proj"], None),
    ("transformers", "all"): ("all-linear", ["*", "!head", "!patch_embedding*"]),
    ("timm", "attention"): (["qkv", "attn.proj"], None),
    ("timm", "mlp"): (["fc1", "fc2"], ["*feed_forward*"]),
    ("timm", "patches"): (["patch_embed.proj", "qkv"], ["patch_embedding*", "*qkv"]),
}


class Pair(NamedTuple):
    theirs: torch.nn.Module
    ours: Any
    head: str


def make(library):
    """A model of random weights there and here."""
    if library == "transformers":
        theirs = build("ViTForImageClassification")
        model, _ = eqx_vit.load_weights(*ours(theirs)[:1], theirs.state_dict())
        return Pair(theirs, model, "classifier")
    theirs = randomised(VisionTransformer(**TIMM))
    model = eqx_vit.ViT(**OURS, num_classes=5, key=jr.key(0))
    return Pair(theirs, eqx_vit.load_weights(model, theirs.state_dict())[0], "head")


def logits(theirs):
    with torch.no_grad():
        found = theirs(channels_first(IMAGES))
    return getattr(found, "logits", found).numpy()


def assert_same(model, theirs):
    wanted = logits(theirs)
    found = eqx_vit.predict(model, jnp.asarray(IMAGES))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def their_adapter(pair, targets, folder, **settings):
    """Their model with random adapters, saved."""
    config = peft.LoraConfig(
        r=4, target_modules=targets, modules_to_save=[pair.head], **settings
    )
    theirs = peft.get_peft_model(pair.theirs, config).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.1)
    theirs.save_pretrained(folder)
    return theirs


@pytest.mark.parametrize("library, what", TARGETS)
def test_theirs_here(library, what, tmp_path):
    pair, (targets, _) = make(library), TARGETS[library, what]
    before = logits(pair.theirs)
    theirs = their_adapter(pair, targets, tmp_path, lora_alpha=6)
    assert abs(logits(theirs) - before).max() > 0.01
    assert_same(eqx_vit.load_adapter(pair.ours, tmp_path), theirs)


SETTINGS = {
    "rank-stabilised": dict(use_rslora=True),
    "ranks": dict(rank_pattern={"blocks.0.attn.qkv": 2}),
    "alphas": dict(alpha_pattern={"blocks.0.attn.qkv": 3}, lora_alpha=5),
    "some blocks": dict(layers_to_transform=[1], layers_pattern="blocks"),
}


@pytest.mark.parametrize("settings", SETTINGS)
def test_settings(settings, tmp_path):
    pair = make("timm")
    theirs = their_adapter(pair, ["qkv", "fc1"], tmp_path, **SETTINGS[settings])
    assert_same(eqx_vit.load_adapter(pair.ours, tmp_path), theirs)


@pytest.mark.parametrize("library, what", TARGETS)
def test_ours_there(library, what, tmp_path):
    pair, (_, where) = make(library), TARGETS[library, what]
    model = eqx_vit.lora(pair.ours, 3, where, alpha=5, key=jr.key(0))
    model = with_trained(model, jr.key(1))
    before = logits(pair.theirs)
    eqx_vit.save_adapter(model, tmp_path, names=library)
    theirs = peft.PeftModel.from_pretrained(pair.theirs, tmp_path).eval()
    assert abs(logits(theirs) - before).max() > 0.01
    assert_same(model, theirs)


@pytest.mark.parametrize("name", CLASSES)
def test_modules_of_transformers(name, tmp_path):
    """What is adapted are linear layers inside transformers. (The query, key and value
    of SigLIP's pooling are parameters of one layer there.)"""
    theirs = build(name)
    where = ["transformer.*attention*"] if name.startswith("Siglip") else None
    model = eqx_vit.lora(ours(theirs)[0], 2, where, key=jr.key(0))
    eqx_vit.save_adapter(model, tmp_path, names="transformers")
    targets = peft.LoraConfig.from_pretrained(tmp_path).target_modules
    modules = dict(theirs.named_modules())
    assert targets
    assert all(isinstance(modules[target], torch.nn.Linear) for target in targets)
