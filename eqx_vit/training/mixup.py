"""Images of a batch mixed with one another: mixup and CutMix."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..layers import COUNT, NOT_NEGATIVE, SHARE


@functools.partial(
    jax.jit,
    static_argnames=("num_classes", "mixup", "cutmix", "probability", "switch"),
)
def mixup_cutmix(
    images: Float[Array, "batch height width channels"],
    labels: Int[Array, " batch"] | Float[Array, "batch {num_classes}"],
    num_classes: int,
    mixup: float = 0.8,
    cutmix: float = 1.0,
    probability: float = 1.0,
    switch: float = 0.5,
    *,
    key: PRNGKeyArray,
) -> tuple[
    Float[Array, "batch height width channels"], Float[Array, "batch {num_classes}"]
]:
    """Every image mixed with another of its batch, by one draw for the whole batch.

    [mixup](https://arxiv.org/abs/1710.09412) blends two images and
    [CutMix](https://arxiv.org/abs/1905.04899) puts a rectangle of one into the other;
    the labels are mixed in the same proportion, from a Beta distribution. The defaults
    are DeiT's, and the other image is the one at the mirrored place in the batch, as in
    timm.

    **Arguments:**

    - `images`, `labels`: A batch; a class per image, or a row of numbers.
    - `num_classes`: The number of classes.
    - `mixup`, `cutmix`: Both parameters of the Beta distribution, not below 0; 0 never
        does it.
    - `probability`: The probability of mixing at all, in [0, 1].
    - `switch`: The probability of CutMix where both could be done, in [0, 1].
    - `key`: Randomness. (Keyword only argument.)

    **Returns:**

    The images, and a row for each, a distribution if its label is a class.

    **Raises:**

    A `ValueError` that names a number out of its range.
    """
    COUNT.check("num_classes", num_classes)
    for name, exponent in (("mixup", mixup), ("cutmix", cutmix)):
        NOT_NEGATIVE.check(name, exponent)
    for name, share in (("probability", probability), ("switch", switch)):
        SHARE.check(name, share)
    if labels.ndim == 1:
        labels = jax.nn.one_hot(labels, num_classes, dtype=images.dtype)
    labels = labels.astype(images.dtype)
    if mixup == 0 and cutmix == 0:
        return images, labels
    draw_key, switch_key, share_key, place_key = jr.split(key, 4)
    switch = 0.0 if cutmix == 0 else 1.0 if mixup == 0 else switch
    cuts = jr.uniform(switch_key) < switch
    alpha = jnp.where(cuts, cutmix, mixup)
    share = jr.beta(share_key, alpha, alpha)

    height, width = images.shape[1:3]
    side = jnp.sqrt(1 - share)
    inside = jnp.ones((height, width), bool)
    for axis, (size, centre) in enumerate(
        zip((height, width), jr.uniform(place_key, (2,)))
    ):
        place, centre = jnp.arange(size, dtype=side.dtype), jnp.floor(centre * size)
        cut = jnp.floor(side * size)
        first, last = centre - cut // 2, centre + (cut + 1) // 2
        within = (place >= first) & (place < last)
        inside &= jnp.expand_dims(within, 1 - axis)
    own = jnp.where(cuts, 1 - inside.astype(share.dtype), share)
    own = jnp.where(jr.uniform(draw_key) < probability, own, jnp.ones_like(own))
    # Each label is weighted by the area of its image that is kept.
    own, share = own[..., None].astype(images.dtype), own.mean().astype(images.dtype)
    images = own * images + (1 - own) * images[::-1]
    return images, share * labels + (1 - share) * labels[::-1]
