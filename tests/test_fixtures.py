"""Outputs of official implementations that no package ships, on random weights."""

import equinox as eqx
import eqx_vit
import jax.numpy as jnp
import jax.random as jr
import pytest
from eqx_vit.layers import gelu_tanh

from .helpers import assert_close, load_fixture


SIZES = dict(image_size=64, patch_size=16, num_classes=10, dim=48, depth=2, heads=3)
GOOGLE = SIZES | dict(mlp_dim=96, dim_head=16, qkv_bias=True, activation=gelu_tanh)


@pytest.mark.parametrize(
    "name, cls, settings",
    [
        (
            "bigvision_simplevit",
            eqx_vit.SimpleViT,
            dict(output_bias=True, pre_logits_dim=48),
        ),
        ("bigvision_vit_tok", eqx_vit.ViT, dict(embed_prefix=False)),
        ("bigvision_vit_map", eqx_vit.ViT, dict(class_token=False, pool="map")),
        ("vitjax_token_prelogits", eqx_vit.ViT, dict(pre_logits_dim=40)),
    ],
)
def test_official_outputs(name, cls, settings, tmp_path):
    weights, images, logits = load_fixture(name)
    make = eqx.nn.make_with_state(cls)
    model, state = make(**GOOGLE, **settings, key=jr.key(0))
    model, state = eqx_vit.load_weights(model, state, weights)
    assert_close(eqx_vit.predict(model, state, jnp.asarray(images)), logits)
