import importlib
from collections.abc import Callable
from dataclasses import dataclass

import jax
from jaxtyping import Array, Float

from ._precision import widen


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The exact GELU, `x Φ(x)`, as in PyTorch, timm and transformers."""
    # By `erf`, as PyTorch has it: `jax.nn.gelu`'s `erfc` takes XLA three loops.
    wide = widen(x)
    return (0.5 * wide * (1 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


def gelu_tanh(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """GELU by its tanh approximation, the default of Flax and of Google's models."""
    return jax.nn.gelu(x, approximate=True)


def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`x sigmoid(1.702 x)`: the GELU of OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


@dataclass(frozen=True)
class Named:
    """A function of another package, found by its name: unlike a function under
    `jax.jit`, as those of `jax.nn` are, it can be pickled.

    - `module`, `name`: Where it is found.
    """

    module: str
    name: str

    @property
    def __name__(self) -> str:
        return self.name

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return getattr(importlib.import_module(self.module), self.name)(x)


def picklable(activation: Callable) -> Callable:
    """Return an activation for the field of a model, which can be pickled: a function
    under `jax.jit` is replaced by its name, if that can be found.

    **Arguments:**

    - `activation`: A function of one array.
    """
    if not hasattr(activation, "lower"):  # which `jax.jit` adds
        return activation
    name = getattr(activation, "__name__", "")
    for module in ("jax.nn", "jax.numpy", activation.__module__):
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ImportError:
            continue
        if found is activation:
            return Named(module, name)
    return activation
