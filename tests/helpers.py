import math
from functools import partial
from pathlib import Path

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from .eighteenth import Eighteenth


FIXTURES = Path(__file__).parent / "fixtures"


_SIZES = dict(num_classes=10, dim=16, depth=2, heads=2, mlp_dim=32, dim_head=8)
_VIT = _SIZES | dict(image_size=32, patch_size=8, dropout=0.1, emb_dropout=0.1)

# One small instance of every architecture, for ten classes and the images of
# `images_for`. A test can change its settings: `models["ViT"](channels=1, key=key)`.
models = {
    "ViT": partial(eqx_vit.ViT, **_VIT),
    "SimpleViT": partial(
        eqx_vit.SimpleViT,
        **_SIZES,
        image_size=32,
        patch_size=8,
        stochastic_depth=0.5,
    ),
    "ParallelViT": partial(eqx_vit.ParallelViT, **_VIT, layer_scale=0.1),
    "PatchMergerViT": partial(eqx_vit.PatchMergerViT, **_VIT, patch_merge_num_tokens=3),
    "SmallDatasetViT": partial(eqx_vit.SmallDatasetViT, **_VIT),
    "DeepViT": partial(eqx_vit.DeepViT, **_VIT, reattention=(False, True)),
    "CaiT": partial(eqx_vit.CaiT, **_VIT, cls_depth=2, layer_dropout=0.1),
    "CrossViT": partial(
        eqx_vit.CrossViT,
        image_size=32,
        num_classes=10,
        depth=2,
        sm_dim=8,
        sm_patch_size=8,
        sm_enc_depth=1,
        sm_enc_heads=2,
        sm_enc_mlp_dim=16,
        sm_enc_dim_head=4,
        lg_dim=16,
        lg_patch_size=16,
        lg_enc_depth=2,
        lg_enc_heads=2,
        lg_enc_mlp_dim=32,
        lg_enc_dim_head=8,
        cross_attn_heads=2,
        cross_attn_dim_head=4,
        dropout=0.1,
        emb_dropout=0.1,
    ),
    "T2TViT": partial(
        eqx_vit.T2TViT, **_SIZES, image_size=32, token_dim=8, dropout=0.1
    ),
    "PiT": partial(
        eqx_vit.PiT, **_VIT | dict(dim=8, depth=(1, 1), heads=(1, 2), stride=4)
    ),
    "CvT": partial(
        eqx_vit.CvT,
        num_classes=10,
        s1_emb_dim=8,
        s2_emb_dim=8,
        s3_emb_dim=16,
        s1_mlp_mult=1,
        s2_heads=2,
        s2_depth=1,
        s2_mlp_mult=1,
        s3_emb_stride=1,
        s3_heads=2,
        s3_depth=2,  # nothing reads the convolved queries of the last block
        s3_mlp_mult=1,
        dropout=0.1,
    ),
    "LeViT": partial(
        eqx_vit.LeViT,
        image_size=64,
        num_classes=10,
        stages=2,
        dim=(8, 16),
        depth=1,
        heads=2,
        dim_key=4,
        dim_value=8,
        dropout=0.1,
    ),
    "CrossFormer": partial(
        eqx_vit.CrossFormer,
        num_classes=10,
        dim=(32, 64),  # a sixteenth is the width of the network for position biases
        depth=(2, 1),
        global_window_size=2,
        local_window_size=4,
        cross_embed_kernel_sizes=((4, 8), (2, 4)),
        cross_embed_strides=(4, 2),
        attn_dropout=0.1,
        ff_dropout=0.1,
        dim_head=16,
        mlp_mult=1,
    ),
    "NesT": partial(
        eqx_vit.NesT,
        image_size=32,
        num_classes=10,
        dim=8,
        heads=2,
        num_hierarchies=2,
        block_repeats=1,
        mlp_mult=1,
        dropout=0.1,
        emb_dropout=0.1,
    ),
    "RegionViT": partial(
        eqx_vit.RegionViT,
        num_classes=10,
        dim=(8, 16),
        depth=(1, 2),  # nothing reads the position biases of the last block
        window_size=4,
        heads=2,
        mlp_mult=1,
        attn_dropout=0.1,
        ff_dropout=0.1,
    ),
    "ScalableViT": partial(
        eqx_vit.ScalableViT,
        num_classes=10,
        dim=8,
        heads=2,
        depth=(2, 1),
        ssa_dim_key=5,
        ssa_dim_value=4,
        iwsa_dim_key=3,
        iwsa_dim_value=4,
        reduction_factor=(4, 1),
        window_size=(4, None),
        ff_expansion_factor=1,
        dropout=0.1,
    ),
    "TwinsSVT": partial(
        eqx_vit.TwinsSVT,
        num_classes=10,
        s1_emb_dim=8,
        s1_local_patch_size=3,
        s1_global_k=4,
        s2_emb_dim=8,
        s2_local_patch_size=2,
        s2_global_k=2,
        s3_emb_dim=8,
        s3_local_patch_size=2,
        s3_global_k=1,
        s3_depth=1,
        s4_emb_dim=16,
        s4_patch_size=1,
        s4_local_patch_size=2,
        s4_global_k=1,
        s4_depth=1,
        heads=2,
        mlp_mult=1,
        dropout=0.1,
    ),
    "DINOv3": partial(
        eqx_vit.DINOv3,
        **_SIZES,
        patch_size=8,
        dropout=0.1,
        layer_scale=0.1,
        rope_rescale=2.0,
    ),
    "Eighteenth": partial(Eighteenth, num_classes=10, dropout=0.1),
}

# The sides of images that are not square, and the settings that take them.
_PATCHES = ((32, 24), dict(image_size=(32, 24), patch_size=(8, 4)))
not_square = {name: _PATCHES for name in models}
not_square |= {
    "CrossViT": ((32, 48), dict(image_size=(32, 48))),
    "T2TViT": ((32, 24), dict(image_size=(32, 24))),
    "CvT": ((24, 20), {}),
    "LeViT": ((32, 48), dict(image_size=(32, 48))),
    "CrossFormer": ((24, 40), {}),
    "RegionViT": ((32, 64), {}),
    "ScalableViT": ((32, 48), {}),
    "TwinsSVT": ((32, 48), {}),
    "DINOv3": ((32, 24), dict(patch_size=(8, 4))),
}


# Those whose programs take long to compile.
HEAVY = {"CaiT", "CrossFormer", "CrossViT", "CvT", "PiT", "RegionViT", "ScalableViT"}
HEAVY |= {"T2TViT", "TwinsSVT"}


def few(names, slow=HEAVY):
    """Names as parameters of a test, which is a slow one for some of them."""
    is_slow = pytest.mark.slow
    return [
        pytest.param(name, marks=is_slow) if name in slow else name for name in names
    ]


def images_for(name, number=4):
    # Of 32 pixels LeViT would leave one.
    side = 64 if name == "LeViT" else 32
    return jr.normal(jr.key(1), (number, side, side, 3))


def randomised(model, key, scale=0.2):
    """`model` with every parameter drawn anew: fresh ones hide half of all mistakes."""
    # (By NumPy, which compiles nothing.)
    generator = np.random.default_rng(np.asarray(jr.key_data(key)))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    draw = lambda p: jnp.asarray(scale * generator.normal(size=p.shape), p.dtype)
    return eqx.combine(jax.tree.map(draw, params), static)


def with_trained(model, key):
    """A model of `eqx_vit.lora` whose adapters and heads are drawn anew."""
    patterns = eqx_vit.training.lora_patterns(model)
    groups = eqx_vit.training.parameter_groups(model, patterns)
    trained = {p.split("[")[0] for g, ps in groups.items() if g.trained for p in ps}
    drawn = by_path(randomised(model, key))

    def pick(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return drawn[name] if name in trained else leaf

    return jax.tree_util.tree_map_with_path(pick, model)


# (Both by NumPy, which compiles nothing.)
def copied(tree):
    """A copy for `train_step`, which takes the buffers of what it is given."""
    copy = lambda x: jax.device_put(np.asarray(x), may_alias=False)
    return jax.tree.map(lambda x: copy(x) if eqx.is_array(x) else x, tree)


def equal(*trees):
    """`equinox.tree_equal`."""
    return eqx.tree_equal(*jax.device_get(trees))


def count(model):
    """Parameters, not running statistics, of a model of arrays or shapes."""
    leaves = jax.tree.leaves(model, is_leaf=lambda x: isinstance(x, eqx.nn.StateIndex))
    return sum(math.prod(leaf.shape) for leaf in leaves if hasattr(leaf, "shape"))


def by_path(tree):
    """The leaves of a model by their path, as `eqx_vit.freeze` spells it."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in leaves
    }


def load_fixture(name):
    """Weights, images and logits of an official implementation."""
    with np.load(FIXTURES / f"{name}.npz") as file:
        arrays = dict(file.items())
    weights = {n[2:]: a for n, a in arrays.items() if n.startswith("p:")}
    return weights, arrays["x"].astype(np.float32), arrays["y"]


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
