"""Faster training on a GPU: the loop over the blocks written out."""

from typing import TypeVar

import equinox as eqx
import jax

from .layers import is_stack, Keeping, replaced


Model = TypeVar("Model", bound=eqx.Module)


def unroll(model: Model) -> Model:
    """The model, whose stacks of blocks are not loops but one block after the other.

    On a GPU a training step takes less time so, since a loop copies what the backward
    pass needs. All of that is kept, in more memory, and a deep model takes longer to
    compile. [`eqx_vit.rematerialise`][] brings the loop back. On a CPU the loop is
    faster.

    **Arguments:**

    - `model`: A model.

    **Returns:**

    A model of the same parameters, and the same function.
    """
    all_kept = Keeping(None)
    return jax.tree.map(
        lambda x: replaced(x, unroll=True, lift=all_kept) if is_stack(x) else x,
        model,
        is_leaf=is_stack,
    )
