"""Images of a batch mixed with one another: mixup and CutMix."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray


@functools.partial(jax.jit, static_argnames=("num_classes",))
def mix(
    images: Float[Array, "batch height width channels"],
    labels: Int[Array, " batch"],
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

    - `images`, `labels`: A batch.
    - `num_classes`: The number of classes.
    - `mixup`, `cutmix`: Both parameters of the Beta distribution; 0 never does it.
    - `probability`: Of mixing at all.
    - `switch`: The probability of CutMix where both could be done.
    - `key`: Randomness. (Keyword only argument.)

    **Returns:**

    The images, and a distribution over classes for each.
    """
    mix_key, switch_key, mixup_key, cutmix_key, place_key = jr.split(key, 5)
    height, width = images.shape[1:3]
    dtype = images.dtype
    cuts = jr.uniform(switch_key) < jnp.where(mixup > 0, switch, 1.0)
    cuts &= cutmix > 0
    mixes = (jr.uniform(mix_key) < probability) & ((mixup > 0) | cuts)

    # An exponent of 0 would give NaN where it is not used.
    alpha, beta = (jnp.where(a > 0, a, 1.0) for a in (mixup, cutmix))
    blend_share = jr.beta(mixup_key, alpha, alpha)
    side = jnp.sqrt(1 - jr.beta(cutmix_key, beta, beta))
    inside = jnp.ones((height, width), bool)
    for axis, (size, centre) in enumerate(
        zip((height, width), jr.uniform(place_key, (2,)))
    ):
        place, centre = jnp.arange(size), jnp.floor(centre * size)
        cut = jnp.floor(side * size)
        first, last = centre - cut // 2, centre + (cut + 1) // 2
        within = (place >= first) & (place < last)
        inside &= jnp.expand_dims(within, 1 - axis)
    own = jnp.where(cuts, 1 - inside.astype(dtype), blend_share.astype(dtype))
    own = jnp.where(mixes, own, jnp.ones_like(own))[..., None]
    # What of the label stays is the share of the image that does.
    share = own.mean()
    images = own * images + (1 - own) * images[::-1]
    labels = jax.nn.one_hot(labels, num_classes, dtype=dtype)
    return images, share * labels + (1 - share) * labels[::-1]
