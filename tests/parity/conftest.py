"""The implementations that the parity tests compare with, if they are installed."""

import enum
import importlib.machinery
import importlib.util
import sys
import types

import pytest


torch = pytest.importorskip("torch", reason="install tests/parity/requirements.txt")


def _dummy(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


def _stand_in(name, **attributes):
    module = types.ModuleType(name)
    spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
    vars(module).update(__spec__=spec, __path__=[], __getattr__=_dummy, **attributes)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    return module


def _without_torchvision():
    # timm imports torchvision, which no forward pass of its models uses, and whose
    # wheels need a CUDA build of PyTorch.
    for name in ("", ".ops", ".datasets", ".models"):
        _stand_in(f"torchvision{name}")
    norm = type("FrozenBatchNorm2d", (torch.nn.Module,), {})
    _stand_in("torchvision.ops.misc", FrozenBatchNorm2d=norm)
    modes = "NEAREST NEAREST_EXACT BILINEAR BICUBIC BOX HAMMING LANCZOS"
    mode = enum.Enum("InterpolationMode", modes)
    for name in ("torchvision.transforms", "torchvision.transforms.functional"):
        _stand_in(name, InterpolationMode=mode)


if importlib.util.find_spec("torchvision") is None:
    _without_torchvision()
