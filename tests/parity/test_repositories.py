"""What we save, timm and transformers open without a line of code; and the reverse."""

import dataclasses
import json

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import timm
import torch
import transformers
from eqx_vit.cli import main

from ..helpers import assert_close, randomised as randomised_ours
from .helpers import randomised, their_logits
from .table import PHOTOGRAPH


SIZES = dict(image_size=32, patch_size=8, dim=32, depth=2, heads=2, dim_head=16)
VIT = SIZES | dict(mlp_dim=80, num_classes=4, qkv_bias=True)
CLASSES = ("ant", "bee", "cow", "dog")
MEAN = dict(pool="mean", norm_after_pool=True)

DINOV3 = {k: v for k, v in VIT.items() if k not in ("image_size", "qkv_bias")}

# The library, our class and its settings.
SAVED = {
    "ViT": ("timm", eqx_vit.ViT, VIT | MEAN),
    "DeiT": ("timm", eqx_vit.ViT, VIT | dict(distilled=True)),
    "CLIP": ("timm", eqx_vit.ViT, VIT | dict(pre_norm=True, norm_eps=1e-5)),
    "registers": (
        "timm",
        eqx_vit.ViT,
        VIT | dict(register_tokens=2, embed_prefix=False, layer_scale=0.1),
    ),
    "SwiGLU": ("timm", eqx_vit.ViT, VIT | dict(gated=True, layer_scale=0.1)),
    "SigLIP": ("timm", eqx_vit.ViT, VIT | dict(pool="map", class_token=False)),
    "CaiT": (
        "timm",
        eqx_vit.CaiT,
        VIT | dict(cls_depth=1, pool="mean", qkv_bias=False),
    ),
    "PiT": (
        "timm",
        eqx_vit.PiT,
        dict(
            image_size=32,
            patch_size=8,
            dim=(16, 48),
            depth=(1, 2),
            heads=(2, 3),
            dim_head=(8, 16),
            mlp_dim=(24, 72),
            qkv_bias=True,
            num_classes=4,
            distilled=True,
        ),
    ),
    "published size": ("timm", eqx_vit.PiT, dict(num_classes=4)),
    "ViT there": ("transformers", eqx_vit.ViT, VIT),
    "DINOv2 there": (
        "transformers",
        eqx_vit.ViT,
        VIT | dict(mlp_dim=64, layer_scale=0.1, pool="cls_mean"),
    ),
    "SigLIP there": (
        "transformers",
        eqx_vit.ViT,
        VIT | dict(class_token=False, pool="mean", activation=eqx_vit.layers.gelu_tanh),
    ),
    "no square there": (
        "transformers",
        eqx_vit.ViT,
        VIT
        | dict(image_size=(32, 48), class_token=False, pool="mean")
        | dict(activation=eqx_vit.layers.gelu_tanh),
    ),
    "tanh": ("timm", eqx_vit.ViT, VIT | dict(activation=eqx_vit.layers.gelu_tanh)),
    "trained with rates": (
        "timm",
        eqx_vit.ViT,
        VIT | dict(dropout=0.1, stochastic_depth=0.2),
    ),
    "DINOv3": ("timm", eqx_vit.DINOv3, DINOV3),
    "DINOv3 with SwiGLU": (
        "timm",
        eqx_vit.DINOv3,
        DINOV3 | dict(gated=True, query_bias=False, value_bias=False, pool="mean"),
    ),
    "CLIP there": (
        "transformers",
        eqx_vit.ViT,
        VIT | dict(pool="mean", pre_norm=True, final_norm=False, norm_eps=1e-5),
    ),
    "LeViT there": (
        "transformers",
        eqx_vit.LeViT,
        dict(
            image_size=64,
            stages=3,
            dim=(16, 32, 32),
            depth=1,
            heads=2,
            dim_key=4,
            dim_value=8,
            num_classes=4,
            distilled=True,
        ),
    ),
}


def theirs(library, folder):
    """The logits and the labels of a photograph, by their own code alone."""
    if library == "timm":
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        config = timm.data.resolve_model_data_config(model)
        image = timm.data.create_transform(**config)(PHOTOGRAPH)
        with torch.no_grad():
            logits = model(image[None])[0]
        return logits.numpy(), model.pretrained_cfg["label_names"]
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.no_grad():
        logits = model(**processor(PHOTOGRAPH, return_tensors="pt")).logits[0]
    return logits.numpy(), model.config.id2label.values()


@pytest.mark.parametrize("library, kind, settings", SAVED.values(), ids=SAVED.keys())
def test_a_folder_opens_there(library, kind, settings, tmp_path):
    if "dim" not in settings:
        settings = {**eqx_vit.zoo["pit_ti_224"].settings, **settings}
    make = eqx.nn.make_with_state(kind)
    model, state = make(**settings, key=jr.key(0))
    model = randomised_ours(model, jr.key(1))
    size = getattr(model, "image_size", (48, 48))
    record = dataclasses.replace(
        eqx_vit.zoo["vit_tiny_patch16_224"], image_size=size, crop=1.0
    )
    if size[0] != size[1]:
        record = dataclasses.replace(record, crop_mode="squash")
    eqx_vit.save_pretrained(
        model, tmp_path, state, format=library, classes=CLASSES, record=record
    )
    logits, labels = theirs(library, tmp_path)
    assert tuple(labels) == CLASSES

    record = eqx_vit.record(str(tmp_path))
    again, state = eqx_vit.create_model(str(tmp_path), key=jr.key(1))
    image = eqx_vit.preprocess(record, PHOTOGRAPH)
    assert_close(eqx_vit.predict(again, image[None], state)[0], logits)


@pytest.mark.parametrize("size", [32, 48, (24, 40)], ids=str)
@pytest.mark.parametrize(
    "name", ["Dinov2Model", "Dinov2WithRegistersModel", "DINOv3ViTModel"]
)
def test_positions_are_interpolated_as_there(name, size, tmp_path):
    kind = getattr(transformers, name)
    config = kind.config_class(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=32,
        patch_size=8,
    )
    model = randomised(kind(config), std=0.5)
    model.save_pretrained(tmp_path)
    height, width = (size, size) if isinstance(size, int) else size
    image = np.random.default_rng(0).normal(size=(height, width, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = model(torch.tensor(image).permute(2, 0, 1)[None]).last_hidden_state
    ours, _ = eqx_vit.create_model(str(tmp_path), image_size=size, key=jr.key(0))
    assert_close(
        eqx_vit.predict(ours, jnp.asarray(image)[None])[0], wanted[0, 0].numpy()
    )


# timm's arguments for sizes that nobody published.
FINE_TUNED = {
    "cait_xxs24_224": dict(
        img_size=32,
        patch_size=8,
        embed_dim=24,
        depth=2,
        num_heads=3,
        depth_token_only=1,
        global_pool="avg",
    ),
    "pit_s_224": dict(
        img_size=32,
        patch_size=8,
        stride=4,
        base_dims=(8, 8, 16),
        depth=(1, 2, 1),
        heads=(2, 6, 3),
        mlp_ratio=2,
    ),
    "pit_ti_distilled_224": dict(img_size=64, depth=(1, 1, 1)),
    "nest_tiny_jx": dict(img_size=32, mlp_ratio=1.5, qkv_bias=False),
    "levit_128s": dict(
        img_size=64,
        embed_dim=(16, 24),
        key_dim=8,
        depth=(1, 2),
        num_heads=(2, 3),
        mlp_ratio=1.5,
        distilled=False,
    ),
    "twins_svt_small": dict(
        embed_dims=(8, 16, 16, 24),
        num_heads=(1, 2, 2, 3),
        mlp_ratios=(2, 2, 1.5, 2),
        depths=(1, 3, 2, 1),
        sr_ratios=(4, 2, 1, 1),
        wss=(4, 4, 2, 2),
    ),
    "crossvit_9_240": dict(
        img_size=48,
        img_scale=(1.0, 32 / 48),
        embed_dim=(24, 40),
        depth=((1, 2, 0), (1, 2, 0)),
        num_heads=(3, 5),
        mlp_ratio=(2.0, 1.5, 1.0),
    ),
}


@pytest.mark.parametrize("name", FINE_TUNED)
def test_sizes_that_nobody_published(name, tmp_path):
    settings = FINE_TUNED[name]
    theirs = randomised(timm.create_model(name, num_classes=4, **settings))
    timm.models.save_for_hf(
        theirs, tmp_path, model_args=settings, safe_serialization=True
    )
    model, state = eqx_vit.create_model(str(tmp_path), key=jr.key(0))
    size = settings.get("img_size", 32)
    images = np.random.default_rng(0).normal(size=(2, size, size, 3))
    images = images.astype(np.float32)
    found = eqx_vit.predict(model, jnp.asarray(images), state)
    assert_close(found, their_logits(theirs, images))


def test_a_fine_tune_of_timm(tmp_path):
    """Of a changed size, with its own labels, as timm saves it."""
    sizes = dict(img_size=64, depth=2, embed_dim=48, num_heads=3, global_pool="avg")
    model = timm.create_model("vit_tiny_patch16_224", num_classes=4, **sizes)
    randomised(model)
    timm.models.save_for_hf(
        model,
        tmp_path,
        model_config=dict(label_names=list(CLASSES)),
        safe_serialization=True,
    )
    record = eqx_vit.record(str(tmp_path))
    ours, _ = eqx_vit.create_model(str(tmp_path), key=jr.key(0))
    logits, _ = theirs("timm", tmp_path)
    image = eqx_vit.preprocess(record, PHOTOGRAPH)
    assert record.classes == CLASSES and record.image_size == (64, 64)
    assert_close(eqx_vit.predict(ours, image[None])[0], logits)


@pytest.mark.parametrize("model", ["ViT", "DeepViT"])
def test_a_run_folder_opens_in_timm(model, tmp_path):
    """Where timm can build the model: it has no DeepViT."""
    arguments = ["train", "--model", model, "--data", "digits", "--epochs", "1"]
    arguments += ["--batch-size", "512", "--out", str(tmp_path / "run")]
    with jax.numpy_dtype_promotion("standard"):  # Optax needs it
        assert main(arguments) == 0
    if model == "DeepViT":
        assert "architecture" not in (tmp_path / "run" / "config.json").read_text()
        return
    theirs = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True).eval()
    assert theirs.pretrained_cfg["label_names"] == list("0123456789")
    ours, _ = eqx_vit.create_model(str(tmp_path / "run"), key=jr.key(0))
    images = np.random.default_rng(0).normal(size=(2, 28, 28, 1)).astype(np.float32)
    found = eqx_vit.predict(ours, jnp.asarray(images))
    assert_close(found, their_logits(theirs, images))


SQUARE = dict(height=32, width=32)
# As repositories have it.
PREPROCESSORS = {
    "ViT": dict(image_processor_type="ViTImageProcessor", size=SQUARE, resample=2),
    "an old one": dict(feature_extractor_type="ViTFeatureExtractor", size=32),
    "CLIP": dict(
        image_processor_type="CLIPImageProcessor",
        size=dict(shortest_edge=36),
        crop_size=dict(height=32, width=32),
        image_mean=[0.4, 0.5, 0.6],
        image_std=[0.2, 0.3, 0.4],
    ),
    "DINOv2": dict(
        image_processor_type="BitImageProcessor",
        size=dict(shortest_edge=37),
        crop_size=dict(height=32, width=32),
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        resample=3,
    ),
    "LeViT": dict(
        image_processor_type="LevitImageProcessor",
        crop_size=SQUARE,
        size=dict(shortest_edge=32),
    ),
    "DeiT": dict(
        image_processor_type="DeiTImageProcessor",
        size=dict(height=40, width=40),
        crop_size=SQUARE,
        do_center_crop=True,
    ),
    "ConvNeXt's": dict(
        image_processor_type="ConvNextImageProcessor",
        size=dict(shortest_edge=32),
        crop_pct=0.875,
    ),
    "another factor": dict(
        image_processor_type="ViTImageProcessor", size=SQUARE, rescale_factor=1 / 127.5
    ),
    "no normalisation": dict(
        image_processor_type="ViTImageProcessor", size=SQUARE, do_normalize=False
    ),
}


@pytest.mark.parametrize("size", [(300, 411), (301, 240)], ids=str)
@pytest.mark.parametrize("name", PREPROCESSORS)
def test_images_are_prepared_as_there(name, size, tmp_path):
    model = eqx_vit.ViT(**VIT, key=jr.key(0))
    eqx_vit.save_pretrained(model, tmp_path, format="transformers")
    text = json.dumps(PREPROCESSORS[name])
    (tmp_path / "preprocessor_config.json").write_text(text)
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    photograph = PHOTOGRAPH.resize(size)
    wanted = theirs(photograph, return_tensors="np")["pixel_values"][0]
    found = eqx_vit.preprocess(eqx_vit.record(str(tmp_path)), photograph)
    np.testing.assert_allclose(found, wanted.transpose(1, 2, 0), atol=1e-5)
