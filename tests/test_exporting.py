"""A model as a program that needs nothing of this package."""

import subprocess
import sys
from typing import Any

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from .helpers import few, images_for, models


RUN = """
import sys
sys.modules["eqx_vit"] = sys.modules["equinox"] = None  # which nobody may import
import jax, numpy as np
images = np.load("images.npy")
exported = jax.export.deserialize(open("model.jax", "rb").read())
np.save("logits.npy", exported.call(images))
"""


@pytest.mark.parametrize("name", few(["ViT", "LeViT"], {"LeViT"}))
def test_it_runs_without_us(name, tmp_path):
    model, state = eqx.nn.make_with_state(models[name])(key=jr.key(0))
    images = images_for(name, 3)
    exported = eqx_vit.export(model, images.shape[1], state)
    (tmp_path / "model.jax").write_bytes(exported.serialize())
    np.save(tmp_path / "images.npy", images)
    subprocess.run([sys.executable, "-c", RUN], cwd=tmp_path, check=True)
    wanted = eqx_vit.predict(model, images, state)
    assert np.allclose(np.load(tmp_path / "logits.npy"), wanted, atol=1e-6)


@pytest.mark.parametrize("name", few(models))
def test_batches_of_any_size(name):
    make: Any = eqx.nn.make_with_state(models[name])
    shapes = eqx.filter_eval_shape(make, key=jr.key(0))
    # (Weights of any numbers: the program is not run.)
    fill = lambda x: jnp.zeros(x.shape, x.dtype) if hasattr(x, "dtype") else x
    model, state = jax.tree.map(fill, shapes)
    exported = eqx_vit.export(model, images_for(name, 1).shape[1], state)
    (logits,) = exported.out_avals
    assert str(logits.shape) == "(batch, 10)"


def test_onnx_without_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    model = models["ViT"](key=jr.key(0))
    with pytest.raises(ImportError, match="pip install jax2onnx"):
        eqx_vit.export_onnx(model, tmp_path / "model.onnx", 32)
