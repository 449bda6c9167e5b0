import functools
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Range:
    """The legal values of a number.

    - `least`, `most`: The ends.
    - `is_open`: Whether either end is not legal itself.
    - `rule`: The rule that an error states; by default the range.
    - `usual`: A usual value, which an error names.
    """

    least: float
    most: float = math.inf
    is_open: tuple[bool, bool] = (False, False)
    rule: str = ""
    usual: str = ""

    def __contains__(self, value: float) -> bool:
        if not self.least <= value <= self.most or value == math.inf:
            return False
        at_end = (value == self.least, value == self.most)
        return not any(x and y for x, y in zip(at_end, self.is_open))

    def __str__(self) -> str:
        least, most = _shown(self.least), _shown(self.most)
        if self.most >= _LARGEST:
            return f"above {least}" if self.is_open[0] else f">= {least}"
        left, right = "(" if self.is_open[0] else "[", ")" if self.is_open[1] else "]"
        return f"in {left}{least}, {most}{right}"

    def check(self, name: str, value: float, whole: Any = None) -> None:
        """Raise a `ValueError` if a value is not legal.

        **Arguments:**

        - `name`: The name of the argument.
        - `value`: The number to check.
        - `whole`: The argument that the number is an entry of; by default the number.
        """
        if value in self:
            return
        end, is_open = (
            (self.least, self.is_open[0])
            if value < self.most
            else (self.most, self.is_open[1])
        )
        said = [self.rule or f"must be {self}"]
        if not is_open and math.isfinite(value):
            said.append(f"the nearest legal value is {_shown(type(value)(end))}")
        if self.usual:
            said.append(self.usual)
        value = value if whole is None else whole
        raise ValueError(f"`{name}={value}` {'; '.join(said)}.")


def _shown(end: float) -> str:
    return f"{end:g}" if end == math.inf or 0 < end < 1 else str(end)


_LARGEST = 2**31 - 1  # a size or a count, as XLA has them

COUNT = Range(1, _LARGEST, rule=f"must be from 1 to {_LARGEST}")
FROM_ZERO = Range(0, _LARGEST, rule=f"must be from 0 to {_LARGEST}")
DEPTH = Range(1, 10_000)
POSITIVE = Range(0, is_open=(True, False), rule="must be above 0, and finite")
NOT_NEGATIVE = Range(0, rule="must not be below 0, and finite")
RATE = Range(0, 1, (False, True), rule="must be a rate in [0, 1), such as 0.9")
SHARE = Range(0, 1, rule="is a probability or a share, in [0, 1]")

# The arguments of constructors that have another range than others of their type.
_BY_NAME = {
    "num_classes": FROM_ZERO,
    "register_tokens": FROM_ZERO,
    "padding": FROM_ZERO,
    "layer_scale": NOT_NEGATIVE,
    "init": NOT_NEGATIVE,
    "weight": NOT_NEGATIVE,
    "rope_jitter": Range(1),
    "rope_rescale": Range(1),
}


def check_numbers(constructor: Callable, arguments: Mapping[str, Any]) -> None:
    """Raise a `ValueError` if a number among a constructor's arguments is out of range.

    Rates of dropout and of stochastic depth are in [0, 1). Sizes and counts are at
    least 1 (`num_classes`, `register_tokens` and `padding` at least 0). Other numbers
    are finite and above 0 (initial values at least 0). A boolean is not a number.

    **Arguments:**

    - `constructor`: The `__init__` that is called, for its annotations.
    - `arguments`: Its `locals()`, before others are added.
    """
    for name, (kind, default) in _numeric(constructor).items():
        value = arguments[name]
        for number in _numbers(value):
            if isinstance(number, bool):
                raise ValueError(f"`{name}={value}` must be a number, not a boolean.")
            _range_of(name, kind, default).check(name, number, value)


def _range_of(name: str, kind: str, default: Any) -> Range:
    if name in _BY_NAME:
        return _BY_NAME[name]
    if "drop" in name or name == "stochastic_depth":
        return RATE
    if name == "depth" or name.endswith("_depth"):
        return DEPTH
    if kind == "int":
        return COUNT
    has_default = isinstance(default, float)
    return replace(POSITIVE, usual=f"the default is {default}" if has_default else "")


@functools.cache
def _numeric(constructor: Callable) -> dict[str, tuple[str, Any]]:
    """Return the kind, `"int"` or `"float"`, and the default of the arguments that are
    numbers or tuples of them."""
    found = {}
    for name, parameter in inspect.signature(constructor).parameters.items():
        kind = parameter.annotation
        text = kind.__name__ if type(kind) is type else str(kind)
        words = re.findall(r"\b(?:bool|float|int)\b", text)
        if words and "bool" not in words:
            kind = "float" if "float" in words else "int"
            found[name] = kind, parameter.default
    return found


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, tuple):
        for entry in value:
            yield from _numbers(entry)
    elif isinstance(value, int | float):
        yield value
