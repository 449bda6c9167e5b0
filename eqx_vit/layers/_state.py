from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray


State = TypeVar("State", bound=eqx.nn.State | None)


def check_state(model: Any, state: eqx.nn.State | None) -> None:
    """Raises if a model has running statistics and there are none."""
    if state is None and _has_state(model):
        raise ValueError(
            f"`state=None`, but a `{type(model).__name__}` has running statistics; "
            "pass the state that `equinox.nn.make_with_state` made."
        )


def call_with_state(
    model: Callable,
    x: Any,
    state: State,
    *,
    key: PRNGKeyArray | None = None,
) -> tuple[Any, State]:
    """Calls a module that may have running statistics.

    **Arguments:**

    - `model`: A `equinox.nn.StatefulLayer`, called as `model(x, state, key=key)`, or
        another module, called as `model(x, key=key)`.
    - `x`: Its input.
    - `state`: The running statistics; `None` for a module without any.
    - `key`: Randomness. (Keyword only argument.)

    **Returns:**

    The output of the module, and the new state.

    **Raises:**

    A `ValueError` if the module has running statistics and `state` is `None`.
    """
    check_state(model, state)
    if _has_state(model):
        return model(x, state, key=key)
    return model(x, key=key), state


def _has_state(model: Any) -> bool:
    return isinstance(model, eqx.nn.StatefulLayer) and model.is_stateful()


class Stateless(eqx.Module):
    """A model for inference that needs no state, called as `model(image)`."""

    model: eqx.nn.StatefulLayer

    def __call__(
        self,
        image: Float[Array, "height width channels"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " classes"]:
        return self.model(image, eqx.nn.State(self.model), key=key)[0]


def unwrapped(model: Any) -> Any:
    """Returns the model inside of a `Stateless`, and any other model as it is."""
    return model.model if isinstance(model, Stateless) else model
