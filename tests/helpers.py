from functools import partial
from pathlib import Path

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np


FIXTURES = Path(__file__).parent / "fixtures"


# One small instance of every architecture. A test can change its settings, as in
# `models["ViT"](channels=1, key=key)`.
models = {
    "ViT": partial(
        eqx_vit.ViT,
        image_size=32,
        patch_size=8,
        num_classes=10,
        dim=16,
        depth=2,
        heads=2,
        mlp_dim=32,
        dim_head=8,
        dropout=0.1,
        emb_dropout=0.1,
    ),
    "SimpleViT": partial(
        eqx_vit.SimpleViT,
        image_size=32,
        patch_size=8,
        num_classes=10,
        dim=16,
        depth=2,
        heads=2,
        mlp_dim=32,
        dim_head=8,
        stochastic_depth=0.5,
    ),
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
