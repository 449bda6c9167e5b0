from functools import partial
from pathlib import Path

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np


FIXTURES = Path(__file__).parent / "fixtures"


_SIZES = dict(num_classes=10, dim=16, depth=2, heads=2, mlp_dim=32, dim_head=8)
_VIT = _SIZES | dict(image_size=32, patch_size=8, dropout=0.1, emb_dropout=0.1)

# One small instance of every architecture, for images of 32 x 32 and ten classes. A
# test can change its settings, as in `models["ViT"](channels=1, key=key)`.
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
}

# What makes each one's image, and its patches if they can be, not square.
not_square = {name: dict(image_size=(32, 24), patch_size=(8, 4)) for name in models}
not_square |= {
    "CrossViT": dict(image_size=(32, 48)),
    "T2TViT": dict(image_size=(32, 24)),
}


def randomised(model, key, scale=0.2):
    """`model` with every parameter drawn anew: fresh ones hide half of all mistakes."""
    params, static = eqx.partition(model, eqx.is_inexact_array)
    leaves, treedef = jax.tree.flatten(params)
    keys = jr.split(key, len(leaves))
    leaves = [scale * jr.normal(k, leaf.shape) for k, leaf in zip(keys, leaves)]
    return eqx.combine(jax.tree.unflatten(treedef, leaves), static)


def copied(tree):
    """A copy for `train_step`, which takes the buffers of what it is given."""
    return jax.tree.map(lambda x: jnp.copy(x) if eqx.is_array(x) else x, tree)


def load_fixture(name):
    """Weights, images and logits of an official implementation."""
    with np.load(FIXTURES / f"{name}.npz") as file:
        arrays = dict(file.items())
    weights = {n[2:]: a for n, a in arrays.items() if n.startswith("p:")}
    return weights, arrays["x"].astype(np.float32), arrays["y"]


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
