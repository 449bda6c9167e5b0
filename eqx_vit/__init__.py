"""Vision transformers in JAX and Equinox. The public names stand in `__init__.pyi`."""

import importlib.metadata as _metadata

from jaxtyping import install_import_hook as _install_import_hook

from . import _checks as _checks
from ._lazy import attach as _attach


# Every signature of these rooms is checked by beartype, under `jit` only while tracing.
# (The check needs JAX, which `data` and `cli` do without.)
_install_import_hook(
    [
        f"eqx_vit.{room}"
        for room in (
            "layers",
            "models",
            "families",
            "pretrained",
            "training",
            "interpret",
            "deploy",
        )
    ],
    "eqx_vit._checks.checked",
)

__getattr__, __dir__, __all__ = _attach(__name__)

try:
    __version__ = _metadata.version("eqx_vit")
except _metadata.PackageNotFoundError:
    __version__ = "0"
