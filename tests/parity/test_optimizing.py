"""What is decayed, against timm's parameter groups."""

import equinox as eqx
import eqx_vit
import jax
import jax.random as jr
import pytest
import timm
import torch
from eqx_vit.weights import _formats
from eqx_vit.weights._names import flatten
from timm.optim import param_groups_weight_decay

from ..helpers import by_path


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
    names = _formats(model, state)["timm"].names(model)
    ours = set()
    for path, mask in by_path(eqx_vit.decay_mask(model)).items():
        if mask:
            shape = flatten(model, state)[path]
            ours |= jax.eval_shape(names[path].publish, shape).keys()
    assert ours == decayed
