from functools import partial

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import torch
from einops import rearrange
from eqx_vit.families import family_of
from eqx_vit.layers import resize_bicubic
from timm.models.cait import Cait
from timm.models.crossvit import CrossVit
from timm.models.pit import PoolingVisionTransformer
from timm.models.vision_transformer import ParallelThingsBlock, VisionTransformer
from vit_pytorch.deepvit import DeepViT
from vit_pytorch.parallel_vit import ViT as TheirParallelViT
from vit_pytorch.vit_for_small_dataset import SPT, ViT as SmallDatasetViT
from vit_pytorch.vit_with_patch_merger import PatchMerger, ViT as PatchMergerViT

from ..helpers import assert_close
from .helpers import (
    assert_published,
    channels_first,
    check,
    loss_and_gradients,
    random_images,
    randomised,
    their_gradients,
    their_logits,
)


THEIRS = dict(
    img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=10
)
SIZES = dict(image_size=32, patch_size=8, num_classes=10, dim=48, depth=2, heads=3)
OURS = SIZES | dict(mlp_dim=192, dim_head=16, qkv_bias=True)
SMALL = random_images(2, 32, 32, 3)


@pytest.mark.parametrize("layer_scale", [None, 1e-5])
@pytest.mark.parametrize("embed_prefix", [True, False])
def test_parallel_vit(layer_scale, embed_prefix, tmp_path):
    ours = dict(layer_scale=layer_scale, embed_prefix=embed_prefix)
    theirs = dict(init_values=layer_scale, no_embed_class=not embed_prefix)
    make_ours = partial(eqx_vit.ParallelViT, **OURS, **ours)
    block = dict(block_fn=ParallelThingsBlock)
    make_theirs = partial(VisionTransformer, **THEIRS, **block, **theirs)
    check(make_ours, make_theirs, SMALL, tmp_path, "timm")


def test_parallel_vit_of_vit_pytorch(tmp_path):
    both = SIZES | dict(mlp_dim=64, dim_head=8, num_parallel_branches=3)
    make_ours = partial(eqx_vit.ParallelViT, **both, norm_eps=1e-5)
    make_theirs = partial(TheirParallelViT, **both)
    check(make_ours, make_theirs, SMALL, tmp_path, "vit_pytorch")


@pytest.mark.parametrize("merge_layer", [None, 2])
def test_patch_merger_vit(merge_layer, tmp_path):
    both = SIZES | dict(depth=3, mlp_dim=64, dim_head=8, patch_merge_num_tokens=5)
    both |= dict(patch_merge_layer=merge_layer)
    make_ours = partial(eqx_vit.PatchMergerViT, **both, patch_norm=True)

    check(make_ours, partial(PatchMergerViT, **both), SMALL, tmp_path, "vit_pytorch")


def test_patch_merger():
    theirs = randomised(PatchMerger(48, 5))
    ours = eqx_vit.PatchMerger(48, 5, key=jr.key(0))
    ours, _ = eqx_vit.load_weights(ours, theirs.state_dict())
    tokens = random_images(1, 1, 16, 48)[0]
    wanted = theirs(torch.tensor(tokens)).detach()[0]
    assert_close(ours(jnp.asarray(tokens[0])), wanted)


def test_small_dataset_vit(tmp_path):
    both = SIZES | dict(mlp_dim=64, dim_head=8)
    make_ours = partial(eqx_vit.SmallDatasetViT, **both, cardinal_shifts=True)
    check(make_ours, partial(SmallDatasetViT, **both), SMALL, tmp_path, "vit_pytorch")


def test_spt():
    theirs = randomised(SPT(dim=48, patch_size=8))
    ours = eqx_vit.SPT(48, 8, cardinal_shifts=True, key=jr.key(0))
    ours, _ = eqx_vit.load_weights(ours, theirs.state_dict())
    wanted = theirs(channels_first(SMALL)).detach()
    assert_close(jax.vmap(ours)(jnp.asarray(SMALL)), wanted)


CAIT = (
    partial(eqx_vit.CaiT, **(OURS | dict(depth=3, heads=4, dim_head=12))),
    partial(Cait, **(THEIRS | dict(depth=3, num_heads=4)), init_values=0.1),
)


def test_cait_of_mean_patches(tmp_path):
    make_ours, make_theirs = CAIT
    make_theirs = partial(make_theirs, global_pool="avg")
    check(partial(make_ours, pool="mean"), make_theirs, SMALL, tmp_path, "timm")


def test_cait(tmp_path):
    check(*CAIT, SMALL, tmp_path, "timm", features=True)


def test_gradients_of_cait():
    make_ours, make_theirs = CAIT
    theirs = randomised(make_theirs()).train()
    model, state = eqx.nn.make_with_state(make_ours)(key=jr.key(0))
    model, state = eqx_vit.load_weights(model, theirs.state_dict(), state)
    images, labels = random_images(4, 32, 32, 3), [1, 3, 5, 7]
    (loss, _), gradients = loss_and_gradients(
        model, state, jnp.asarray(images), jnp.asarray(labels)
    )
    their_loss, wanted = their_gradients(theirs, images, labels)
    assert_close(loss, their_loss)
    assert_published(family_of(eqx_vit.CaiT).formats[0], gradients, wanted)


CROSS_VIT = dict(
    num_classes=10,
    depth=2,
    sm_dim=32,
    sm_enc_depth=1,
    sm_enc_heads=2,
    sm_enc_dim_head=16,
    sm_enc_mlp_dim=96,
    lg_dim=48,
    lg_enc_depth=2,
    lg_enc_heads=2,
    lg_enc_dim_head=24,
    lg_enc_mlp_dim=144,
    cross_attn_depth=1,
    cross_attn_heads=2,
    cross_attn_dim_head=(24, 16),
    qkv_bias=True,
)
THEIR_CROSS_VIT = dict(
    embed_dim=[32, 48],
    depth=[[1, 2, 0], [1, 2, 0]],
    num_heads=[2, 2],
    mlp_ratio=[3, 3, 1],
    num_classes=10,
)


@pytest.mark.parametrize("multi_conv", [False, True], ids=["plain", "dagger"])
def test_cross_vit(multi_conv, tmp_path):
    scale = 2 if multi_conv else 1
    small, large, side, large_side = (scale * n for n in (6, 8, 60, 56))
    make_ours = partial(
        eqx_vit.CrossViT,
        image_size=side,
        lg_image_size=large_side,
        sm_patch_size=small,
        lg_patch_size=large,
        multi_conv=multi_conv,
        **CROSS_VIT,
    )
    make_theirs = partial(
        CrossVit,
        img_size=side,
        img_scale=(1.0, large_side / side),
        patch_size=[small, large],
        multi_conv=multi_conv,
        **THEIR_CROSS_VIT,
    )
    check(make_ours, make_theirs, random_images(2, side, side, 3), tmp_path, "timm")


def test_cross_vit_with_its_cross_attention_in_a_sequence():
    theirs = dict(img_size=60, img_scale=(1.0, 56 / 60), patch_size=[6, 8])
    theirs |= dict(depth=[[1, 2, 1], [1, 2, 1]])
    theirs = randomised(CrossVit(**THEIR_CROSS_VIT | theirs))
    sizes = dict(image_size=60, lg_image_size=56, sm_patch_size=6, lg_patch_size=8)
    model = eqx_vit.CrossViT(**CROSS_VIT | sizes, key=jr.key(0))
    model, _ = eqx_vit.load_weights(model, theirs.state_dict())
    images = random_images(2, 60, 60, 3)
    found = eqx_vit.predict(model, jnp.asarray(images))
    assert_close(found, their_logits(theirs, images))


def test_cross_vit_of_other_heads_and_mean_patches(tmp_path):
    ours = dict(image_size=60, lg_image_size=56, sm_patch_size=6, lg_patch_size=8)
    heads = dict(sm_enc_heads=4, sm_enc_dim_head=8, lg_enc_heads=6, lg_enc_dim_head=8)
    heads |= dict(cross_attn_heads=(6, 4), cross_attn_dim_head=(8, 8), pool="mean")
    make_ours = partial(eqx_vit.CrossViT, **CROSS_VIT | ours | heads)
    theirs = dict(img_size=60, img_scale=(1.0, 56 / 60), patch_size=[6, 8])
    theirs |= dict(num_heads=[4, 6], global_pool="avg")
    make_theirs = partial(CrossVit, **THEIR_CROSS_VIT | theirs)
    check(make_ours, make_theirs, random_images(2, 60, 60, 3), tmp_path, "timm")


@pytest.mark.parametrize("size", [(56, 56), (30, 75), (120, 61), (60, 60)])
def test_bicubic(size):
    images = random_images(1, 60, 60, 3)
    wanted = torch.nn.functional.interpolate(
        # In float32 PyTorch rounds the places it reads to 1e-6 of the image.
        channels_first(images).double(),
        size,
        mode="bicubic",
        align_corners=False,
    )
    ours = resize_bicubic(jnp.asarray(images[0]), size)
    assert_close(ours, wanted[0].permute(1, 2, 0))


@pytest.mark.parametrize("distilled", [False, True])
def test_pit(distilled, tmp_path):
    make_ours = partial(
        eqx_vit.PiT,
        image_size=32,
        patch_size=8,
        num_classes=10,
        dim=16,
        depth=(1, 2, 1),
        heads=(1, 2, 4),
        mlp_dim=(32, 64, 128),
        dim_head=16,
        stride=4,
        qkv_bias=True,
        distilled=distilled,
    )
    make_theirs = partial(
        PoolingVisionTransformer,
        img_size=32,
        patch_size=8,
        stride=4,
        base_dims=[16, 16, 16],
        depth=[1, 2, 1],
        heads=[1, 2, 4],
        mlp_ratio=2,
        num_classes=10,
        distilled=distilled,
    )
    check(make_ours, make_theirs, SMALL, tmp_path, "timm", features=True)


def _deep_vit_names(tensors):
    """vit-pytorch's names, with a batch normalisation in it, as the authors'."""
    renames = {
        "pos_embedding": "pos_embed",
        "to_patch_embedding.2": "patch_embed.proj",
        "transformer.layers": "blocks",
        ".0.norm": ".norm1",
        ".0.to_qkv": ".attn.qkv",
        ".0.to_out.0": ".attn.proj",
        ".0.reattn_weights": ".attn.reatten_matrix.weight",
        ".0.reattn_norm": ".attn.var_norm",
        ".1.net.0": ".norm2",
        ".1.net.1": ".mlp.fc1",
        ".1.net.4": ".mlp.fc2",
        "mlp_head.0": "norm",
        "mlp_head.1": "head",
    }
    named = {}
    for name, tensor in tensors.items():
        tensor = np.asarray(tensor)
        for theirs, official in renames.items():
            name = name.replace(theirs, official)
        if name.endswith("reatten_matrix.weight"):
            tensor = tensor.T[:, :, None, None]
            bias = name.replace("weight", "bias")
            named[bias] = np.zeros(len(tensor), np.float32)
        if name == "patch_embed.proj.weight":
            tensor = rearrange(tensor, "o (p q c) -> o c p q", p=8, q=8)
        named[name] = tensor
    return named


def test_deep_vit_in_training():
    """Gradients and running statistics, against vit-pytorch's DeepViT with the authors'
    batch normalisation over heads, PyTorch's own, in place of its layer norm."""
    sizes = SIZES | dict(depth=3, heads=4, dim_head=12, mlp_dim=96)
    theirs = DeepViT(**sizes)
    for layer, _ in theirs.transformer.layers:
        layer.reattn_norm = torch.nn.BatchNorm2d(4)
    for i in (1, 3):  # its normalisations around the projection of patches
        theirs.to_patch_embedding[i] = torch.nn.Identity()
    theirs = randomised(theirs).train()
    make = eqx.nn.make_with_state(eqx_vit.DeepViT)
    model, state = make(**sizes, norm_eps=1e-5, key=jr.key(0))
    model, state = eqx_vit.load_weights(
        model, _deep_vit_names(theirs.state_dict()), state
    )
    images, labels = random_images(4, 32, 32, 3), [1, 3, 5, 7]
    (loss, state), gradients = loss_and_gradients(
        model, state, jnp.asarray(images), jnp.asarray(labels)
    )
    their_loss, wanted = their_gradients(theirs, images, labels)
    assert_close(loss, their_loss)
    format, *_ = family_of(eqx_vit.DeepViT).formats
    assert_published(format, gradients, _deep_vit_names(wanted))
    assert_published(format, model, _deep_vit_names(theirs.state_dict()), state)

    model = eqx.nn.inference_mode(model)
    logits = eqx_vit.predict(model, jnp.asarray(images), state)
    assert_close(logits, theirs.eval()(channels_first(images)).detach())
