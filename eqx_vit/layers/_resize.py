import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._array import AnyArray


def _bicubic_weights(size: int, new_size: int) -> Float[np.ndarray, "new_size size"]:
    """PyTorch's bicubic interpolation along one axis, as a matrix.

    `a = -0.75`, no antialiasing, the border repeated. (`jax.image.resize` has
    `a = -0.5` and renormalises at the border.)
    """
    centres = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    first = np.floor(centres).astype(int) - 1
    weights = np.zeros((new_size, size))
    for tap in range(4):
        at = first + tap
        t = np.abs(centres - at)
        near = (1.25 * t - 2.25) * t**2 + 1
        far = -0.75 * (((t - 5) * t + 8) * t - 4)
        rows, columns = np.arange(new_size), np.clip(at, 0, size - 1)
        np.add.at(weights, (rows, columns), np.where(t <= 1, near, far))
    return weights.astype(np.float32)


def resize_bicubic(
    image: Float[AnyArray, "height width channels"], size: tuple[int, int]
) -> Float[Array, "new_height new_width channels"]:
    """The image at another size, as PyTorch's bicubic `interpolate` has it.

    **Arguments:**

    - `image`: An image.
    - `size`: The new `(height, width)`.
    """
    image = jnp.asarray(image)
    if image.shape[:2] == size:
        return image
    rows, columns = (
        jnp.asarray(_bicubic_weights(old, new), image.dtype)
        for old, new in zip(image.shape, size)
    )
    return jnp.einsum("yh,xw,hwc->yxc", rows, columns, image)
