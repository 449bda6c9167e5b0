"""The implementations that the parity tests compare with, if they are installed."""

import pytest


torch = pytest.importorskip("torch", reason="install tests/parity/requirements.txt")

try:
    import torchvision  # noqa: F401
except RuntimeError:
    # Its wheel is made for a CUDA build of PyTorch. On another, the operators that its
    # import registers kernels for are not there; nothing here calls them.
    _library = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _library.define(
            f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
    import torchvision  # noqa: F401
