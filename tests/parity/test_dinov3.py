"""DINOv3 against timm, transformers, and in the names of the authors' files."""

import eqx_vit
import jax.numpy as jnp
import jax.random as jr
import pytest
import timm
import torch
import transformers

from ..helpers import assert_close
from .helpers import channels_first, random_images, randomised, their_logits


def theirs(**settings):
    sizes = dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4)
    name = settings.pop("name", "vit_small_patch16_dinov3")
    return randomised(
        timm.create_model(name, num_classes=5, **sizes | settings), std=0.5
    )


def ours(**settings):
    sizes = dict(patch_size=8, dim=32, depth=2, heads=4, dim_head=8, mlp_dim=128)
    return eqx_vit.DINOv3(num_classes=5, **sizes | settings, key=jr.key(0))


NO_BIAS = dict(query_bias=False, value_bias=False)
MODELS = {
    "plain": ({}, NO_BIAS | dict(pool="mean")),
    "class token": (dict(global_pool="token"), NO_BIAS),
    "biases": (dict(global_pool="token", qkv_bias=True), {}),
    "SwiGLU": (
        dict(name="vit_small_plus_patch16_dinov3"),
        NO_BIAS | dict(pool="mean", gated=True),
    ),
    "no registers": (
        dict(num_reg_tokens=0),
        NO_BIAS | dict(pool="mean", register_tokens=0),
    ),
    "temperature": (
        dict(rope_temperature=20.0),
        NO_BIAS | dict(pool="mean", rope_temperature=20.0),
    ),
}


@pytest.mark.parametrize("size", [(32, 32), (24, 40)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_timm(name, size):
    settings, our_settings = MODELS[name]
    reference = theirs(**settings)
    model, _ = eqx_vit.load_weights(ours(**our_settings), reference.state_dict())
    images = random_images(2, *size, 3)
    found = eqx_vit.predict(model, jnp.asarray(images))
    assert_close(found, their_logits(reference, images))


def test_names_of_the_authors():
    reference = theirs(qkv_bias=True, name="vit_small_plus_patch16_dinov3")
    tensors = {}
    for name, tensor in reference.state_dict().items():
        if name.endswith("q_bias"):
            value = reference.state_dict()[name.replace("q_bias", "v_bias")]
            key = torch.full_like(value, 7.0)  # masked
            tensors[name.replace("q_bias", "qkv.bias")] = torch.cat(
                [tensor, key, value]
            )
        elif not name.endswith("v_bias"):
            for new, old in (
                ("storage_tokens", "reg_token"),
                ("ls1.gamma", "gamma_1"),
                ("ls2.gamma", "gamma_2"),
                ("w1.", "fc1_g."),
                ("w2.", "fc1_x."),
                ("w3.", "fc2."),
            ):
                name = name.replace(old, new)
            tensors[name] = tensor
    tensors["mask_token"] = torch.zeros(1, 32)
    tensors["rope_embed.periods"] = torch.zeros(2)
    tensors["blocks.0.attn.qkv.bias_mask"] = torch.zeros(96)
    model, _ = eqx_vit.load_weights(ours(gated=True, pool="mean"), tensors)
    images = random_images(2, 32, 32, 3)
    found = eqx_vit.predict(model, jnp.asarray(images))
    assert_close(found, their_logits(reference, images))


def test_attention_and_tokens_of_transformers():
    config = transformers.DINOv3ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        patch_size=8,
        num_register_tokens=2,
        attn_implementation="eager",
    )
    reference = randomised(transformers.DINOv3ViTModel(config), std=0.5)
    model = ours(
        **dict(heads=2, dim_head=16, mlp_dim=48, register_tokens=2), layer_scale=1.0
    )
    model = eqx_vit.reset_head(model, 0, key=jr.key(0))
    model, _ = eqx_vit.load_weights(model, reference.state_dict())
    images = random_images(1, 24, 40, 3)
    with torch.no_grad():
        wanted = reference(channels_first(images), output_attentions=True)
    image = jnp.asarray(images[0])
    maps = eqx_vit.attention_maps(model, image)
    for layer, attention in zip(maps, wanted.attentions, strict=True):
        assert_close(layer.probabilities, attention[0].numpy())
        assert layer.query_grid == (3, 5)
    found = eqx_vit.embed(model, image)
    tokens = wanted.last_hidden_state[0].numpy()
    assert_close(found.prefix, tokens[:3])
    assert_close(found.map.reshape(15, 32), tokens[3:])
