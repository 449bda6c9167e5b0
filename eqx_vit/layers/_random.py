import jax.random as jr
from jaxtyping import PRNGKeyArray


def split_key(key: PRNGKeyArray | None, num: int) -> list[PRNGKeyArray] | list[None]:
    """`num` independent keys, or `num` times `None` if there is no key to split.

    Layers that draw take `key=None` in inference; this hands the `None` on.
    """
    return [None] * num if key is None else list(jr.split(key, num))
