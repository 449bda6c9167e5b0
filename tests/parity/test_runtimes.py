"""Models in ONNX Runtime give the logits of JAX for a photograph."""

import re

import eqx_vit
import jax
import jax.random as jr
import numpy as np
import pytest


pytest.importorskip("jax2onnx", reason="install tests/parity/requirements.txt")
pytest.importorskip("onnxruntime", reason="install tests/parity/requirements.txt")

import onnxruntime
from eqx_vit.cli import main
from eqx_vit.deploy import export_onnx as deploy

from ..helpers import models
from .runtimes import directly, PAGE, THROUGH_TORCH, through_torch


VIT = dict(
    image_size=32, patch_size=8, dim=16, depth=1, heads=2, dim_head=8, mlp_dim=32
)


@pytest.mark.parametrize("name", models)
def test_directly(name, tmp_path):
    assert directly(name, tmp_path / "model.onnx").is_close


@pytest.mark.parametrize("name", THROUGH_TORCH)
def test_through_torch(name, tmp_path):
    assert through_torch(name, tmp_path).is_close


def test_the_page_has_these_ways():
    rows = re.findall(r"^\| `(\w+)` \| (\S+)", PAGE.read_text(), re.MULTILINE)
    ours = [(name, "`export_onnx`") for name in models if hasattr(eqx_vit, name)]
    through = [
        (way.model.__name__, f"`{way.library}`,") for way in THROUGH_TORCH.values()
    ]
    assert rows == ours + through


def test_the_command(tmp_path, capsys):
    model = eqx_vit.ViT(**VIT, qkv_bias=True, num_classes=4, key=jr.key(0))
    eqx_vit.save_pretrained(model, tmp_path)
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "model.onnx")]) == 0
    assert "float32[batch,32,32,3]" in capsys.readouterr().out.replace("\n", "")
    (logits,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").get_outputs()
    assert logits.shape == ["batch", 4]


def test_a_fixed_batch_and_grey_images(tmp_path):
    model = eqx_vit.ViT(**VIT, channels=1, key=jr.key(0))
    path = tmp_path / "model.onnx"
    eqx_vit.export_onnx(model, path, (32, 32), channels=1, batch_size=5)
    (images,) = onnxruntime.InferenceSession(path).get_inputs()
    assert images.shape == [5, 32, 32, 1]


def test_weights_beside_a_file_that_cannot_hold_them(tmp_path, monkeypatch):
    monkeypatch.setattr(deploy, "_LARGEST_FILE", 100)
    model = eqx_vit.ViT(**VIT, key=jr.key(0))
    eqx_vit.export_onnx(model, tmp_path / "model.onnx", 32)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"model.onnx", "model.onnx.data"}
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    images = np.ones((1, 32, 32, 3), np.float32)
    (logits,) = session.run(None, {"images": images})
    assert np.allclose(logits, eqx_vit.predict(model, images), atol=1e-5)


def test_an_operation_that_is_not_known(tmp_path):
    def model(image, key):
        return jax.lax.pad(image[0, 0], 0.0, [(0, 0, 1)])

    with pytest.raises(ValueError, match="torch.onnx.export"):
        eqx_vit.export_onnx(model, tmp_path / "model.onnx", 32)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written(tmp_path):
    model = eqx_vit.ViT(**VIT, key=jr.key(0))
    with pytest.raises(OSError, match="Cannot write `.*nowhere/model.onnx`"):
        eqx_vit.export_onnx(model, tmp_path / "nowhere" / "model.onnx", 32)
