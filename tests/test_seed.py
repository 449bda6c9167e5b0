"""The example calls of vit-flax's README, one by one."""

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

from .helpers import count, models


DROPOUT = dict(dropout=0.1, emb_dropout=0.1)
VIT = dict(
    image_size=256,
    patch_size=32,
    num_classes=1000,
    dim=1024,
    depth=6,
    heads=16,
    mlp_dim=2048,
)
PARALLEL = VIT | dict(patch_size=16, heads=8)

# The call, and how many parameters it makes: vit-pytorch's count, unless a line says
# what differs from it.
CALLS = {
    "ViT": (VIT | DROPOUT, 54_622_184),  # vit-flax's
    # vit-pytorch's normalisations of patches: 3072 and 1024, weight and bias
    "SimpleViT": (VIT, 54_556_648 - 2 * (3072 + 1024)),
    "ParallelViT": (PARALLEL | DROPOUT | dict(num_parallel_branches=2), 77_674_472),
    # normalisations of patches, and a row of the position table that is never read
    "PatchMergerViT": (
        PARALLEL
        | DROPOUT
        | dict(depth=12, patch_merge_layer=6, patch_merge_num_tokens=8),
        77_687_272 - 2 * (768 + 1024) - 1024,
    ),
    # a temperature per head instead of per block
    "SmallDatasetViT": (VIT | DROPOUT | dict(patch_size=16), 55_612_910 + 6 * 15),
    # normalisations of patches; a bias on the mixture of heads, 16 a block; a final
    # normalisation is in the head there
    "DeepViT": (VIT | DROPOUT, 54_632_104 - 2 * (3072 + 1024) + 6 * 16),
    # normalisations of patches; no talking heads in the two class blocks but biases in
    # the twelve others
    "CaiT": (
        VIT | DROPOUT | dict(depth=12, cls_depth=2, layer_dropout=0.05),
        121_839_592 - 2 * (3072 + 1024) - 2 * 2 * 16**2 + 12 * 2 * 16,
    ),
    "CrossViT": (
        dict(
            image_size=256,
            num_classes=1000,
            depth=4,
            sm_dim=192,
            sm_patch_size=16,
            sm_enc_depth=2,
            sm_enc_heads=8,
            sm_enc_mlp_dim=2048,
            lg_dim=384,
            lg_patch_size=64,
            lg_enc_depth=3,
            lg_enc_heads=8,
            lg_enc_mlp_dim=2048,
            cross_attn_depth=2,
            cross_attn_heads=8,
            **DROPOUT,
        ),
        # normalisations of patches; per block, none after the encoders and none before
        # heads there; one projection a direction and not a round, with a normalisation
        55_180_176
        - 2 * (768 + 192 + 12288 + 384)
        - 4 * 2 * (192 + 384)
        - 4 * 2 * (2 * 192 * 384 + 192 + 384)
        + 4 * 2 * 2 * (192 + 384),
    ),
    "T2TViT": (
        dict(
            dim=512,
            image_size=224,
            depth=5,
            heads=8,
            mlp_dim=512,
            num_classes=1000,
            t2t_layers=([7, 4], [3, 2], [3, 2]),
        ),
        None,  # another structure: tokens of size 64 between the splits
    ),
    "PiT": (
        dict(
            image_size=224,
            patch_size=14,
            dim=256,
            num_classes=1000,
            depth=(3, 3, 3),
            heads=16,
            mlp_dim=2048,
            **DROPOUT,
        ),
        # a pointwise convolution after each pooling, a position of the class token
        47_499_752 - (512**2 + 512) - (1024**2 + 1024) - 256,
    ),
    # The pyramids have the structure of the papers: the counts are those of timm and
    # transformers where the call is a published model.
    "CvT": (
        dict(
            num_classes=1000,
            s1_emb_dim=64,
            s1_emb_kernel=7,
            s1_emb_stride=4,
            s1_proj_kernel=3,
            s1_kv_proj_stride=2,
            s1_heads=1,
            s1_depth=1,
            s1_mlp_mult=4,
            s2_emb_dim=192,
            s2_emb_kernel=3,
            s2_emb_stride=2,
            s2_proj_kernel=3,
            s2_kv_proj_stride=2,
            s2_heads=3,
            s2_depth=2,
            s2_mlp_mult=4,
            s3_emb_dim=384,
            s3_emb_kernel=3,
            s3_emb_stride=2,
            s3_proj_kernel=3,
            s3_kv_proj_stride=2,
            s3_heads=4,
            s3_depth=10,
            s3_mlp_mult=4,
            dropout=0.0,
        ),
        19_997_480,  # CvT-13, which has six heads of the same size in all
    ),
    "LeViT": (
        dict(
            image_size=224,
            num_classes=1000,
            stages=3,
            dim=(256, 384, 512),
            depth=4,
            heads=(4, 6, 8),
            mlp_mult=2,
            dropout=0.1,
        ),
        18_893_876,  # LeViT-256
    ),
    "CrossFormer": (
        dict(
            num_classes=1000,
            dim=(64, 128, 256, 512),
            depth=(2, 2, 8, 2),
            global_window_size=(8, 4, 2, 1),
            local_window_size=7,
        ),
        None,
    ),
    "NesT": (
        dict(
            image_size=224,
            patch_size=4,
            dim=96,
            heads=3,
            num_hierarchies=3,
            block_repeats=(2, 2, 8),
            num_classes=1000,
        ),
        17_057_608,  # NesT-T
    ),
    "RegionViT": (
        dict(
            dim=(64, 128, 256, 512),
            depth=(2, 2, 8, 2),
            window_size=7,
            num_classes=1000,
            tokenize_local_3_conv=False,
            use_peg=False,
        ),
        None,
    ),
    "ScalableViT": (
        dict(
            num_classes=1000,
            dim=64,
            heads=(2, 4, 8, 16),
            depth=(2, 2, 20, 2),
            ssa_dim_key=(40, 40, 40, 32),
            reduction_factor=(8, 4, 2, 1),
            window_size=(64, 32, None, None),
            dropout=0.1,
        ),
        None,
    ),
    "TwinsSVT": (
        dict(
            num_classes=1000,
            s1_emb_dim=64,
            s1_patch_size=4,
            s1_local_patch_size=7,
            s1_global_k=7,
            s1_depth=1,
            s2_emb_dim=128,
            s2_patch_size=2,
            s2_local_patch_size=7,
            s2_global_k=7,
            s2_depth=1,
            s3_emb_dim=256,
            s3_patch_size=2,
            s3_local_patch_size=7,
            s3_global_k=7,
            s3_depth=5,
            s4_emb_dim=512,
            s4_patch_size=2,
            s4_local_patch_size=7,
            s4_global_k=7,
            s4_depth=4,
            peg_kernel_size=3,
            dropout=0.0,
        ),
        None,
    ),
}

# The images of the examples whose models take any size.
SIDES = {"CvT": 256, "CrossFormer": 224, "RegionViT": 224, "ScalableViT": 256}
SIDES |= {"TwinsSVT": 224}


def test_every_model_has_a_call():
    assert set(CALLS) == set(models) - {"DINOv3", "Eighteenth"}


@pytest.mark.parametrize("name", CALLS)
def test_models(name):
    """The call builds what it should, as do the defaults, and gives 1000 logits."""
    settings, parameters = CALLS[name]
    make = eqx.nn.make_with_state(getattr(eqx_vit, name))
    model, state = eqx.filter_eval_shape(make, **settings, key=jr.key(0))
    default, _ = eqx.filter_eval_shape(make, key=jr.key(0))
    assert count(model) == count(default)
    assert parameters is None or count(model) == parameters
    sides = (SIDES[name],) * 2 if name in SIDES else model.image_size
    image = jax.ShapeDtypeStruct((*sides, 3), jnp.float32)
    lifted = eqx.nn.Sequential([eqx.nn.inference_mode(model)])
    logits, _ = eqx.filter_eval_shape(lifted, image, state)
    assert logits.shape == (1000,)


def test_patch_merger_alone(getkey):
    merger = eqx_vit.PatchMerger(dim=1024, num_tokens_out=8, key=getkey())
    features = jr.normal(getkey(), (4, 256, 1024))
    assert jax.vmap(merger)(features).shape == (4, 8, 1024)


def test_spt_alone(getkey):
    spt = eqx_vit.SPT(dim=1024, patch_size=16, key=getkey())
    images = jr.normal(getkey(), (4, 256, 256, 3))
    assert jax.vmap(spt)(images).shape == (4, 256, 1024)
