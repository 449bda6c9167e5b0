"""Errors about images that a model does not take."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import TypeCheckError


Call = TypeVar("Call", bound=Callable)


def takes_an_image(call: Call) -> Call:
    """Decorates the `__call__` of a model: the error about an image of a wrong shape or
    type begins with the shape, the legal one, and what to do.

    The model has a field `channels`, and `image_size` if it takes one size only.
    """

    @functools.wraps(call)
    def checked(self, image, *arguments, **keywords):
        try:
            return call(self, image, *arguments, **keywords)
        except TypeCheckError as error:
            reason = _reason(self, image)
            if reason is None:
                raise
            raise TypeCheckError(f"{reason}\n\n{error}") from None

    return checked  # pyright: ignore


def _reason(model: Any, image: Any) -> str | None:
    if not isinstance(image, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
        kind = type(image).__name__
        return f"`image` is a `{kind}`; it must be an array of JAX or NumPy."
    shape, channels = image.shape, model.channels
    size = getattr(model, "image_size", ("height", "width"))
    legal, kind = f"({size[0]}, {size[1]}, {channels})", type(model).__name__
    begin = f"`image` is of shape {shape}; this {kind} takes {legal}"
    if len(shape) == 4:
        return (
            f"{begin}, a single image: for a batch use `eqx_vit.predict(model, images)`"
            " or `jax.vmap(model)`."
        )
    if len(shape) == 2:
        return f"{begin}: give an image without channels an axis, `image[..., None]`."
    if len(shape) != 3:
        return f"{begin}."
    if shape[-1] != channels and shape[0] == channels:
        return (
            f"{begin}: images must be channels last; did you pass channels first? "
            "`jnp.moveaxis(image, 0, -1)` moves them."
        )
    if shape[-1] != channels:
        return (
            f"{begin}: give it {channels} channels, or make the model with "
            f"`channels={shape[-1]}`."
        )
    if shape[:2] != size and size != ("height", "width"):
        return (
            f"{begin}: resize the image, or take `eqx_vit.resize(model, {shape[:2]})`."
        )
    if not jnp.issubdtype(image.dtype, jnp.floating):
        return (
            f"`image` is of type {image.dtype}; it must be floating-point, and "
            "normalised as the model wants it (see `eqx_vit.preprocess`)."
        )
    return None
