"""The implementations that the parity tests compare with, if they are installed."""

import enum
import importlib.machinery
import importlib.util
import sys
import types

import pytest


torch = pytest.importorskip("torch", reason="install tests/parity/requirements.txt")


def _dummy(attribute):
    if attribute.startswith("__"):
        raise AttributeError(attribute)
    return type(attribute, (), {})


def _stand_in(name):
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    module.__getattr__ = _dummy
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
    misc = _stand_in("torchvision.ops.misc")
    misc.FrozenBatchNorm2d = type("FrozenBatchNorm2d", (torch.nn.Module,), {})
    modes = "NEAREST BILINEAR BICUBIC BOX HAMMING LANCZOS"
    mode = enum.Enum("InterpolationMode", modes)
    for name in ("torchvision.transforms", "torchvision.transforms.functional"):
        _stand_in(name).InterpolationMode = mode


if importlib.util.find_spec("torchvision") is None:
    _without_torchvision()
