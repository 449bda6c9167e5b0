import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import torch
from eqx_vit.pretrained.names import flatten
from eqx_vit.pretrained.weights import formats_of
from safetensors.torch import load_file

from ..helpers import assert_close


def randomised(module, std=0.2):
    """`module` in inference mode with every parameter and
    every running statistic drawn anew."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, std)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, std)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return module.eval()


def random_images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def channels_first(images):
    return torch.tensor(images).permute(0, 3, 1, 2)


def their_logits(module, images):
    with torch.no_grad():
        return module(channels_first(images)).numpy()


def check(make_ours, make_theirs, images, tmp_path, names, features=False):
    """Their weights give us their logits, and what we save gives them ours; and the
    same features on the way, if wanted."""
    theirs = randomised(make_theirs())
    model, state = eqx.nn.make_with_state(make_ours)(key=jr.key(0))
    model, state = eqx_vit.load_weights(model, theirs.state_dict(), state)
    logits = their_logits(theirs, images)
    assert_close(eqx_vit.predict(model, jnp.asarray(images), state), logits)

    if features:
        check_features(model, state, theirs, images)
    eqx_vit.save_weights(model, tmp_path / "model.safetensors", state, names=names)
    again = make_theirs().eval()
    again.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    back = their_logits(again, images)
    np.testing.assert_allclose(back, logits, rtol=1e-6, atol=1e-6)


def check_features(model, state, theirs, images):
    """Against timm's `forward_intermediates`."""
    model = eqx.nn.inference_mode(model)
    states = (state,) if isinstance(model, eqx.nn.StatefulLayer) else ()
    ours = eqx_vit.features(model, jnp.asarray(images[0]), *states)
    with torch.no_grad():
        wanted = theirs.forward_intermediates(
            channels_first(images), intermediates_only=True
        )
    assert len(ours) == len(wanted)
    for feature, tensor in zip(ours, wanted):
        assert_close(feature.map, tensor[0].permute(1, 2, 0).numpy())


def format_named(model, name):
    return next(format for format in formats_of(model) if format.name == name)


def assert_published(format, ours, theirs, state=None):
    """Every array of `ours`, under its published name, is close to `theirs`."""
    names, published = format.names(ours), {}
    for path, array in flatten(ours, state).items():
        published |= names[path].publish(np.asarray(array))
    for name, tensor in format.spell(ours, published).items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_allclose(
                tensor, theirs[name], rtol=1e-5, atol=1e-5, err_msg=name
            )


@eqx.filter_jit
def loss_and_gradients(model, state, images, labels):
    """In training mode, with the gradient of every parameter and the new state."""

    @eqx.filter_value_and_grad(has_aux=True)
    def loss(model):
        batched = jax.vmap(
            eqx.nn.Sequential([model]), (0, None), (0, None), axis_name="batch"
        )
        logits, new_state = batched(images, state)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), new_state

    return loss(model)


def their_gradients(module, images, labels):
    """The same of a PyTorch module, by name."""
    logits = module(channels_first(images))
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
    loss.backward()
    gradients = {n: p.grad.numpy() for n, p in module.named_parameters()}
    return loss.item(), gradients
