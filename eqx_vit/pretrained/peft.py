"""Adapters in the files of peft, Hugging Face's library."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..families import find_family
from ..families.formats import Format, Names, Tensor, Tensors
from ..layers import adapted, check_choice, Linear, LoRALinear
from .files import read_file, whole_file, write_file
from .names import flatten, unflatten
from .weights import formats_of, publish


Model = TypeVar("Model", bound=eqx.Module)

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_([AB])\.weight")
_PARAMETER = re.compile(r"(.+)\.(weight|bias)")

# Settings with which peft computes something else than a plain LoRA.
_OTHER = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)
# Initial values that leave the weights of the model as they are.
_INITIAL = (True, False, None, "gaussian", "orthogonal", "eva")

# How many wrong tensors an error lists.
_MOST = 20


class _Module(NamedTuple):
    """A module of theirs, which is a part of a linear layer of ours.

    - `path`: The path of our layer.
    - `block`: The index along the leading axes of a stack.
    - `rows`: The outputs of our layer, in their order.
    - `columns`: The inputs of our layer, in the layout of one output of theirs (that of
        a convolution has several axes).
    """

    path: str
    block: tuple[int, ...]
    rows: np.ndarray
    columns: np.ndarray


_Modules = dict[str, _Module]


def save_adapter(
    model: eqx.Module,
    folder: str | os.PathLike,
    *,
    base: str | None = None,
    names: str | None = None,
) -> None:
    """Writes the adapters of a model, and its head, as peft does:
    `peft.PeftModel.from_pretrained(MODEL, FOLDER)` puts them on timm's or transformers'
    model of the same weights. So does [`eqx_vit.load_adapter`][].

    The folder holds `adapter_model.safetensors` and `adapter_config.json`. An adapter
    beside queries, keys and values in one is three adapters where the library has three
    layers.

    **Arguments:**

    - `model`: From [`eqx_vit.lora`][].
    - `folder`: The folder; made if it does not exist.
    - `base`: The name of the pretrained model, which peft notes. (All others are
        keyword only arguments.)
    - `names`: Whose names to write, `"timm"` or `"transformers"` (as inside
        transformers 5); an error lists those of the model. By default the first that
        [`eqx_vit.save_weights`][] would take. `"eqx_vit"`, which any model has, only
        [`eqx_vit.load_adapter`][] reads.

    **Raises:**

    A `ValueError` if the model has no adapters, if they have different rates of
    dropout, or if the names have no place for one of them.
    """
    folder = Path(folder)
    layers = {path: x for path, x in _linears(model) if isinstance(x, LoRALinear)}
    if not layers:
        raise ValueError("`model` has no adapters; make them with `eqx_vit.lora`.")
    rates = sorted({layer.dropout.p for layer in layers.values()})
    if len(rates) > 1:
        raise ValueError(
            f"`model` has adapters with the dropout rates {rates}; peft's files have "
            "one rate. Set one for all."
        )
    plain = _plain(model)
    format = _chosen(plain, names)
    modules = next(_spellings(format, plain))
    saved = _heads(plain, layers)
    tensors, ranks, alphas, kept = {}, {}, {}, []
    covered = Counter()
    for name, (path, index, rows, columns) in modules.items():
        if path in saved:
            kept.append(name)
            weight, bias = saved[path].weight[index], saved[path].bias
            tensors[f"{name}.weight"] = _gathered(weight, rows, columns)
            if bias is not None:
                tensors[f"{name}.bias"] = np.asarray(bias[index])[rows]
        if path in layers:
            layer = layers[path]
            covered[path] += len(rows)
            down, up = np.asarray(layer.down[index]), np.asarray(layer.up[index])
            ones = (columns.ndim - 1) * (1,)
            tensors[f"{name}.lora_A.weight"] = down[:, columns]
            tensors[f"{name}.lora_B.weight"] = up[rows].reshape(len(rows), -1, *ones)
            ranks[name] = len(down)
            alphas[name] = layer.scale * len(down)
    wanted = {path: layer.up[..., 0].size for path, layer in layers.items()}
    homeless = [path for path, size in wanted.items() if covered[path] != size]
    if homeless:
        raise ValueError(
            f"`{folder}` cannot be written by {format.name}'s names, where these "
            f"layers are no modules: {', '.join(homeless)}. Merge the adapters with "
            "`eqx_vit.merge_lora`, or give `names='eqx_vit'`."
        )
    rank, alpha = (_most_common(numbers) for numbers in (ranks, alphas))
    config = dict(
        peft_type="LORA",
        task_type=None,
        base_model_name_or_path=base,
        inference_mode=True,
        r=rank,
        lora_alpha=alpha,
        lora_dropout=float(rates[0]),
        use_rslora=False,
        rank_pattern={name: r for name, r in ranks.items() if r != rank},
        alpha_pattern={name: a for name, a in alphas.items() if a != alpha},
        target_modules=_targets(list(ranks), modules),
        modules_to_save=kept or None,
        bias="none",
        fan_in_fan_out=False,
        init_lora_weights=True,
    )
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{_PREFIX}{name}": tensor for name, tensor in tensors.items()}
    write_file(folder / _WEIGHTS, tensors)
    text = json.dumps(config, indent=2, ensure_ascii=False)
    with whole_file(folder / _CONFIG) as new:
        new.write_text(text + "\n", encoding="utf-8")


def load_adapter(model: Model, folder: str | os.PathLike) -> Model:
    """Return a model with the adapters of a folder that peft or
    [`eqx_vit.save_adapter`][] wrote, and with the head in it.

    Their names are recognised as those of timm, of transformers 4 or 5, or of the
    authors. Three adapters beside queries, keys and values are one adapter here, of
    three times the rank, where the model has one layer for the three. A block that the
    file has no adapter for has one of zeros, which training does not change.

    **Arguments:**

    - `model`: The model with the pretrained weights that the adapters were trained on,
        and a head of as many classes as the file's.
    - `folder`: The folder.

    **Returns:**

    The model with adapters; [`eqx_vit.merge_lora`][] makes a plain one of it.

    **Raises:**

    A `ValueError` that names the file and what in it is not a plain LoRA, or has no
    place in the model; a `FileNotFoundError`.
    """
    folder = Path(folder)
    if any(isinstance(layer, LoRALinear) for _, layer in _linears(model)):
        raise ValueError(
            "`model` has adapters; give the model without, or merge them first with "
            "`eqx_vit.merge_lora`."
        )
    config = _read_config(folder / _CONFIG)
    path = folder / _WEIGHTS
    tensors = {
        name.removeprefix(_PREFIX): np.asarray(tensor, np.float32)
        for name, tensor in read_file(path).items()
    }
    modules, (pairs, saved, problems) = _matching(model, tensors)
    layers = dict(_linears(model))
    if problems or not pairs:
        problems = problems or ["it has no `lora_A.weight`"]
        if len(problems) > _MOST:
            problems[_MOST:] = [f"and {len(problems) - _MOST} more"]
        raise ValueError(
            f"`{path}` cannot be put on this `{type(model).__name__}`:\n  "
            + "\n  ".join(problems)
        )
    parts: dict[str, list[_Part]] = {}
    for name, (down, up) in pairs.items():
        scale = _scale(config, name, len(down))
        part = _Part(modules[name], down, up, scale)
        parts.setdefault(modules[name].path, []).append(part)
    rate = float(config.get("lora_dropout") or 0.0)
    new = {p: _joined(layers[p], found, rate) for p, found in parts.items()}
    model = _with_saved(model, modules, layers, saved)
    layers = dict(_linears(model))

    def put(path: tuple, x: Any) -> Any:
        return new.get(_spelt(path), x)

    return jax.tree_util.tree_map_with_path(put, model, is_leaf=_is_linear)


class _Part(NamedTuple):
    module: _Module
    down: np.ndarray
    up: np.ndarray
    scale: float


def _joined(layer: Linear, parts: list[_Part], rate: float) -> LoRALinear:
    """A layer with the adapters of all modules that it is there."""
    *stack, outputs, inputs = layer.weight.shape
    scale, blocks = parts[0].scale, {}
    for module, down, up, own in parts:
        ours = np.zeros((len(down), inputs), np.float32)
        ours[:, module.columns] = down
        wide = np.zeros((outputs, len(down)), np.float32)
        wide[module.rows] = up.reshape(len(up), -1) * (own / scale)
        # Parts that read the same numbers share them.
        shared = blocks.setdefault(module.block, {})
        before = shared.get(ours.tobytes(), (ours, 0))[1]
        shared[ours.tobytes()] = ours, before + wide
    rank = max(sum(len(d) for d, _ in b.values()) for b in blocks.values())
    down = np.zeros((*stack, rank, inputs), np.float32)
    up = np.zeros((*stack, outputs, rank), np.float32)
    for index, shared in blocks.items():
        downs, ups = zip(*shared.values())
        joined = np.concatenate(downs)
        down[(*index, slice(len(joined)))] = joined
        up[(*index, slice(None), slice(len(joined)))] = np.concatenate(ups, axis=1)
    dtype = layer.weight.dtype
    return adapted(layer, jnp.asarray(down, dtype), jnp.asarray(up, dtype), scale, rate)


def _with_saved(
    model: Any, modules: _Modules, layers: Mapping[str, Linear], saved: Tensors
) -> Any:
    """The model with the layers that the file has as a whole."""
    arrays = {}
    for name, tensor in saved.items():
        module, kind = name.rsplit(".", 1)
        path, index, rows, columns = modules[module]
        place = f"{path}.{kind}"
        array = arrays.setdefault(place, np.array(getattr(layers[path], kind)))
        if kind == "weight":
            array[(*index, *_grid(rows, columns))] = tensor.reshape(len(rows), -1)
        else:
            array[(*index, rows)] = tensor
    arrays = {path: jnp.asarray(array) for path, array in arrays.items()}
    return unflatten(model, None, arrays)[0]


def _grid(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows[:, None], columns.reshape(1, -1)


def _gathered(weight: Any, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    gathered = np.asarray(weight)[_grid(rows, columns)]
    return gathered.reshape(len(rows), *columns.shape)


def _read_config(path: Path) -> dict[str, Any]:
    """The settings of an adapter that is a plain LoRA."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`{path}` is not JSON: {error}.") from error
    if not isinstance(config, dict):
        raise ValueError(f"`{path}` has no settings by name, but {config!r:.40}.")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ValueError(
            f"`{path}` has `peft_type={kind!r}`; only 'LORA' can be loaded. Merge the "
            "adapter with peft's `merge_and_unload()` and load the weights."
        )
    found = [name for name in _OTHER if config.get(name)]
    if config.get("bias", "none") != "none":
        found.append("bias")
    if config.get("init_lora_weights") not in _INITIAL:
        found.append("init_lora_weights")
    if found:
        settings = ", ".join(f"`{name}={config[name]!r}`" for name in found)
        raise ValueError(
            f"`{path}` has {settings}; only a plain LoRA can be loaded, without them. "
            "Merge the adapter with peft's `merge_and_unload()` and load the weights."
        )
    return config


def _scale(config: Mapping[str, Any], name: str, rank: int) -> float:
    """What peft multiplies the adapter of a module by."""
    alpha = config.get("lora_alpha", 8)
    for key, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({key})$", name):
            alpha = value
            break
    return float(alpha / (rank**0.5 if config.get("use_rslora") else rank))


class _Sorted(NamedTuple):
    """The tensors of a file for the modules of a format.

    - `pairs`: The two factors for each module.
    - `saved`: The tensors of modules that are there as a whole.
    - `problems`: A line for each tensor that is missing, unexpected or wrong.
    """

    pairs: dict[str, tuple[np.ndarray, np.ndarray]]
    saved: Tensors
    problems: list[str]


def _sorted_out(modules: _Modules, tensors: Tensors) -> _Sorted:
    factors, saved, problems = {}, {}, []
    for name, tensor in sorted(tensors.items()):
        factor, parameter = _FACTOR.fullmatch(name), _PARAMETER.fullmatch(name)
        known = factor or parameter
        if known is None or known[1] not in modules:
            problems.append(f"not a linear layer of the model: {name} {tensor.shape}")
        elif not np.isfinite(tensor).all():
            problems.append(f"not finite: {name} {tensor.shape}")
        elif factor:
            factors.setdefault(factor[1], {})[factor[2]] = tensor
        else:
            _, _, rows, columns = modules[known[1]]
            inputs = columns.shape if known[2] == "weight" else ()
            shape = (len(rows), *inputs)
            saved[name] = tensor
            if tensor.shape != shape:
                problems.append(
                    f"of shape {tensor.shape} instead of {shape}: {name} "
                    "(`eqx_vit.reset_head` makes a head of other classes)"
                )
    pairs = {}
    for name, both in factors.items():
        if len(both) < 2:
            missing = "B" if "A" in both else "A"
            problems.append(f"missing: {name}.lora_{missing}.weight")
            continue
        pairs[name] = down, up = both["A"], both["B"]
        _, _, rows, columns = modules[name]
        shape = (len(rows), len(down), *(columns.ndim - 1) * (1,))
        if down.shape[1:] != columns.shape:
            wanted = (len(down), *columns.shape)
            problems.append(
                f"of shape {down.shape} instead of {wanted}: {name}.lora_A.weight"
            )
        if up.shape != shape:
            problems.append(
                f"of shape {up.shape} instead of {shape}: {name}.lora_B.weight"
            )
    return _Sorted(pairs, saved, problems)


def _matching(model: eqx.Module, tensors: Tensors) -> tuple[_Modules, _Sorted]:
    """The modules of the format that has most of the names of a file, and of these in
    most of the shapes."""
    best = None
    for format in _formats(model):
        modules: _Modules = {}
        for spelling in _spellings(format, model):
            modules = spelling | modules
        found = modules, _sorted_out(modules, tensors)
        if best is None or len(found[1].problems) < len(best[1].problems):
            best = found
    assert best is not None
    return best


def _chosen(model: eqx.Module, names: str | None) -> Format:
    formats = _formats(model)
    if names is None:
        paths = flatten(model, None).keys()
        whole = (f for f in formats[:-1] if paths <= f.names(model).keys())
        return next(whole, formats[-1])
    check_choice("names", names, tuple(dict.fromkeys(f.name for f in formats)))
    fitting = [format for format in formats if format.name == names]
    return max(fitting, key=lambda format: format.prefers(model))


def _formats(model: eqx.Module) -> list[Format]:
    """Whose names the modules of a model have; ours last."""
    published = formats_of(model) if find_family(model) else ()
    fitting = [f for f in published if f.suffix != ".npz" and not f.unfit(model)]
    return [*fitting, Format("eqx_vit", ".safetensors", _own_modules)]


def _own_modules(model: eqx.Module) -> Names:
    """The path of each linear layer, with the index in a stack behind."""
    return {
        f"{path}.weight": Tensor(
            f"{path}{(layer.weight.ndim - 2) * '.{}'}.weight",
        )
        for path, layer in _linears(model)
    }


def _spellings(format: Format, model: eqx.Module) -> Iterator[_Modules]:
    """The modules by all names that are in use: as a part of a class with a head and
    without, inside the library and in its files. The first is the one to write."""
    layers = dict(_linears(model))
    names = format.names(model)
    starts, start = [], 1
    arrays: dict[str, Any] = {
        path: np.broadcast_to(np.zeros((), array.dtype), array.shape)
        for path, array in flatten(model, None).items()
    }
    rows, columns = dict(arrays), dict(arrays)
    # Arrays that tell where each number comes from, and go through the same functions
    # as the weights.
    for path, layer in layers.items():
        *leading, inputs = layer.weight.shape
        size = int(np.prod(leading))
        numbers = start + np.arange(size).reshape(*leading, 1)
        rows[f"{path}.weight"] = np.broadcast_to(numbers, layer.weight.shape)
        columns[f"{path}.weight"] = np.broadcast_to(
            1 + np.arange(inputs), layer.weight.shape
        )
        starts.append(start)
        start += size
    places = list(layers.items())
    identity = lambda tensors: tensors
    spell = partial(format.spell, model)
    published = [publish(names, numbered) for numbered in (rows, columns)]
    for outer in (spell, identity):
        for live in (format.live, identity):
            their_rows, their_columns = (live(outer(p)) for p in published)
            found = {}
            for name, numbers in their_rows.items():
                if not name.endswith(".weight") or np.ndim(numbers) < 2:
                    continue
                # (Arrays of other layers are zero.)
                numbers = np.asarray(numbers).reshape(len(numbers), -1)[:, 0]
                if not numbers.all():
                    continue
                which = int(np.searchsorted(starts, numbers[0], "right")) - 1
                path, layer = places[which]
                *stack, outputs, _ = layer.weight.shape
                flat = numbers.astype(int) - starts[which]
                index = np.unravel_index(int(flat[0]) // outputs, stack or (1,))
                found[name.removesuffix(".weight")] = _Module(
                    path,
                    tuple(map(int, index)) if stack else (),
                    flat % outputs,
                    np.asarray(their_columns[name])[0].astype(int) - 1,
                )
            yield found


def _targets(names: list[str], modules: _Modules) -> list[str] | str:
    """How peft finds the modules: by the ends of their names, or by a pattern where
    another module ends so."""
    ends = tuple(f".{name}" for name in names)
    others = modules.keys() - set(names)
    if any(other.endswith(ends) for other in others):
        return "|".join(map(re.escape, names))
    return names


def _heads(model: Any, layers: Mapping[str, LoRALinear]) -> dict[str, Linear]:
    """The heads that have no adapter, which are saved as a whole."""
    family = find_family(model)
    paths = {} if family is None else family.heads(model)
    return {
        path: layer
        for path, layer in _linears(model)
        if path in paths and path not in layers
    }


def _plain(model: Any) -> Any:
    """The model without its adapters."""
    return jax.tree.map(
        lambda x: x.base() if isinstance(x, LoRALinear) else x,
        model,
        is_leaf=_is_linear,
    )


def _linears(model: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(model, is_leaf=_is_linear)
    return [(_spelt(path), layer) for path, layer in leaves if _is_linear(layer)]


def _is_linear(x: Any) -> bool:
    return type(x) in (Linear, LoRALinear)


def _spelt(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _most_common(numbers: Mapping[str, float]) -> Any:
    number = Counter(numbers.values()).most_common(1)[0][0]
    return int(number) if number == int(number) else number
