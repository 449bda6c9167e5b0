import jax
from jaxtyping import Array, Float

from ._precision import widen


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The exact GELU, `x Φ(x)`: what PyTorch, timm and transformers compute."""
    # By `erf`, as PyTorch has it: `jax.nn.gelu`'s `erfc` takes XLA three loops.
    wide = widen(x)
    return (0.5 * wide * (1 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


def gelu_tanh(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """GELU by its tanh approximation: Flax's default, so that of Google's models."""
    return jax.nn.gelu(x, approximate=True)


def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`x sigmoid(1.702 x)`: the GELU of OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)
