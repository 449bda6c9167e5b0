import argparse
import collections

import eqx_vit
import jax
import numpy as np
import pytest
import torch
from eqx_vit.pretrained.files import read_file
from eqx_vit.pretrained.names import flatten
from eqx_vit.pretrained.weights import formats_of

from .helpers import randomised


class Config(dict):
    """Stands for the objects of training scripts."""


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
def test_files_of_torch_save(legacy, tmp_path):
    module = randomised(
        torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    )
    base = torch.arange(12.0).reshape(3, 4)
    tensors = module.state_dict() | {
        "transposed": base.T,
        "shared": base[1:, ::2],
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "long": torch.tensor([2**40]),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 4),
        "parameter": torch.nn.Parameter(base),
    }
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    saved = {
        "model": tensors,
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=1e-3, nested=[collections.Counter("aab")]),
        "config": Config(a=np.float64(3), b=np.arange(3)),
        "classes": {torch.float32, torch.device("cpu")},
    }
    path = tmp_path / "model.pth"
    torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
    read = {n: np.asarray(t) for n, t in read_file(path)["model"].items()}
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert str(read[name].dtype) == str(tensor.dtype).removeprefix("torch.")
        wanted = tensor.detach().to(torch.float64).numpy()
        assert np.array_equal(read[name].astype(np.float64), wanted)


def test_tensors_of_torch_as_a_mapping():
    model, state = eqx_vit.create_model("test_vit", key=jax.random.key(0))
    names = formats_of(model)[0].names(model)
    arrays = flatten(model, state)
    tensors = {}
    for path, place in names.items():
        if path in arrays:
            tensors |= place.publish(np.asarray(arrays[path]))
    half = {n: torch.tensor(np.array(a)).bfloat16() for n, a in tensors.items()}
    half["head.bias"] = torch.nn.Parameter(half["head.bias"])
    loaded, _ = eqx_vit.load_weights(model, half, state)
    expected = half["head.weight"].float().numpy()
    assert np.array_equal(loaded.head.weight, expected)
    eighth = half | {"norm.bias": half["norm.bias"].to(torch.float8_e4m3fn)}
    with pytest.raises(ValueError, match="`norm.bias` is of type torch.float8"):
        eqx_vit.load_weights(model, eighth, state)
