"""A trained model as a file that JAX runs without this package."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from ..layers import check_at_least, pair
from ..training.step import predict


def export(
    model: Callable,
    image_size: int | tuple[int, int],
    state: eqx.nn.State | None = None,
    *,
    channels: int = 3,
    dtype: DTypeLike = jnp.float32,
    platforms: Sequence[str] | None = None,
) -> jax.export.Exported:
    """Inference as a program with its weights inside, for batches of any size.

        exported = eqx_vit.export(model, 224)
        Path("vit.jax").write_bytes(exported.serialize())

    Whoever has JAX runs it, with equal outputs, and needs neither this package nor
    Equinox:

        logits = jax.export.deserialize(Path("vit.jax").read_bytes()).call(images)

    `exported.mlir_module()` is the program as StableHLO. Files need `flatbuffers` on
    both sides, which the extra `train` brings.

    **Arguments:**

    - `model`: A model.
    - `image_size`: The side of the images in pixels, or their `(height, width)`.
    - `state`: The model's running statistics, from
        `equinox.nn.make_with_state(Model)(...)`; not needed by a model without any.
    - `channels`: The number of channels of the images. (This and the rest are keyword
        only arguments.)
    - `dtype`: The type of the images, and of the computation.
    - `platforms`: What it is to run on: `"cpu"`, `"cuda"`, `"tpu"`; by default what is
        here.

    **Returns:**

    A function of images, `batch height width channels`, that returns logits.

    **Raises:**

    The model's error if it does not take such images.
    """
    check_at_least(1, image_size=image_size, channels=channels)
    (batch,) = jax.export.symbolic_shape("batch")
    shape = (batch, *pair(image_size), channels)

    def infer(
        images: Float[Array, "batch height width channels"],
    ) -> Float[Array, "batch classes"]:
        return predict(model, images, state)

    images = jax.ShapeDtypeStruct(shape, dtype)
    # As on a CPU, whatever there is: without the kernels of one version of cuDNN.
    with jax.default_device(jax.devices("cpu")[0]):
        return jax.export.export(jax.jit(infer), platforms=platforms)(images)
