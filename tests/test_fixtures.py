"""Outputs of official implementations that no package ships, on random weights."""

import equinox as eqx
import eqx_vit
import jax.numpy as jnp
import jax.random as jr
import pytest
from eqx_vit.layers import gelu_tanh

from .helpers import assert_close, equal, load_fixture


SIZES = dict(image_size=64, num_classes=10, dim=48, depth=2, heads=3, mlp_dim=96)
SIZES |= dict(dim_head=16)
GOOGLE = SIZES | dict(patch_size=16, qkv_bias=True, activation=gelu_tanh)
SIMPLE = GOOGLE | dict(output_bias=True, pre_logits_dim=48)
DEEP = SIZES | dict(patch_size=16, depth=3, heads=4, dim_head=12, mlp_dim=144)
DEEP |= dict(qkv_bias=True)
DEEP_CONV = DEEP | dict(reattention=(False, True, True), scale_reattention=True)
DEEP_CONV |= dict(residual_scale=0.5, conv_stem=True)
T2T = SIZES | dict(token_dim=16)

CROSS = dict(num_classes=10, dim=(32, 64, 128, 256), mlp_mult=(2, 2, 1, 1))
CROSS_PP = CROSS | dict(depth=(2, 1, 4, 1), interval=(4, 2, 1, 1), cooling=True)
CROSS_PP |= dict(local_window_size=(4, 4, 6, 3), global_window_size=(4, 4, 6, 3))
CROSS |= dict(depth=(1, 2, 1, 1), local_window_size=4, global_window_size=4)
REGION = dict(num_classes=10, dim=(16, 32, 64, 128), depth=(1, 1, 2, 1), mlp_mult=1)
REGION |= dict(heads=(1, 2, 2, 4), window_size=4)

FIXTURES = {
    "bigvision_simplevit": ("SimpleViT", SIMPLE),
    "bigvision_vit_tok": ("ViT", GOOGLE | dict(embed_prefix=False)),
    "bigvision_vit_map": ("ViT", GOOGLE | dict(class_token=False, pool="map")),
    "vitjax_token_prelogits": ("ViT", GOOGLE | dict(pre_logits_dim=40)),
    "sl_vit_official": ("SmallDatasetViT", SIZES | dict(image_size=32, patch_size=4)),
    "deepvit_official": ("DeepViT", DEEP),
    "deepvit_cnn_official": ("DeepViT", DEEP_CONV),
    "crossformer_official": ("CrossFormer", CROSS),
    "crossformer_pp_official": ("CrossFormer", CROSS_PP),
    "cvt_official": (
        "CvT",
        dict(
            num_classes=10,
            s1_emb_dim=16,
            s2_emb_dim=32,
            s3_emb_dim=48,
            s2_heads=2,
            s3_heads=3,
            s3_depth=3,
            s1_mlp_mult=2,
            s2_mlp_mult=2,
            s3_mlp_mult=2,
        ),
    ),
    "nest_flax_official": (
        "NesT",
        dict(
            image_size=64,
            num_classes=10,
            dim=24,
            heads=2,
            block_repeats=(1, 1, 2),
            activation=gelu_tanh,
        ),
    ),
    "regionvit_1conv_official": ("RegionViT", REGION),
    "regionvit_3conv_official": (
        "RegionViT",
        REGION | dict(tokenize_local_3_conv=True),
    ),
    "scalablevit_official": (
        "ScalableViT",
        dict(
            num_classes=10,
            dim=(16, 24, 32, 64),
            heads=(2, 2, 4, 4),
            depth=(2, 2, 3, 2),
            ssa_dim_key=(10, 15, 10, 16),
            ssa_dim_value=(8, 12, 8, 16),
            iwsa_dim_key=(8, 12, 8, 16),
            iwsa_dim_value=(8, 12, 8, 16),
            window_size=(4, 4, 4, 2),
            ff_expansion_factor=2,
            head_dim=4096,
        ),
    ),
    "t2t_performer_official": ("T2TViT", T2T | dict(performer=True)),
    "t2t_transformer_official": ("T2TViT", T2T),
}


@pytest.mark.parametrize("name", FIXTURES)
def test_official_outputs(name, tmp_path):
    cls, settings = FIXTURES[name]
    weights, images, logits = load_fixture(name)
    if images.shape[-1] != 3:
        images = images.transpose(0, 2, 3, 1)
    make = eqx.nn.make_with_state(getattr(eqx_vit, cls))
    shapes, like = eqx.filter_eval_shape(make, **settings, key=jr.key(0))
    model, state = eqx_vit.load_weights(shapes, weights, like)
    assert_close(eqx_vit.predict(model, jnp.asarray(images), state), logits)

    # And back, through a file.
    torch = name.endswith("official") and "flax" not in name
    suffix = ".safetensors" if torch else ".npz"
    eqx_vit.save_weights(model, tmp_path / f"model{suffix}", state)
    loaded = eqx_vit.load_weights(shapes, tmp_path / f"model{suffix}", like)
    assert equal(loaded, (model, state))
