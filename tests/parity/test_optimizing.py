"""What is decayed, and how fast layers learn, against timm's parameter groups."""

import re

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import timm
import timm.optim
import torch
from eqx_vit.families import vit
from eqx_vit.pretrained.names import flatten
from timm.models import group_parameters
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_weight_decay
from timm.utils.agc import adaptive_clip_grad

from ..helpers import by_path, randomised as randomised_ours
from .helpers import assert_published, format_named, randomised
from .test_vit import OURS, THEIRS


NAMES = ["deit_tiny_distilled_patch16_224", "cait_xxs24_224", "crossvit_9_dagger_240"]
NAMES += ["pit_ti_distilled_224", "levit_128s", "nest_tiny_jx", "twins_svt_small"]
NAMES += ["vit_small_patch16_18x2_224"]


@pytest.mark.parametrize("name", NAMES)
def test_decay(name):
    with torch.device("meta"):
        theirs = timm.create_model(name)
    parameters = dict(theirs.named_parameters())
    exempt = theirs.no_weight_decay()
    _, decayed = param_groups_weight_decay(theirs, no_weight_decay_list=exempt)
    decayed = {
        n for n in parameters if any(parameters[n] is p for p in decayed["params"])
    }
    # timm's list still has these by a name of the past.
    decayed = {n for n in decayed if not n.endswith("pos_embed")}

    record = eqx_vit.zoo[name]
    make = eqx.nn.make_with_state(record.model)
    model, state = eqx.filter_eval_shape(make, **record.arguments(), key=jr.key(0))
    names = format_named(model, "timm").names(model)
    ours = set()
    for path, mask in by_path(eqx_vit.decay_mask(model)).items():
        if mask:
            shape = flatten(model, state)[path]
            ours |= jax.eval_shape(names[path].publish, shape).keys()
    assert ours == decayed


# (CaiT's blocks have other numbers there: its class attention counts from 0 again. PiT
# has no groups.)
LAYERED = ["deit_tiny_distilled_patch16_224", "crossvit_9_dagger_240", "levit_128s"]
LAYERED += ["vit_small_patch16_18x2_224", "twins_svt_small", "nest_tiny_jx"]


@pytest.mark.parametrize("name", LAYERED)
def test_layers(name):
    with torch.device("meta"):
        theirs = timm.create_model(name)
    expected = group_parameters(theirs, theirs.group_matcher(), reverse=True)
    record = eqx_vit.zoo[name]
    make = eqx.nn.make_with_state(record.model)
    model, state = eqx.filter_eval_shape(make, **record.arguments(), key=jr.key(0))
    names = format_named(model, "timm").names(model)
    numbers, _ = eqx_vit.training.layer_numbers(model)
    numbers, shapes, ours = by_path(numbers), flatten(model, state), {}
    for path, number in numbers.items():
        shape = shapes[path].shape
        number = number.reshape(number.shape + (len(shape) - number.ndim) * (1,))
        published = names[path].publish(np.broadcast_to(number, shape).copy())
        ours |= {n: set(np.unique(array)) for n, array in published.items()}
    # There the last normalisation belongs to the last block, and not to the head as in
    # BEiT; and what encodes positions to the block before (Twins) or after it (NesT).
    later = re.compile(r"norm\.(\d+\.)?(weight|bias)|pos_block\..*")
    for n in ours.keys() & expected.keys() - {"levels.0.pos_embed"}:
        assert ours[n] == {expected[n] + bool(later.fullmatch(n))}, n


def test_adaptive_clipping():
    """Every gradient of a linear layer, norm or convolution is clipped as by timm."""
    theirs = randomised(VisionTransformer(**THEIRS))
    model, _ = eqx_vit.load_weights(
        eqx_vit.ViT(**OURS, key=jr.key(0)), theirs.state_dict()
    )
    parameters = eqx.filter(model, eqx.is_inexact_array)
    gradient = randomised_ours(parameters, jr.key(1))
    clip = eqx_vit.training.adaptive_clip(0.01)
    clipped, _ = clip.update(gradient, clip.init(parameters), parameters)
    published = eqx_vit.pretrained.weights.publish
    names = vit.FAMILY.formats[0].names(model)
    before, after = (published(names, flatten(x, None)) for x in (gradient, clipped))
    for name, parameter in theirs.named_parameters():
        parameter.grad = torch.tensor(np.asarray(before[name]))
    adaptive_clip_grad(theirs.parameters(), 0.01)
    changed = 0
    for name, parameter in theirs.named_parameters():
        if name in ("cls_token", "pos_embed"):  # which timm clips as one
            continue
        assert parameter.grad is not None
        np.testing.assert_allclose(after[name], parameter.grad, rtol=1e-5, atol=1e-7)
        changed += not np.allclose(after[name], before[name])
    assert changed > 20


def test_a_step_of_lamb():
    """With the same gradients, as timm has it: what does not decay is not scaled."""
    theirs = randomised(VisionTransformer(**THEIRS))
    model, _ = eqx_vit.load_weights(
        eqx_vit.ViT(**OURS, key=jr.key(0)), theirs.state_dict()
    )
    exempt = theirs.no_weight_decay()
    groups = param_groups_weight_decay(theirs, 0.1, no_weight_decay_list=exempt)
    their_optimizer = timm.optim.Lamb(groups, lr=0.01, max_grad_norm=None)
    settings = dict(learning_rate=0.01, weight_decay=0.1, clip=0.0, warmup=0.0)
    recipe = eqx_vit.recipe(optimizer="lamb", schedule="constant", **settings)
    optimizer = recipe.optimizer(model, 1)
    update = jax.numpy_dtype_promotion("standard")(optimizer.update)
    parameters = eqx.filter(model, eqx.is_inexact_array)
    opt_state = optimizer.init(parameters)
    _, opt_state = update(  # (the first rate is 0)
        jax.tree.map(jnp.zeros_like, parameters), opt_state, parameters
    )
    gradient = randomised_ours(parameters, jr.key(1))
    published = eqx_vit.pretrained.weights.publish
    format, *_ = vit.FAMILY.formats
    tensors = published(format.names(model), flatten(gradient, None))
    for factor in (0, 1):
        for name, parameter in theirs.named_parameters():
            parameter.grad = factor * torch.tensor(np.asarray(tensors[name]))
        for group in their_optimizer.param_groups:
            group["lr"] = factor * 0.01
        their_optimizer.step()
    updates, _ = update(gradient, opt_state, parameters)
    assert_published(
        format,
        eqx.apply_updates(model, updates),
        {n: p.detach().numpy() for n, p in theirs.named_parameters()},
    )
