import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import equinox as eqx
import jax
import numpy as np

from ..layers import check_choice
from ..models import (
    CaiT,
    CrossFormer,
    CrossViT,
    CvT,
    DeepViT,
    LeViT,
    NesT,
    ParallelViT,
    PatchMerger,
    PatchMergerViT,
    PiT,
    RegionViT,
    ScalableViT,
    SimpleViT,
    SmallDatasetViT,
    SPT,
    T2TViT,
    TwinsSVT,
    ViT,
)
from . import (
    cait,
    cross_former,
    cross_vit,
    cvt,
    deep_vit,
    levit,
    nest,
    parallel_vit,
    patch_merger_vit,
    pit,
    region_vit,
    scalable_vit,
    small_dataset_vit,
    t2t_vit,
    twins_svt,
    vit,
)
from ._files import read_file, unwrap, write_file
from ._names import flatten, Format, Names, Tensors, unflatten


Model = TypeVar("Model", bound=eqx.Module)
State = TypeVar("State", bound=eqx.nn.State | None)

_FORMATS: dict[type[eqx.Module], tuple[Format, ...]] = {
    CaiT: cait.FORMATS,
    CrossFormer: cross_former.FORMATS,
    CrossViT: cross_vit.FORMATS,
    CvT: cvt.FORMATS,
    DeepViT: deep_vit.FORMATS,
    LeViT: levit.FORMATS,
    NesT: nest.FORMATS,
    ParallelViT: parallel_vit.FORMATS,
    PatchMerger: patch_merger_vit.PATCH_MERGER_FORMATS,
    PatchMergerViT: patch_merger_vit.FORMATS,
    PiT: pit.FORMATS,
    RegionViT: region_vit.FORMATS,
    ScalableViT: scalable_vit.FORMATS,
    SimpleViT: vit.SIMPLE_VIT_FORMATS,
    SmallDatasetViT: small_dataset_vit.FORMATS,
    SPT: small_dataset_vit.SPT_FORMATS,
    T2TViT: t2t_vit.FORMATS,
    TwinsSVT: twins_svt.FORMATS,
    ViT: vit.VIT_FORMATS,
}


def _formats(model: eqx.Module, state: eqx.nn.State | None) -> dict[str, Format]:
    if state is None and isinstance(model, eqx.nn.StatefulLayer):
        raise ValueError(
            f"`state=None`, but a `{type(model).__name__}` has running statistics; "
            "pass the state that `equinox.nn.make_with_state` made."
        )
    if type(model) not in _FORMATS:
        raise ValueError(
            f"`model` is a `{type(model).__name__}`, for which no published names are "
            f"known; they are for {', '.join(c.__name__ for c in _FORMATS)}."
        )
    return {format.name: format for format in _FORMATS[type(model)]}


def _publish(names: Names, arrays: Mapping) -> dict:
    published = {}
    for path, array in arrays.items():
        if path in names:
            published |= names[path].publish(array)
    return published


def load_weights(
    model: Model,
    state: State,
    source: str | os.PathLike | Mapping,
) -> tuple[Model, State]:
    """A model with published weights in place of its own.

    Strict: every array of the model must be in `source`, and every tensor of `source`
    in the model. Which names the file uses (timm's, vit-pytorch's, ...) is recognised
    from them. Works for any instance of a class, of published size or not, also for an
    abstract one made by `equinox.filter_eval_shape`.

    **Arguments:**

    - `model`, `state`: As returned by `equinox.nn.make_with_state(Model)(...)`. `state`
        may be `None` for a model without.
    - `source`: The path of a `.safetensors`, `.npz`, `.pth`, `.pt`, `.bin` or `.tar`
        file, or a mapping of names to arrays such as a `state_dict()` of PyTorch. No
        code in a file is run.

    **Returns:**

    The new model and state, in the dtypes of the old. The old ones are untouched.

    **Raises:**

    A `ValueError` that lists all tensors that are missing, unexpected, of another shape
    or not finite; a `FileNotFoundError`.
    """
    if isinstance(source, Mapping):
        label, tensors = "the mapping", dict(source)
    else:
        label, tensors = f"`{os.fspath(source)}`", read_file(Path(source))
    tensors = unwrap(tensors)
    formats = _formats(model, state).values()
    arrays = flatten(model, state)

    def expected(format):
        return jax.eval_shape(partial(_publish, format.names(model)), arrays)

    def overlap(format):
        return len(expected(format).keys() & format.canonical(tensors).keys())

    format = max(formats, key=overlap)
    if not overlap(format):
        raise ValueError(
            f"{label} cannot be loaded into a `{type(model).__name__}`: it has none of "
            f"the names of {', '.join(f.name for f in formats)}, but "
            f"{_listed(sorted(tensors)) or 'no tensors'}."
        )
    if problem := format.unfit(model):
        raise ValueError(f"{label} cannot be loaded: {problem}.")
    tensors = format.canonical(tensors)
    names, constants = format.names(model), format.constants(model)
    wanted = expected(format)
    tensors = {
        name: tensor
        for name, tensor in tensors.items()
        if name in wanted or not name.endswith(format.ignored)
    }
    problems = _problems(tensors, wanted, constants)
    problems += [
        f"`{path}` {array.shape} of the model has no place in {format.name}'s names"
        for path, array in arrays.items()
        if path not in names
    ]
    if problems:
        raise ValueError(
            f"{label} cannot be loaded into this `{type(model).__name__}` by "
            f"{format.name}'s names:\n  " + "\n  ".join(problems)
        )
    # Copies: on a CPU an array of JAX can share the memory of one of NumPy or PyTorch,
    # which an optimiser there would change under the model. (By NumPy and `device_put`,
    # since JAX's own functions would be compiled for every shape.)
    loaded = {}
    for path, array in arrays.items():
        value = np.asarray(names[path].read(tensors, array.shape), array.dtype)
        loaded[path] = jax.device_put(value, may_alias=False)
    return unflatten(model, state, loaded)


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
    state: eqx.nn.State | None,
    path: str | os.PathLike,
    *,
    names: str | None = None,
) -> None:
    """Writes the weights of a model under published names, for others to load.

    The file is written whole or not at all.

    **Arguments:**

    - `model`, `state`: As returned by `equinox.nn.make_with_state(Model)(...)`. `state`
        may be `None` for a model without.
    - `path`: Ends in `.safetensors` or `.npz`.
    - `names`: Whose names to write: `"timm"`, `"official"` (the authors'),
        `"vit_pytorch"`, `"vision_transformer"` or `"big_vision"`; an error lists those
        of the model. By default timm's for `.safetensors` if timm has the model, else
        the authors', else vit-pytorch's; for `.npz` those of `vision_transformer`
        (`ViT`) or big_vision (`SimpleViT`). (Keyword only argument.)

    **Raises:**

    A `ValueError` if `path` ends in something else, or if the names have no place for
    one of the model's arrays.
    """
    path, formats = Path(path), _formats(model, state)
    if path.suffix not in (".safetensors", ".npz"):
        raise ValueError(
            f"`path={str(path)!r}` must end in '.safetensors' or '.npz'; the nearest "
            f"legal value is {str(path.with_suffix('.safetensors'))!r}."
        )
    if names is None:
        fitting = [f.name for f in formats.values() if f.suffix == path.suffix]
        if not fitting:
            raise ValueError(
                f"`path={str(path)!r}`: a `{type(model).__name__}` has no published "
                "names in such files; the nearest legal value is "
                f"{str(path.with_suffix('.safetensors'))!r}."
            )
        names = fitting[0]
    check_choice("names", names, tuple(formats))
    format = formats[names]
    if problem := format.unfit(model):
        raise ValueError(f"`{path}` cannot be written: {problem}.")
    arrays = {name: np.asarray(array) for name, array in flatten(model, state).items()}
    table = format.names(model)
    homeless = [f"`{n}` {a.shape}" for n, a in arrays.items() if n not in table]
    if homeless:
        raise ValueError(
            f"`{path}` cannot be written by {names}'s names, which have no place for:"
            "\n  " + "\n  ".join(homeless)
        )
    write_file(path, _publish(table, arrays) | format.constants(model))
