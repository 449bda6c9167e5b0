import logging
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import equinox as eqx
import jax
import numpy as np

from ..families import families, family_of
from ..families.formats import Format, Names, Tensors
from ..layers import check_choice, check_state, LoRALinear
from .files import read_file, write_file
from .names import flatten, OWN, unflatten
from .wrappers import beside, choose, is_counter, is_float, mappings_in, Wrapped


Model = TypeVar("Model", bound=eqx.Module)
State = TypeVar("State", bound=eqx.nn.State | None)

_logger = logging.getLogger("eqx_vit")


def formats_of(model: eqx.Module) -> tuple[Format, ...]:
    """Return whose names the files of a model use, or of a part that can be used
    alone."""
    parts = {
        kind: f for family in families().values() for kind, f in family.parts.items()
    }
    if type(model) in parts:
        return parts[type(model)]
    return family_of(model).formats


def _formats(model: eqx.Module, state: eqx.nn.State | None) -> tuple[Format, ...]:
    check_state(model, state)
    return (*formats_of(model), OWN)


def publish(names: Names, arrays: Mapping) -> dict:
    """Return the published tensors, by name, of arrays of ours, by path."""
    published = {}
    for path, array in arrays.items():
        if path in names:
            published |= names[path].publish(array)
    return published


def load_weights(
    model: Model,
    source: str | os.PathLike | Mapping,
    state: State = None,
) -> tuple[Model, State]:
    """Return a model with published weights in place of its own.

    Strict: every array of the model must be in `source`, and every tensor of `source`
    in the model. The naming scheme (timm's, vit-pytorch's, ...) is recognised from the
    names. Mappings around the tensors under any key, a prefix of all names (`module.`,
    `_orig_mod.`, `model.`, ...) and counters, as training scripts write them, are taken
    off, and the logger `"eqx_vit"` says so. If the file also has a moving average of
    the weights, the average is loaded, as by timm. Works for any instance of a class,
    of published size or not, also for an abstract one made by
    `equinox.filter_eval_shape`.

    **Arguments:**

    - `model`: A model, or its shapes.
    - `source`: The path of a `.safetensors`, `.npz`, `.pth`, `.pt`, `.bin`, `.tar` or
        `.ckpt` file, or a mapping of names to arrays such as a `state_dict()` of
        PyTorch. No code in a file is run.
    - `state`: The model's running statistics, from
        `equinox.nn.make_with_state(Model)(...)`; not needed by a model without any.

    **Returns:**

    The new model and state, in the dtypes of the old. The old ones are untouched.

    **Raises:**

    A `ValueError` that lists all tensors that are missing, unexpected, of another shape
    or type or not finite; a `FileNotFoundError`.
    """
    return WeightFile(source).load(model, state)


class WeightFile:
    """The contents of a file of weights, read once to be tried on several models."""

    def __init__(self, source: str | os.PathLike | Mapping):
        """**Arguments:** as [`eqx_vit.load_weights`][]."""
        if isinstance(source, Mapping):
            self.label, self.contents = "the mapping", dict(source)
        else:
            self.label = f"`{os.fspath(source)}`"
            self.contents = read_file(Path(source))
        try:
            self._mappings = mappings_in(self.contents)
        except ValueError as error:
            raise ValueError(f"{self.label} cannot be loaded: {error}") from error

    def fit(self, model: eqx.Module, state: eqx.nn.State | None) -> "Fit":
        """Find the tensors of a model in the file.

        **Arguments:**

        - `model`, `state`: As in [`eqx_vit.load_weights`][]; shapes will do.

        **Raises:**

        A `ValueError` if the file has none of the model's names, or several sets of
        them, or names that cannot hold such a model.
        """
        kind = type(model).__name__
        arrays, formats = flatten(model, state), _formats(model, state)
        # A file can have the names of several formats: those that can hold the model
        # come first, and of these the one that leaves the fewest problems.
        tries: list[_Try] = []
        for unfit in (False, True):
            for format in formats:
                if bool(format.unfit(model)) is unfit:
                    tries.append(self._try(format, model, arrays))
            if any(best.matches and not best.fit.problems for best in tries):
                break
        best = min(tries, key=lambda best: (-best.matches, len(best.fit.problems)))
        if best.matches == 0:
            names = sorted(str(name) for name in self.contents)
            published = dict.fromkeys(f.name for f in formats if f is not OWN)
            raise ValueError(
                f"{self.label} cannot be loaded into a `{kind}`: it has none of the "
                f"names of {', '.join(published) or OWN.name}, but "
                f"{_listed(names) or 'no tensors'}."
            )
        if len(best.found) > 1:
            raise ValueError(
                f"{self.label} has several sets of weights for a `{kind}`: "
                f"{', '.join(str(w) or 'plain names' for w in best.found)}. Load the "
                "one that you want by itself, as a mapping."
            )
        if problem := best.fit.format.unfit(model):
            raise ValueError(f"{self.label} cannot be loaded: {problem}.")
        return best.fit

    def _try(self, format: Format, model: eqx.Module, arrays: Mapping) -> "_Try":
        names = format.names(model)
        wanted = jax.eval_shape(partial(publish, names), arrays)
        count, found = choose(self._mappings, wanted.keys(), format.canonical)
        wrapped = found[0] if found else Wrapped((), "", {}, {})
        beyond = re.compile(format.beyond(model))
        tensors, left_out = {}, []
        all_tensors = format.canonical(wrapped.tensors) | beside(wrapped)
        for name, tensor in all_tensors.items():
            if name not in wanted and beyond.match(name):
                left_out.append(name)
            elif name in wanted or not (
                name.endswith(format.ignored) or is_counter(tensor)
            ):
                tensors[name] = tensor
        problems = _problems(tensors, wanted, format.constants(model))
        problems += [
            f"`{path}` {array.shape} of the model has no place in {format.name}'s names"
            for path, array in arrays.items()
            if path not in names
        ]
        return _Try(count, found, Fit(format, wrapped, tensors, problems, left_out))

    def load(
        self, model: Model, state: State, fit: "Fit | None" = None
    ) -> tuple[Model, State]:
        """Return the model with the weights of the file.

        **Arguments:**

        - `model`, `state`: As in [`eqx_vit.load_weights`][].
        - `fit`: What `fit(model, state)` returned, if it is there already.

        **Raises:** as [`eqx_vit.load_weights`][].
        """
        format, wrapped, tensors, problems, left_out = fit or self.fit(model, state)
        if problems:
            raise ValueError(
                f"{self.label} cannot be loaded into this `{type(model).__name__}` by "
                f"{format.name}'s names:\n  " + "\n  ".join(problems)
            )
        if wrapped.keys or wrapped.prefix:
            kind = "the moving average" if wrapped.is_average else "the tensors"
            _logger.warning(f"{self.label}: took {kind} under {wrapped}.")
        if left_out:
            _logger.warning(
                f"{self.label}: left out {_listed(left_out, 3)}, which this "
                f"`{type(model).__name__}` has no use for."
            )
        # Copies: on a CPU an array of JAX can share the memory of one of NumPy or
        # PyTorch, which an optimiser there would change under the model. (By NumPy and
        # `device_put`, since JAX's own functions would be compiled for every shape.)
        loaded, names = {}, format.names(model)
        for path, array in flatten(model, state).items():
            value = np.asarray(names[path].read(tensors, array.shape), array.dtype)
            loaded[path] = jax.device_put(value, may_alias=False)
        return unflatten(model, state, loaded)

    def num_classes(self, model: eqx.Module, state: eqx.nn.State | None) -> int | None:
        """Return how many classes the head in the file has; 0 if there is no head.

        **Arguments:**

        - `model`, `state`: A model with a head, or its shapes.
        """
        fit = self.fit(model, state)
        format, tensors = fit.format, fit.tensors
        places = format.names(model)
        heads = [f"{path}.weight" for path in family_of(model).heads(model)]
        names = [
            name for path in heads if path in places for name in places[path].names
        ]
        axis = -1 if format.suffix == ".npz" else 0
        sizes = {tensors[name].shape[axis] for name in names if name in tensors}
        return sizes.pop() if len(sizes) == 1 else None if sizes else 0


class Fit(NamedTuple):
    """The tensors of a file for a model, or why they do not fit.

    - `format`: Whose names they have.
    - `wrapped`: Where in the file they stand.
    - `tensors`: The tensors.
    - `problems`: A line for each that is missing, unexpected or wrong.
    - `left_out`: The names of tensors for other tasks.
    """

    format: Format
    wrapped: Wrapped
    tensors: Tensors
    problems: list[str]
    left_out: list[str]


class _Try(NamedTuple):
    """The tensors of a file that a format knows.

    - `matches`: How many of the format's names it has.
    - `found`: Where they stand; several if it is not clear which to take.
    - `fit`: The tensors of the first.
    """

    matches: int
    found: list[Wrapped]
    fit: Fit


def _problems(tensors: Mapping, expected: Mapping, constants: Tensors) -> list[str]:
    problems = []
    for name in sorted({**expected, **constants}.keys() | tensors.keys()):
        wanted = expected.get(name, constants.get(name))
        if name not in tensors:
            problems.append(f"missing: {name} {wanted.shape}")
            continue
        shape = tuple(tensors[name].shape)
        if wanted is None:
            problems.append(f"unexpected: {name} {shape}")
        elif shape != wanted.shape:
            problems.append(f"of shape {shape} instead of {wanted.shape}: {name}")
        elif not is_float(tensors[name]) and tensors[name].dtype != wanted.dtype:
            kind = tensors[name].dtype
            problems.append(f"of type {kind} instead of floating-point: {name} {shape}")
        elif not np.isfinite(np.asarray(tensors[name], np.float32)).all():
            problems.append(f"not finite: {name} {shape}")
        elif name in constants and not np.allclose(
            np.asarray(tensors[name], np.float32), constants[name], atol=1e-3
        ):
            problems.append(f"not the fixed table of this model: {name} {shape}")
    return problems


def _listed(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def save_weights(
    model: eqx.Module,
    path: str | os.PathLike,
    state: eqx.nn.State | None = None,
    *,
    names: str | None = None,
) -> None:
    """Writes the weights of a model under published names, for others to load.

    The file is written whole or not at all.

    **Arguments:**

    - `model`: A model.
    - `path`: Ends in `.safetensors` or `.npz`.
    - `state`: The model's running statistics, from
        `equinox.nn.make_with_state(Model)(...)`; not needed by a model without any.
    - `names`: Whose names to write: `"timm"`, `"official"` (the authors'),
        `"transformers"`, `"vit_pytorch"`, `"vision_transformer"` or `"big_vision"`; an
        error lists those of the model. By default the first of them that can hold the
        model: timm's for `.safetensors` if timm has the model, else the authors', else
        vit-pytorch's; for `.npz` those of `vision_transformer` (`ViT`) or big_vision
        (`SimpleViT`). A model that none of them can hold is written by the paths of its
        arrays (`"eqx_vit"`), which [`eqx_vit.load_weights`][] alone reads. (Keyword
        only argument.)

    **Raises:**

    A `ValueError` if `path` ends in something else, if the names have no place for one
    of the model's arrays, or if the model has LoRA adapters.
    """
    check_merged(model)
    path, formats = Path(path), _formats(model, state)
    if path.suffix not in (".safetensors", ".npz"):
        raise ValueError(
            f"`path={str(path)!r}` must end in '.safetensors' or '.npz'; the nearest "
            f"legal value is {str(path.with_suffix('.safetensors'))!r}."
        )
    if names is None:
        paths = flatten(model, state).keys()
        published = formats_of(model)
        of_kind = [f for f in published if f.suffix == path.suffix]
        if not of_kind and (published or path.suffix != OWN.suffix):
            raise ValueError(
                f"`path={str(path)!r}`: a `{type(model).__name__}` has no published "
                "names in such files; the nearest legal value is "
                f"{str(path.with_suffix('.safetensors'))!r}."
            )
        names = next(
            format.name
            for format in (*of_kind, OWN)
            if not format.unfit(model) and paths <= format.names(model).keys()
        )
    check_choice("names", names, tuple(dict.fromkeys(f.name for f in formats)))
    of_name = [format for format in formats if format.name == names]
    fitting = [format for format in of_name if not format.unfit(model)]
    if not fitting:
        reasons = dict.fromkeys(str(format.unfit(model)) for format in of_name)
        raise ValueError(f"`{path}` cannot be written: {'; '.join(reasons)}.")
    format = max(fitting, key=lambda format: format.prefers(model))
    write_weights(model, path, state, format)


def check_merged(model: eqx.Module) -> None:
    """Raise a `ValueError` if a model has LoRA adapters, for which the names of weights
    have no place."""
    is_adapted = lambda x: isinstance(x, LoRALinear)
    if any(map(is_adapted, jax.tree.leaves(model, is_leaf=is_adapted))):
        raise ValueError(
            "`model` has LoRA adapters; save them with `eqx_vit.save_adapter`, or "
            "merge them first with `eqx_vit.merge_lora`."
        )


def write_weights(
    model: eqx.Module, path: Path, state: eqx.nn.State | None, format: Format
) -> None:
    """As `save_weights`, in a format that can hold the model."""
    arrays = {name: np.asarray(array) for name, array in flatten(model, state).items()}
    table = format.names(model)
    homeless = [f"`{n}` {a.shape}" for n, a in arrays.items() if n not in table]
    if homeless:
        raise ValueError(
            f"`{path}` cannot be written by {format.name}'s names, which have no "
            "place for:\n  " + "\n  ".join(homeless)
        )
    tensors = publish(table, arrays) | format.constants(model)
    write_file(path, format.spell(model, tensors))
