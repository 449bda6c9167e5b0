from functools import partial

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest
import timm.models.vision_transformer as timm_vit
import torch
import vit_pytorch
from eqx_vit.families import vit
from eqx_vit.layers import gelu, gelu_tanh, quick_gelu
from eqx_vit.models.simple_vit import sincos_2d
from timm.layers import SwiGLUPacked
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

from ..helpers import assert_close
from .helpers import (
    assert_published,
    channels_first,
    check,
    random_images,
    randomised,
)


IMAGES = random_images(2, 32, 32, 3)
THEIRS = dict(
    img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=10
)
SIZES = dict(image_size=32, patch_size=8, num_classes=10, dim=48, depth=2, heads=3)
OURS = SIZES | dict(mlp_dim=192, dim_head=16, qkv_bias=True)

# timm's class and settings, and ours.
CONFIGURATIONS = {
    "class token": (VisionTransformer, {}, {}),
    "registers, LayerScale, mean": (
        VisionTransformer,
        dict(
            class_token=False,
            no_embed_class=True,
            reg_tokens=4,
            init_values=1e-5,
            global_pool="avg",
        ),
        dict(
            class_token=False,
            embed_prefix=False,
            register_tokens=4,
            layer_scale=1e-5,
            pool="mean",
            norm_after_pool=True,
        ),
    ),
    "CLIP": (
        VisionTransformer,
        dict(
            pre_norm=True,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-5),
            act_layer="quick_gelu",
        ),
        dict(pre_norm=True, norm_eps=1e-5, activation=quick_gelu),
    ),
    "SigLIP 2": (
        VisionTransformer,
        dict(class_token=False, global_pool="map", act_layer="gelu_tanh"),
        dict(class_token=False, pool="map", activation=gelu_tanh),
    ),
    "DeiT distilled": (VisionTransformerDistilled, {}, dict(distilled=True)),
    "DeiT III": (
        VisionTransformer,
        dict(no_embed_class=True, init_values=1e-6),
        dict(embed_prefix=False, layer_scale=1e-6),
    ),
    "DINOv2 with registers": (
        VisionTransformer,
        dict(no_embed_class=True, init_values=1e-5, reg_tokens=4, num_classes=0),
        dict(embed_prefix=False, layer_scale=1e-5, register_tokens=4, num_classes=0),
    ),
    "SigLIP, mean before norm": (
        VisionTransformer,
        dict(class_token=False, global_pool="avg", fc_norm=False),
        dict(class_token=False, pool="mean"),
    ),
    "mean beside a class token": (
        VisionTransformer,
        dict(global_pool="avg"),
        dict(pool="mean", norm_after_pool=True),
    ),
    "positions of registers, no bias": (
        VisionTransformer,
        dict(class_token=False, reg_tokens=1, global_pool="avg", qkv_bias=False),
        dict(
            class_token=False,
            register_tokens=1,
            pool="mean",
            norm_after_pool=True,
            qkv_bias=False,
        ),
    ),
    "DINOv2 giant": (
        VisionTransformer,
        dict(
            mlp_layer=SwiGLUPacked, mlp_ratio=16 / 3, act_layer="silu", init_values=1e-5
        ),
        dict(gated=True, mlp_dim=128, layer_scale=1e-5),
    ),
    "InternViT": (VisionTransformer, dict(final_norm=False), dict(final_norm=False)),
    "not square": (
        VisionTransformer,
        dict(img_size=(32, 32), patch_size=(8, 16), in_chans=3),
        dict(patch_size=(8, 16)),
    ),
}


@pytest.mark.parametrize(
    "cls, theirs, ours", CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys()
)
def test_timm(cls, theirs, ours, tmp_path):
    make_ours = partial(eqx_vit.ViT, **(OURS | ours))
    make_theirs = partial(cls, **(THEIRS | theirs))
    features = "register_tokens" in ours or "patch_size" in ours
    check(make_ours, make_theirs, IMAGES, tmp_path, "timm", features)


PYTORCH = dict(mlp_dim=64, dim_head=8)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_vit_pytorch(pool, tmp_path):
    ours = dict(patch_norm=True, norm_eps=1e-5, pool=pool, class_token=pool == "cls")
    make_ours = partial(eqx_vit.ViT, **SIZES, **PYTORCH, **ours)
    make_theirs = partial(vit_pytorch.ViT, **SIZES, **PYTORCH, pool=pool)
    check(make_ours, make_theirs, IMAGES, tmp_path, "vit_pytorch")


def test_simple_vit_pytorch(tmp_path):
    ours = dict(patch_norm=True, norm_eps=1e-5, activation=gelu)
    make_ours = partial(eqx_vit.SimpleViT, **SIZES, **PYTORCH, **ours)
    make_theirs = partial(vit_pytorch.SimpleViT, **SIZES, **PYTORCH)
    check(make_ours, make_theirs, IMAGES, tmp_path, "vit_pytorch")


def test_simple_vit_in_timm(tmp_path):
    class FixedPositions(VisionTransformer):
        def __init__(self):
            settings = dict(class_token=False, global_pool="avg", fc_norm=False)
            super().__init__(**THEIRS, **settings, act_layer="gelu_tanh")
            # Not a parameter, so that no random values are drawn for it.
            del self.pos_embed
            table = torch.tensor(sincos_2d((4, 4), 48))
            self.register_buffer("pos_embed", table[None])

    make_ours = partial(eqx_vit.SimpleViT, **OURS, output_bias=True)
    check(make_ours, FixedPositions, IMAGES, tmp_path, "timm")


@pytest.mark.parametrize("names", ["vision_transformer", "big_vision"])
def test_npz_files_that_timm_loads(names, tmp_path):
    embed_prefix = names == "vision_transformer"
    model = eqx_vit.ViT(**OURS, embed_prefix=embed_prefix, key=jr.key(0))
    theirs = VisionTransformer(**THEIRS, no_embed_class=not embed_prefix).eval()
    eqx_vit.save_weights(model, tmp_path / "model.npz", names=names)
    timm_vit._load_weights(theirs, str(tmp_path / "model.npz"))
    with torch.no_grad():
        logits = theirs(channels_first(IMAGES)).numpy()
    ours = jax.vmap(eqx.nn.inference_mode(model))(jnp.asarray(IMAGES))
    assert_close(ours, logits)


def test_three_steps_of_adamw():
    """Loss, gradients and updates of every parameter follow PyTorch's."""
    theirs = randomised(VisionTransformer(**THEIRS))
    model, state = eqx.nn.make_with_state(eqx_vit.ViT)(**OURS, key=jr.key(0))
    model, state = eqx_vit.load_weights(model, theirs.state_dict(), state)
    images, labels = random_images(4, 32, 32, 3), [1, 3, 5, 7]

    # With the usual 1e-8, Adam blows the rounding error of gradients near 0 up to the
    # size of a step, in either library.
    rates = dict(weight_decay=0.1, eps=1e-3)
    their_optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-3, **rates)
    optimizer = optax.adamw(1e-3, **rates)
    gradients = []

    def update(updates, state, params=None):
        jax.debug.callback(gradients.append, eqx.filter(updates, eqx.is_array))
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(updates, state, params)

    spy = optax.GradientTransformation(optimizer.init, update)
    opt_state = spy.init(eqx.filter(model, eqx.is_inexact_array))

    format, *_ = vit.FAMILY.formats

    for step in range(3):
        logits = theirs(channels_first(images))
        their_loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
        their_optimizer.zero_grad()
        their_loss.backward()
        their_optimizer.step()
        model, state, opt_state, loss = eqx_vit.train_step(
            model,
            state,
            opt_state,
            jnp.asarray(images),
            jnp.asarray(labels),
            spy,
            key=jr.key(0),
        )
        jax.effects_barrier()
        parameters = dict(theirs.named_parameters())
        assert_close(loss, their_loss.item())
        their_gradients = {n: p.grad.numpy() for n, p in parameters.items()}
        assert_published(format, gradients[step], their_gradients)
        parameters = {n: p.detach().numpy() for n, p in parameters.items()}
        assert_published(format, model, parameters)
