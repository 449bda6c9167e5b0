import equinox as eqx
import jax
import jax.numpy as jnp
import torch
from eqx_vit.layers import BatchNorm

from ..helpers import assert_close
from .helpers import channels_first, random_images, randomised


def test_batch_norm_in_training_and_inference():
    theirs = randomised(torch.nn.BatchNorm2d(5)).train()
    norm, state = eqx.nn.make_with_state(BatchNorm)(5)
    parameters = [jnp.asarray(p.detach().numpy()) for p in theirs.parameters()]
    norm = eqx.tree_at(lambda n: (n.weight, n.bias), norm, parameters)
    # Copies: PyTorch changes its own in place.
    mean, variance = (jnp.array(b.numpy()) for b in list(theirs.buffers())[:2])
    state = state.set(norm.running_mean, mean).set(norm.running_var, variance)

    @eqx.filter_jit
    @eqx.filter_value_and_grad(has_aux=True)
    def loss(norm_and_x, state):
        norm, x = norm_and_x
        batched = jax.vmap(norm, (0, None), (0, None), axis_name="batch")
        out, state = batched(x, state)
        return jnp.mean(out**3), (out, state)

    for step in range(3):
        images = (step + 1) * random_images(3, 4, 2, 5) + step
        x = channels_first(images).requires_grad_()
        out = theirs(x)
        theirs.zero_grad()
        (out**3).mean().backward()
        (_, (ours, state)), (grads, x_grad) = loss((norm, jnp.asarray(images)), state)
        assert_close(ours, out.detach().permute(0, 2, 3, 1))
        assert_close(state.get(norm.running_mean), theirs.running_mean)
        assert_close(state.get(norm.running_var), theirs.running_var)
        assert x.grad is not None
        assert_close(x_grad, x.grad.permute(0, 2, 3, 1))
        assert_close(grads.weight, theirs.weight.grad)
        assert_close(grads.bias, theirs.bias.grad)

    images = random_images(2, 4, 2, 5)
    inference = eqx.nn.inference_mode(norm)
    ours = jax.vmap(lambda x: inference(x, state)[0])(jnp.asarray(images))
    assert_close(
        ours, theirs.eval()(channels_first(images)).detach().permute(0, 2, 3, 1)
    )
