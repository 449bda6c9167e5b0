from functools import partial

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from eqx_vit.layers import gelu
from eqx_vit.pretrained.weights import formats_of
from timm.models.levit import LevitDistilled
from timm.models.nest import Nest
from timm.models.twins import Twins
from transformers import CvtConfig, CvtForImageClassification

from ..helpers import assert_close
from .helpers import (
    assert_published,
    channels_first,
    check,
    loss_and_gradients,
    random_images,
    randomised,
    their_gradients,
)


IMAGES = random_images(2, 32, 32, 3)
MAP = random_images(2, 64, 64, 3)


@pytest.mark.parametrize("windows", [(4, 4, 2, 2), (7, 7, 7, 7)], ids=["", "padded"])
def test_twins_svt(windows, tmp_path):
    dims, factors = (16, 32, 48, 64), (8, 4, 2, 1)
    stages = {}
    for i in range(4):
        stages |= {
            f"s{i + 1}_emb_dim": dims[i],
            f"s{i + 1}_local_patch_size": windows[i],
            f"s{i + 1}_global_k": factors[i],
            f"s{i + 1}_depth": (1, 1, 2, 1)[i],
        }
    make_ours = partial(
        eqx_vit.TwinsSVT, **stages, num_classes=10, heads=(1, 2, 3, 4), mlp_mult=2
    )
    make_theirs = partial(
        Twins,
        img_size=64,
        embed_dims=dims,
        num_heads=[1, 2, 3, 4],
        mlp_ratios=[2] * 4,
        depths=[2, 2, 4, 2],
        wss=windows,
        sr_ratios=factors,
        num_classes=10,
    )
    check(make_ours, make_theirs, MAP, tmp_path, "timm", features=True)


def test_nest(tmp_path):
    make_ours = partial(
        eqx_vit.NesT,
        image_size=32,
        patch_size=2,
        num_classes=10,
        dim=24,
        heads=2,
        block_repeats=(1, 2, 1),
    )
    make_theirs = partial(
        Nest,
        img_size=32,
        patch_size=2,
        embed_dims=(24, 48, 96),
        num_heads=(2, 4, 8),
        depths=(1, 2, 1),
        num_classes=10,
        pad_type="same",
    )
    check(make_ours, make_theirs, IMAGES, tmp_path, "timm", features=True)


def test_a_nest_of_any_widths(tmp_path):
    make_ours = partial(
        eqx_vit.NesT,
        image_size=32,
        patch_size=2,
        num_classes=10,
        dim=(24, 40, 56),
        heads=(2, 5, 4),
        block_repeats=(1, 2, 1),
        mlp_mult=1.5,
    )
    make_theirs = partial(
        Nest,
        img_size=32,
        patch_size=2,
        embed_dims=(24, 40, 56),
        num_heads=(2, 5, 4),
        depths=(1, 2, 1),
        mlp_ratio=1.5,
        num_classes=10,
        pad_type="same",
    )
    check(make_ours, make_theirs, IMAGES, tmp_path, "timm")


LEVIT = partial(
    eqx_vit.LeViT,
    image_size=64,
    num_classes=10,
    dim=(32, 48, 64),
    depth=(1, 2, 1),
    heads=(2, 3, 4),
    dim_key=8,
    dim_value=16,
)
THEIR_LEVIT = partial(
    LevitDistilled,
    img_size=64,
    embed_dim=(32, 48, 64),
    key_dim=8,
    num_heads=(2, 3, 4),
    depth=(1, 2, 1),
    num_classes=10,
)


@pytest.mark.parametrize("conv", [False, True], ids=["linear", "convolutional"])
def test_levit(conv, tmp_path):
    names = "timm_conv" if conv else "timm"
    make_theirs = partial(THEIR_LEVIT, use_conv=conv)
    check(LEVIT, make_theirs, MAP, tmp_path, names, features=not conv)


def test_a_levit_of_any_widths(tmp_path):
    """A width need not be a multiple of the size of a key."""
    sizes = dict(dim=(40, 56, 64), dim_key=12, dim_value=24, heads=(3, 4, 5))
    make_ours = partial(LEVIT.func, **LEVIT.keywords | sizes)
    sizes = dict(embed_dim=(40, 56, 64), key_dim=12, num_heads=(3, 4, 5))
    make_theirs = partial(THEIR_LEVIT.func, **THEIR_LEVIT.keywords | sizes)
    check(make_ours, make_theirs, MAP, tmp_path, "timm")


def check_training(make_ours, theirs, images, names):
    """Loss, gradients, running statistics after the step and inference after it.

    In float64: in float32 the gradients of stacked batch normalisations are exact to
    2e-5 only, in PyTorch and here.
    """
    theirs = randomised(theirs).double().train()
    with jax.enable_x64(True):
        model, state = eqx.nn.make_with_state(make_ours)(key=jr.key(0))
        model, state = eqx_vit.load_weights(model, theirs.state_dict(), state)
        images, labels = jnp.asarray(images, "float64"), [1, 3, 5, 7]
        (loss, state), gradients = loss_and_gradients(
            model, state, images, jnp.asarray(labels)
        )
        their_loss, wanted = their_gradients(theirs, images, labels)
        assert_close(loss, their_loss)
        (format,) = (f for f in formats_of(model) if f.name == names)
        assert_published(format, gradients, wanted)
        after = {n: t.detach().numpy() for n, t in theirs.state_dict().items()}
        assert_published(format, model, after, state)
        logits = theirs.eval()(channels_first(images)).detach()
        assert_close(eqx_vit.predict(model, images, state), logits)


def test_levit_in_training():
    check_training(LEVIT, THEIR_LEVIT(), random_images(4, 64, 64, 3), "timm")


CVT = partial(
    eqx_vit.CvT,
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
    norm_eps=1e-5,
    activation=gelu,
)


class Cvt(CvtForImageClassification):
    """transformers' CvT, called as timm's models are."""

    def __init__(self):
        config = CvtConfig(
            num_labels=10,
            embed_dim=[16, 32, 48],
            num_heads=[1, 2, 3],
            depth=[1, 2, 3],
            mlp_ratio=[2.0, 2.0, 2.0],
            drop_path_rate=[0.0, 0.0, 0.0],
        )
        super().__init__(config)

    def forward(self, images):
        return super().forward(images).logits


@pytest.mark.parametrize("size", [64, 40])
def test_cvt(size, tmp_path):
    images = random_images(2, size, size, 3)
    check(CVT, Cvt, images, tmp_path, "transformers")


def test_cvt_in_training():
    check_training(CVT, Cvt(), random_images(4, 32, 32, 3), "transformers")
