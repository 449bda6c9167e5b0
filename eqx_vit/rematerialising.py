"""Less memory in training: what the backward pass computes again."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import equinox as eqx
import jax

from .layers import replaced, Stack, StatefulStack


Model = TypeVar("Model", bound=eqx.Module)


@dataclass(frozen=True)
class _Checkpoint:
    # Compares by its policy, so that two models of one policy share a compiled step.
    policy: Callable

    def __call__(self, step: Callable) -> Callable:
        return jax.checkpoint(step, policy=self.policy, prevent_cse=False)


def rematerialise(
    model: Model, policy: Callable = jax.checkpoint_policies.nothing_saveable
) -> Model:
    """The model, whose training keeps less of every block for the backward pass.

    What the policy does not save is computed again: the results are the same. It acts
    on every scanned stack of blocks; the input of each block is always saved.

    **Arguments:**

    - `model`: A model.
    - `policy`: One of `jax.checkpoint_policies`. `nothing_saveable` computes a whole
        block again, a third more of work; `dots_with_no_batch_dims_saveable` saves the
        outcome of every linear layer; `save_only_these_names("attention_output")` names
        what to save: `"attention"`, `"attention_output"`, `"mlp"`, `"block"` or
        `"stage"`.

    **Returns:**

    A model of the same parameters.
    """

    def is_stack(x):
        return isinstance(x, Stack | StatefulStack)

    return jax.tree.map(
        lambda x: replaced(x, lift=_Checkpoint(policy)) if is_stack(x) else x,
        model,
        is_leaf=is_stack,
    )
