"""Mappings and prefixes that training scripts put around the tensors of a model."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ..families.formats import Tensors
from .files import wrong_type
from .pickle import Unknown


class Wrapped(NamedTuple):
    """Tensors inside of a training state.

    - `keys`: The keys of the nested mappings around them.
    - `prefix`: What all their names begin with there.
    - `tensors`: The tensors, without the prefix.
    - `rest`: The other tensors of the innermost mapping, by their whole names.
    """

    keys: tuple[str, ...]
    prefix: str
    tensors: Tensors
    rest: Tensors

    @property
    def is_average(self) -> bool:
        """Whether the names say that it is an average of the weights in training."""
        parts = re.split(r"[._/]", "/".join((*self.keys, self.prefix)).casefold())
        averages = ("ema", "swa", "average", "averaged", "avg", "teacher")
        return any(part in averages for part in parts)

    @property
    def is_usual(self) -> bool:
        """Whether it stands where most scripts put the model itself."""
        return self.keys in ((), ("state_dict",), ("model",), ("encoder",)) and (
            self.prefix in ("", "module.", "model.", "_orig_mod.")
        )

    def __str__(self) -> str:
        where = "".join(f"[{key!r}]" for key in self.keys)
        named = f"names that begin with `{self.prefix}`" if self.prefix else ""
        return " of ".join(filter(None, (named, f"`{where}`" if where else "")))


# The tensors of a mapping in a training state, with the keys that lead to it.
Mappings = list[tuple[tuple[str, ...], Tensors]]


def _candidates(mappings: Mappings, expected: Collection[str]) -> Iterator[Wrapped]:
    """All tensors in a training state that have some of the expected names, with or
    without a prefix in front."""
    for keys, tensors in mappings:
        found = _prefixes(tensors, expected)
        for prefix in {"": 0} | dict(found.most_common(4)):
            mine = {n: t for n, t in tensors.items() if n.startswith(prefix)}
            rest = {n: t for n, t in tensors.items() if n not in mine}
            plain = {n.removeprefix(prefix): t for n, t in mine.items()}
            yield Wrapped(keys, prefix, plain, rest)


def _prefixes(names: Iterable[str], expected: Collection[str]) -> Counter[str]:
    """The prefixes of expected names, with the number of names each."""
    found = Counter()
    for name in names:
        starts = [0] + [i + 1 for i, c in enumerate(name) if c in "./"]
        found.update(name[:start] for start in starts if name[start:] in expected)
    return found


def choose(
    mappings: Mappings,
    expected: Collection[str],
    canonical: Callable[[Tensors], Tensors],
) -> tuple[int, list[Wrapped]]:
    """Return how many of the expected names the best candidates have, and these: the
    one or, where it is not clear which to take, several.

    Of a model and its average in training the average is taken, as timm does.

    **Arguments:**

    - `mappings`: What `mappings_in` found in a training state.
    - `expected`: The names of the tensors of a model.
    - `canonical`: Rewrites the spellings of names to that of `expected`.
    """
    best, most = [], 0
    for wrapped in _candidates(mappings, expected):
        count = len(canonical(wrapped.tensors).keys() & expected)
        if count > most:
            best, most = [], count
        if count == most and count > 0:
            best.append(wrapped)
    # The same tensors can be reached with a prefix or without.
    distinct = {}
    for wrapped in best:
        ids = frozenset(_address(t) for t in wrapped.tensors.values())
        same = [other for other in distinct if ids <= other or other <= ids]
        if not same:
            distinct[ids] = wrapped
    found = list(distinct.values())
    for preferred in (lambda w: w.is_average, lambda w: w.is_usual):
        chosen = [wrapped for wrapped in found if preferred(wrapped)]
        if len(found) > 1 and len(chosen) == 1:
            return most, chosen
    return most, found


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def beside(wrapped: Wrapped) -> Tensors:
    """Return the tensors beside the chosen ones that are neither counters nor another
    whole copy of the model, by their names: they would be lost."""
    copies = [
        prefix
        for prefix, count in _prefixes(wrapped.rest, wrapped.tensors).items()
        if count == len(wrapped.tensors)
    ]
    return {
        name: tensor
        for name, tensor in wrapped.rest.items()
        if not name.startswith(tuple(copies)) and not is_counter(tensor)
    }


def mappings_in(state: Mapping, keys: tuple[str, ...] = (), depth: int = 3) -> Mappings:
    """Return the tensors of a mapping of names to tensors, and of mappings in it.

    **Raises:** as `as_array`.
    """
    named = {key: value for key, value in state.items() if isinstance(key, str)}
    tensors = {key: value for key, value in named.items() if hasattr(value, "shape")}
    found = []
    if tensors:
        found.append((keys, {name: as_array(name, t) for name, t in tensors.items()}))
    for key, value in named.items() if depth else ():
        if isinstance(value, Mapping):
            found += mappings_in(value, (*keys, key), depth - 1)
    return found


_FLOATS = (np.float16, jnp.bfloat16, np.float32, np.float64)


def as_array(name: str, tensor: Any) -> np.ndarray:
    """Return a tensor of NumPy, JAX or PyTorch as an array of NumPy.

    **Raises:**

    A `ValueError` for a tensor of PyTorch that NumPy has no type for.
    """
    if isinstance(tensor, Unknown):
        raise wrong_type(name, tensor.kind)
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        if "float8" in str(tensor.dtype) or getattr(tensor, "is_quantized", False):
            raise wrong_type(name, tensor.dtype)
        if str(tensor.dtype) == "torch.bfloat16":  # which NumPy does not know
            tensor = tensor.float()
    return np.asarray(tensor)


def is_counter(array: np.ndarray) -> bool:
    """Return whether an array is a single whole number, as averages and normalisations
    count their updates."""
    return array.size == 1 and array.dtype.kind in "iub"


def is_float(array: np.ndarray) -> bool:
    """Return whether an array has one of the types of weights."""
    return array.dtype in _FLOATS
