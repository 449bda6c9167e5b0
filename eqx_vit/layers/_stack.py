import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Key, PRNGKeyArray, PyTree, UInt32

from ._block import BlockSequence
from ._random import split_key, stack
from ._ranges import DEPTH, RATE


@dataclass(frozen=True)
class KeptValues:
    """The values of a block that are saved for the backward pass: a policy of
    `jax.checkpoint_policies`, or names, or all (`None`). What else it needs it computes
    again.

    (It compares by its policy, so that two models of one policy share a compiled step.)
    """

    policy: Callable | tuple[str, ...] | None

    def __call__(self, step: Callable) -> Callable:
        policy = self.policy
        if policy is None:
            return step
        if isinstance(policy, tuple):
            policy = jax.checkpoint_policies.save_only_these_names(*policy)
        return jax.checkpoint(step, policy=policy, prevent_cse=False)


# The outcome of every linear layer. What is kept goes through memory three times: to
# keep all takes more time, and more memory, see `tests/benchmarks/memory.py`.
PRODUCTS = KeptValues(jax.checkpoint_policies.dots_with_no_batch_dims_saveable)


# The rate of one block, or of each in a sequence.
Rate = float | tuple[float, ...]


class Stack(eqx.Module):
    """`depth` blocks of one kind, one after the other.

    The arrays of `blocks` carry a leading axis of size `depth`, and `jax.lax.scan` runs
    along it: one block is compiled, however deep the stack. The parameters of block `i`
    are `jax.tree.map(lambda a: a[i], eqx.filter(stack.blocks, eqx.is_array))`. `lift`
    transforms the function of one block that is scanned, to a `jax.checkpoint` that
    keeps the outcome of linear layers; [`eqx_vit.training.rematerialise`][] sets
    another. [`eqx_vit.training.unroll`][] has the loop written out.
    """

    blocks: Any
    drop_rates: tuple[Rate, ...] = eqx.field(static=True)
    lift: Callable[[Callable], Callable] = eqx.field(static=True)
    unroll: bool = eqx.field(static=True)

    def __init__(
        self,
        make_block: Callable[[PRNGKeyArray], Callable],
        depth: int,
        stochastic_depth: float | tuple[Rate, ...] = 0.0,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `make_block`: Makes a block from a key. A block is called as
            `block(x, drop_rate, *context, key=key)` and returns the new `x`.
        - `depth`: The number of blocks.
        - `stochastic_depth`: The rate at which the last block drops its branches, which
            rises linearly from 0 at the first; or the rate of every block.
        - `key`: Randomness for the parameters. (Keyword only argument.)
        """
        self.blocks, self.drop_rates = _make(make_block, depth, stochastic_depth, key)
        self.lift = PRODUCTS
        self.unroll = False

    @property
    def depth(self) -> int:
        """The number of blocks."""
        return len(self.drop_rates)

    def __call__(
        self,
        x: PyTree[Float[Array, "..."]],
        *context: Any,
        key: PRNGKeyArray | None = None,
    ) -> PyTree[Float[Array, "..."]]:
        """**Arguments:**

        - `x`: The input of the first block.
        - `context`: Further inputs of every block.
        - `key`: Randomness, split into a key per block. (Keyword only argument.)

        **Returns:**

        The output of the last block.
        """

        def apply_block(block, x, drop_rate, none, key):
            return block(x, drop_rate, *context, key=key), none

        return _scan(self, apply_block, x, None, key)[0]


class AlternatingStack(eqx.Module):
    """Blocks of several kinds that take turns: whole turns are scanned as one stack,
    and the blocks that are left over follow."""

    turns: Stack | None
    remainder: BlockSequence
    remainder_rates: tuple[float, ...] = eqx.field(static=True)

    def __init__(
        self,
        make_block: Callable[[int, PRNGKeyArray], Callable],
        period: int,
        drop_rates: tuple[float, ...],
        num_turns: int | None = None,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `make_block`: Makes the block at a position, from 0, from a key. In whole
            turns, blocks that are `period` apart must be alike.
        - `period`: The number of blocks in a turn.
        - `drop_rates`: The rate at which each block drops its branches.
        - `num_turns`: The number of whole turns; by default as many as there are.
        - `key`: Randomness for the parameters. (Keyword only argument.)
        """
        depth = len(drop_rates)
        num_turns = depth // period if num_turns is None else num_turns
        turns_key, rest_key = jr.split(key)

        def make_run(start, stop, key):
            keys = jr.split(key, max(1, stop - start))
            return BlockSequence(
                tuple(make_block(start + i, keys[i]) for i in range(stop - start))
            )

        whole = num_turns * period
        rates = tuple(drop_rates[i : i + period] for i in range(0, whole, period))
        make_turn = functools.partial(make_run, 0, period)
        has_turns = num_turns > 0
        self.turns = (
            Stack(make_turn, num_turns, rates, key=turns_key) if has_turns else None
        )
        self.remainder = make_run(whole, depth, rest_key)
        self.remainder_rates = drop_rates[whole:]

    def __call__(
        self, x: Float[Array, "*tokens dim"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens dim"]:
        turns_key, rest_key = split_key(key, 2)
        x = x if self.turns is None else self.turns(x, key=turns_key)
        return self.remainder(x, self.remainder_rates, key=rest_key)


class StatefulStack(eqx.nn.StatefulLayer):
    """As [`eqx_vit.layers.Stack`][], of blocks that hold BatchNorm.

    Their running statistics carry the same leading axis in the state.
    """

    blocks: Any
    drop_rates: tuple[float, ...] = eqx.field(static=True)
    lift: Callable[[Callable], Callable] = eqx.field(static=True)
    unroll: bool = eqx.field(static=True)

    def __init__(
        self,
        make_block: Callable[[PRNGKeyArray], Callable],
        depth: int,
        stochastic_depth: float | tuple[float, ...] = 0.0,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        As [`eqx_vit.layers.Stack`][]; a block is called as
        `block(x, state, drop_rate, *context, key=key)` and returns the new `x` and
        `state`.
        """
        self.blocks, self.drop_rates = _make(make_block, depth, stochastic_depth, key)
        self.lift = PRODUCTS
        self.unroll = False

    @property
    def depth(self) -> int:
        """The number of blocks."""
        return len(self.drop_rates)

    def __call__(
        self,
        x: Float[Array, "..."],
        state: eqx.nn.State,
        *context: Any,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "..."], eqx.nn.State]:
        def apply_block(block, x, drop_rate, state, key):
            return block(x, state, drop_rate, *context, key=key)

        # Of a copy, since `State.update` spends what it is called on, and in inference
        # a state serves many calls.
        state = jax.tree.map(lambda array: array, state)
        x, blocks_state = _scan(self, apply_block, x, state.substate(self.blocks), key)
        return x, state.update(blocks_state)


def is_stack(x: Any) -> bool:
    """Whether it is a [`eqx_vit.layers.Stack`][] or `StatefulStack`."""
    return isinstance(x, Stack | StatefulStack)


def _make(make_block, depth, stochastic_depth, key):
    DEPTH.check("depth", depth)
    if isinstance(stochastic_depth, tuple):
        rates = stochastic_depth
    else:
        rates = linear_rates(stochastic_depth, depth)
    return stacked(make_block, jr.split(key, depth)), rates


def stacked(
    make: Callable[[PRNGKeyArray], Any],
    keys: Key[Array, " number"] | UInt32[Array, "number words"],
) -> Any:
    """As `equinox.filter_vmap(make)(keys)`: modules whose arrays are stacked.

    **Arguments:**

    - `make`: Makes a module from a key.
    - `keys`: As many as there are modules.
    """
    if isinstance(keys, Tracer):
        return eqx.filter_vmap(make)(keys)
    # One by one: under `vmap` each random draw takes many times as long to compile.
    pairs = [eqx.partition(make(key), eqx.is_array) for key in keys]
    leaves = zip(*(jax.tree.leaves(arrays) for arrays, _ in pairs))
    arrays, static = pairs[0]
    arrays = jax.tree.unflatten(jax.tree.structure(arrays), map(stack, leaves))
    return eqx.combine(arrays, static)


def linear_rates(stochastic_depth: float, depth: int) -> tuple[float, ...]:
    """Rates that rise linearly from 0 to `stochastic_depth` over `depth` blocks."""
    RATE.check("stochastic_depth", stochastic_depth)
    DEPTH.check("depth", depth)
    return tuple(stochastic_depth * i / max(depth - 1, 1) for i in range(depth))


def _scan(stack, apply_block, x, state, key):
    arrays, static = eqx.partition(stack.blocks, eqx.is_array)
    keys = None if key is None else jr.split(key, stack.depth)
    # A constant 0 instead of an array of zeros lets a block without stochastic depth
    # draw nothing and need no key.
    rates = jnp.asarray(stack.drop_rates) if np.any(stack.drop_rates) else None

    def step(x, layer):
        arrays, rate, state, key = layer
        rate = 0.0 if rate is None else rate
        return apply_block(eqx.combine(arrays, static), x, rate, state, key)

    x = jax.tree.map(_by_rows, x) if stack.unroll else x
    layers = (arrays, rates, state, keys)
    return jax.lax.scan(stack.lift(step), x, layers, unroll=stack.unroll)


def _by_rows(x):
    # A loop's arrays lie row by row, images first. Without a loop XLA would have the
    # images last, to sum over them at the other end, and transpose them in every block.
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))
