from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float


def on_cuda() -> bool:
    """Whether functions that are traced now run on an NVIDIA GPU."""
    device = getattr(jax.config, "jax_default_device") or jax.devices()[0]
    device = jax.devices(device)[0] if isinstance(device, str) else device
    return "cuda" in device.client.platform_version


def is_for_cudnn(
    dtype: Any, dim_key: int, dim_value: int, dropout: eqx.nn.Dropout | None
) -> bool:
    """Whether cuDNN's attention takes these: on an NVIDIA GPU, in 16 bits, with keys
    and values of one size, a multiple of 8 up to 128, and no dropout."""
    return (
        (dropout is None or dropout.p == 0 or dropout.inference)
        and dtype in (jnp.bfloat16, jnp.float16)
        and dim_key == dim_value <= 128
        and dim_key % 8 == 0
        and on_cuda()
    )


def with_rows(
    x: Float[Array, "*leading rows columns"], number: int
) -> Float[Array, "*leading more columns"]:
    """`x` with so many rows of zeros more."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, number), (0, 0)]) if number else x


def mix_in_cudnn(
    q: Float[Array, "*windows heads queries dim_head"],
    k: Float[Array, "*windows heads keys dim_head"],
    v: Float[Array, "*windows heads keys dim_head"],
    scale: float,
    padding: int,
) -> Float[Array, "*windows heads queries dim_head"]:
    """Attention that never writes its probabilities down."""
    shape, keys = q.shape, k.shape[-2] - padding

    def arranged(x):
        # An even number of tokens: JAX turns others down where there are gradients.
        x = with_rows(x, x.shape[-2] % 2)
        return rearrange(x.reshape(-1, *x.shape[-3:]), "b h n d -> b n h d")

    q, k, v = map(arranged, (q, k, v))
    lengths = {}
    if k.shape[1] > keys:
        # (JAX 0.10 can map over a batch only if both are given, and mapped.)
        as_mapped = lambda x, n: jnp.where(x[:, 0, 0, 0] == 0, n, n).astype(jnp.int32)
        lengths["query_seq_lengths"] = as_mapped(q, q.shape[1])
        lengths["key_value_seq_lengths"] = as_mapped(k, keys)
    x = jax.nn.dot_product_attention(
        q, k, v, scale=scale, implementation="cudnn", **lengths
    )
    return rearrange(x[:, : shape[-2]], "b n h d -> b h n d").reshape(shape)
