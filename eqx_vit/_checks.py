"""The checker of signatures: beartype, for a function at its first call."""

import functools
from collections.abc import Callable
from typing import Any


def checked(function: Callable) -> Callable:
    """Return the function with its arguments and its result checked by beartype.

    For every function of the package jaxtyping makes two empty ones of its signature,
    which are checked, and calls them before and after it. beartype takes about a
    millisecond for each of the two thousand, and a program calls a few.

    **Arguments:**

    - `function`: The function; beartype sees it when it is first called.
    """
    made: list[Callable] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if not made:
            made.append(_beartype(function))
        return made[0](*args, **kwargs)

    return call


@functools.cache
def _checker() -> Callable:
    from beartype import beartype, BeartypeConf

    # The numeric tower lets an `int` pass for a `float`, as in `dropout=0`.
    return beartype(conf=BeartypeConf(is_pep484_tower=True))


def _beartype(function: Callable) -> Callable:
    return _checker()(function)
