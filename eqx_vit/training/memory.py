"""Rematerialised and unrolled stacks: memory and time of the backward pass."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax

from ..layers import check_choice, is_stack, KeptValues, PRODUCTS, replaced


Model = TypeVar("Model", bound=eqx.Module)


# The named values of a block, see `named_values`, without the attention probabilities,
# which the backward pass never needs as such.
BLOCK_NAMES = ("attention_output", "mlp", "block")


def rematerialise(model: Model, keep: Callable | Sequence[str] = ()) -> Model:
    """Return a model that saves other values of a block for the backward pass.

    Other values are computed again: the results are the same. It acts on every
    scanned stack of blocks; the input of each block is always kept. A new model keeps
    the outcome of every linear layer, which takes the least time on a CPU; on a GPU
    that is [`eqx_vit.training.unroll`][], which this undoes. (In CrossViT, names are
    for the blocks of the outer stack, and the stacks in them keep what those of a new
    model do.)

    **Arguments:**

    - `model`: A model.
    - `keep`: The names of values in a block to keep, of `"attention_output"`, `"mlp"`
        and `"block"` (see [`eqx_vit.named_values`][]); by default none, which computes
        a whole block again, a third more of work. Or one of
        `jax.checkpoint_policies`: a new model's is `dots_with_no_batch_dims_saveable`;
        `everything_saveable` computes nothing again.

    **Returns:**

    A model of the same parameters.

    **Raises:**

    A `ValueError` that lists the names, if one is none of them.
    """
    if not callable(keep):
        for name in keep:
            check_choice("keep", name, BLOCK_NAMES)
        keep = tuple(keep)

    lift = KeptValues(keep)
    inner = lift if callable(keep) else PRODUCTS
    return _with_stacks(model, lift, inner, unroll=False)


def unroll(model: Model) -> Model:
    """Return a model whose stacks of blocks are unrolled.

    Unrolling is faster on a GPU: a loop copies the values saved for the backward
    pass. It saves all of them, in more memory, and a deep model takes longer to
    compile. [`eqx_vit.training.rematerialise`][] brings the loop back. On a CPU the
    loop is faster.

    **Arguments:**

    - `model`: A model.

    **Returns:**

    A model of the same parameters, and the same function.
    """
    all_kept = KeptValues(None)
    return _with_stacks(model, all_kept, all_kept, unroll=True)


def _with_stacks(tree: Any, lift: KeptValues, inner: KeptValues, unroll: bool) -> Any:
    """The tree with its stacks changed; `inner` is the `lift` of stacks in a stack."""

    def changed(x):
        if not is_stack(x):
            return x
        blocks = _with_stacks(x.blocks, inner, inner, unroll)
        return replaced(x, blocks=blocks, lift=lift, unroll=unroll)

    return jax.tree.map(changed, tree, is_leaf=is_stack)
