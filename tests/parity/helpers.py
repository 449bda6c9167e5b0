import equinox as eqx
import eqx_vit
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import torch
from safetensors.torch import load_file

from ..helpers import assert_close


def randomised(module, std=0.2):
    """`module` in inference mode with every parameter drawn anew."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, std)
    return module.eval()


def random_images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def channels_first(images):
    return torch.tensor(images).permute(0, 3, 1, 2)


def check(make_ours, make_theirs, images, tmp_path, names):
    """Their weights give us their logits, and what we save gives them ours."""
    theirs = randomised(make_theirs())
    model, state = eqx.nn.make_with_state(make_ours)(key=jr.key(0))
    model, state = eqx_vit.load_weights(model, state, theirs.state_dict())
    with torch.no_grad():
        logits = theirs(channels_first(images)).numpy()
    assert_close(eqx_vit.predict(model, state, jnp.asarray(images)), logits)

    eqx_vit.save_weights(model, state, tmp_path / "model.safetensors", names=names)
    again = make_theirs().eval()
    again.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    with torch.no_grad():
        assert np.array_equal(again(channels_first(images)).numpy(), logits)
