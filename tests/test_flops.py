"""The operations of a training step that count for its utilisation."""

from typing import Any

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest
from eqx_vit.interpret.flops import count_training_flops
from eqx_vit.pretrained import Architecture
from eqx_vit.training import lora_patterns, rematerialise


def shapes(name, rank=0):
    """The shapes of a published model, with adapters of a rank."""
    model, state = Architecture.named(name).shapes()
    if rank:
        model = eqx.filter_eval_shape(eqx_vit.lora, model, rank, key=jr.key(0))
    return model, state


def passes(model, state, frozen=()):
    """How many times the operations of a forward pass a step has."""
    images: Any = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    optimizer = eqx_vit.freeze(optax.sgd(1.0), model, frozen)
    parameters = eqx.filter(model, lambda x: isinstance(x, jax.ShapeDtypeStruct))
    opt_state = eqx.filter_eval_shape(optimizer.init, parameters)
    forward = eqx_vit.count_flops(eqx_vit.predict, model, images, state)
    return count_training_flops(model, images, state, opt_state) / forward


# (The first layer needs no gradient of the image.)
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "pit_ti_224"])
def test_full_training_is_three_forward_passes(name):
    assert 2.9 < passes(*shapes(name)) < 3


def test_a_frozen_backbone_is_one_forward_pass_and_the_head():
    times = passes(*shapes("vit_tiny_patch16_224"), ["*", "!head*"])
    assert 1 < times < 1.01


def test_the_first_trained_layer_is_the_last_of_the_backward_pass():
    model, state = shapes("pit_ti_224")
    last = passes(model, state, ["*", "!head*", "!stages.2*"])
    both = passes(model, state, ["*", "!head*", "!stages.2*", "!stages.1*"])
    assert 1.1 < last < both - 0.3 < 2.7


def test_adapters_are_two_forward_passes():
    model, state = shapes("vit_tiny_patch16_224", rank=8)
    # (And the adapters, and both gradients of the products of two activations.)
    assert 2 < passes(model, state, lora_patterns(model)) < 2.2


def test_what_is_computed_again_does_not_count():
    model, state = shapes("vit_tiny_patch16_224")
    assert passes(rematerialise(model), state) == passes(model, state)


def test_a_model_of_which_nothing_is_trained():
    assert passes(*shapes("vit_tiny_patch16_224"), ["*"]) == 1
