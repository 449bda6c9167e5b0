import difflib
from collections.abc import Collection
from typing import TypeVar


T = TypeVar("T")


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """`(height, width)` from one side of a square or from the pair itself."""
    return (size, size) if isinstance(size, int) else size


def check_at_least(minimum: int, **arguments: int | tuple[int, int]) -> None:
    """Raises if an argument, given by its name, is smaller than `minimum`."""
    for name, value in arguments.items():
        if min(pair(value)) < minimum:
            raise ValueError(
                f"`{name}={value}` is too small; the nearest legal value is {minimum}."
            )


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raises if `value` is not one of `choices`."""
    if value not in choices:
        nearest = difflib.get_close_matches(value, choices, n=1, cutoff=0)
        raise ValueError(
            f"`{name}={value!r}` is none of {', '.join(map(repr, choices))}; "
            f"the nearest legal value is {nearest[0]!r}."
        )


def check_multiple(
    name: str, value: int | tuple[int, int], of: str, divisor: int | tuple[int, int]
) -> None:
    """Raises if `value` is not a multiple of `divisor`, side by side."""
    sides, divisors = pair(value), pair(divisor)
    nearest = tuple(max(1, round(s / d)) * d for s, d in zip(sides, divisors))
    if nearest != sides:
        square = sides[0] == sides[1] and nearest[0] == nearest[1]
        raise ValueError(
            f"`{name}={sides[0] if square else value}` must be a multiple of "
            f"`{of}={divisor}`; the nearest legal value is "
            f"{nearest[0] if square else nearest}."
        )


def check_odd(**arguments: int) -> None:
    """Raises if an argument, given by its name, is even or below 1."""
    for name, value in arguments.items():
        if value % 2 == 0 or value < 1:
            raise ValueError(
                f"`{name}={value}` must be odd and at least 1; the nearest legal value "
                f"is {max(1, value + 1)}."
            )


def check_image(shape: tuple[int, ...], multiple: int, reason: str) -> None:
    """Raises if the sides of an image are not multiples of `multiple`."""
    sides = shape[:2]
    nearest = tuple(max(1, round(side / multiple)) * multiple for side in sides)
    if nearest != sides:
        raise ValueError(
            f"`image` of {sides[0]} x {sides[1]} pixels: both sides must be multiples "
            f"of {multiple} ({reason}); the nearest legal size is "
            f"{nearest[0]} x {nearest[1]}."
        )


def hidden_dim(name: str, factor: float, dim: int) -> int:
    """The size of a hidden layer, `factor * dim` rounded down.

    Raises if there is none.
    """
    if int(factor * dim) < 1:
        raise ValueError(
            f"`{name}={factor}` leaves no hidden layer of {dim} channels; the nearest "
            f"legal value is {1 / dim:.3g}."
        )
    return int(factor * dim)


def per_stage(name: str, value: T | tuple[T, ...], num_stages: int) -> tuple[T, ...]:
    """One value a stage, from one for all stages or from the tuple itself.

    Raises if the tuple has another length.
    """
    values = value if isinstance(value, tuple) else (value,) * num_stages
    if len(values) != num_stages:
        raise ValueError(
            f"`{name}={value}` must be one value, or one for each of the {num_stages} "
            "stages."
        )
    return values
