"""Repositories and folders with the `config.json` of timm or transformers."""

import difflib
import functools
import inspect
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax

from ..families import families, Family
from ..families.configs import Config, Kind
from ..layers import pair
from .hub import commit_of, hub_file
from .preprocessor import INTERPOLATIONS, read_preprocessor
from .record import Record
from .run_folder import run_config
from .zoo import zoo


_logger = logging.getLogger("eqx_vit")

_HUB = ("hf-hub:", "hf_hub:")
_LOCAL = ("local-dir:", "local_dir:")

# The files of weights that are looked for, in this order.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def is_repository(name: Any) -> bool:
    """Whether a name is one of a repository of the hub, or of a folder of weights with
    a `config.json` that `eqx-vit train` has not written."""
    if not isinstance(name, str) or name in zoo or name in families():
        return False
    if name.startswith((*_HUB, *_LOCAL)):
        return True
    try:
        return (Path(name) / "config.json").is_file() and run_config(name) is None
    except (OSError, ValueError):
        return False


def at_revision(name: str, revision: str | None) -> str:
    """The name of a repository at a revision.

    **Raises:**

    A `ValueError` if it is not one of the hub, or has another revision.
    """
    if revision is None:
        return name
    if not name.startswith(_HUB):
        raise ValueError(
            f"`revision={revision!r}` goes with a repository of the hub, "
            f"`hf-hub:user/name`; `name={name!r}` has no revisions."
        )
    known = name.partition("@")[2]
    if known and known != revision:
        raise ValueError(
            f"`name={name!r}` and `revision={revision!r}` are two revisions; give one."
        )
    return name if known else f"{name}@{revision}"


def repository_record(name: str) -> Record:
    """The record of a repository or a folder, from its configuration.

    **Arguments:**

    - `name`: `"hf-hub:user/name"`, with a revision as `"hf-hub:user/name@revision"`;
        `"local-dir:PATH"`, or the path of a folder.

    **Raises:**

    As [`eqx_vit.create_model`][].
    """
    source = _source(name)
    if source.folder is None:
        return _record_of_hub(source)
    stamps = []
    for name in ("config.json", "preprocessor_config.json", "processor_config.json"):
        path = source.folder / name
        stamps.append(path.stat().st_mtime_ns if path.exists() else None)
    return _record_of_folder(source, tuple(stamps))


@dataclass(frozen=True)
class _Source:
    """Where files are: in a repository of the hub, or in a folder.

    - `name`: As it was typed.
    - `repository`, `revision`: On the hub.
    - `folder`: On this machine.
    """

    name: str
    repository: str
    revision: str | None
    folder: Path | None

    def find(self, file: str) -> Path | None:
        """The path of one of its files, or `None` if it has no such file.

        **Raises:**

        A `ValueError` for a path that leads elsewhere; as `hub_file`.
        """
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise ValueError(f"`{self.name}` names `{file}`, which is not in it.")
        if self.folder is not None:
            path = self.folder / file
            return path if path.is_file() else None
        try:
            return hub_file(self.repository, file, self.revision)
        except FileNotFoundError:
            return None

    def json(self, file: str) -> Config | None:
        """The contents of one of its files, or `None` if it has no such file.

        **Raises:**

        A `ValueError` if it is damaged.
        """
        path = self.find(file)
        if path is None:
            return None
        try:
            contents = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"`{file}` of `{self.name}` is damaged: {error}."
            ) from error
        if not isinstance(contents, dict):
            raise ValueError(
                f"`{file}` of `{self.name}` is damaged: it is not a JSON object."
            )
        return contents


def _source(name: str) -> _Source:
    for prefix in _HUB:
        if name.startswith(prefix):
            repository, _, revision = name.removeprefix(prefix).partition("@")
            return _Source(name, repository, revision or None, None)
    path = name
    for prefix in _LOCAL:
        path = path.removeprefix(prefix)
    folder = Path(path).absolute()
    if not folder.is_dir():
        raise FileNotFoundError(f"`{name}`: there is no folder `{folder}`.")
    return _Source(name, "", None, folder)


@functools.cache
def _record_of_hub(source: _Source) -> Record:
    return _read_record(source)


@functools.cache
def _record_of_folder(source: _Source, stamps: tuple[int | None, ...]) -> Record:
    return _read_record(source)


def _read_record(source: _Source) -> Record:
    config = source.json("config.json")
    if config is None:
        raise ValueError(
            f"`{source.name}` has no `config.json`, so nothing says which model it "
            "holds. Give the name of a model and the file of weights instead: "
            "`create_model(name, weights=FILE)`."
        )
    try:
        if "architecture" in config:
            return _of_timm(source, config)
        return _of_transformers(source, config)
    except ValueError as error:
        if source.name in str(error):
            raise
        raise ValueError(f"`{source.name}` cannot be loaded: {error}.") from error
    except (TypeError, KeyError, AttributeError, IndexError, ZeroDivisionError) as e:
        # (jaxtyping says in its first lines which argument is wrong.)
        lines = [line for line in str(e).splitlines() if line.strip()]
        raise ValueError(
            f"`config.json` of `{source.name}` is damaged: {type(e).__name__}: "
            f"{' '.join(lines[:3])[:300]}"
        ) from e


def _revision(source: _Source) -> str | None:
    """The commit that was read, so that weights and configuration agree."""
    if source.folder is not None:
        return None
    path = source.find("config.json")
    return (path and commit_of(path)) or source.revision


def _record(
    source: _Source,
    model: type,
    settings: Mapping[str, Any],
    num_classes: int,
    classes: tuple[str, ...] | None,
    file: str | None,
    pixels: Mapping[str, Any],
    antialias: bool,
    licence: str | None,
) -> Record:
    """A record, once it is known that the class can be built from the settings."""
    if type(num_classes) is not int or num_classes < 0:
        raise ValueError(f"`num_classes={num_classes!r}` is not a number of classes")
    if pixels["interpolation"] not in INTERPOLATIONS.values():
        known = ", ".join(map(repr, INTERPOLATIONS.values()))
        raise ValueError(
            f"`interpolation={pixels['interpolation']!r}`; it must be one of {known}"
        )
    if not all(0 < value < math.inf for value in (*pixels["std"], pixels["crop"])):
        raise ValueError(
            f"`std={pixels['std']}` and `crop={pixels['crop']}` must be above 0"
        )
    legal = inspect.signature(model).parameters
    settings = {name: value for name, value in settings.items() if name in legal}
    if classes is not None and len(classes) != num_classes:
        raise ValueError(
            f"`config.json` of `{source.name}` names {len(classes)} classes, and the "
            f"head has {num_classes}"
        )
    make = eqx.nn.make_with_state(model)
    eqx.filter_eval_shape(  # which raises for what the class cannot be
        make, **settings, num_classes=num_classes, key=jax.random.key(0)
    )
    return Record(
        name=source.name,
        model=model,
        settings=MappingProxyType(settings),
        num_classes=num_classes,
        source=source.repository if source.folder is None else str(source.folder),
        file=file,
        revision=_revision(source),
        licence=licence,
        top1=None,
        parameters=None,
        paper=None,
        classes=classes,
        antialias=antialias,
        **pixels,
    )


def _of_timm(source: _Source, config: Config) -> Record:
    name = str(config["architecture"]).partition(".")[0]
    variants = {
        name: (family, variant)
        for family in families().values()
        for name, variant in family.variants.items()
    }
    if name not in variants:
        nearest = difflib.get_close_matches(name, variants, n=3, cutoff=0)
        raise ValueError(
            f"`{source.name}` holds a `{name}` of timm, which is none of the "
            f"architectures here; the nearest are {', '.join(nearest)}"
        )
    family, variant = variants[name]
    # (Older configs have all in one object.)
    pretrained = config.get("pretrained_cfg", config)
    changes = family.read_timm(variant.settings, config.get("model_args") or {})
    channels, height, width = pretrained.get("input_size", (3, *2 * (variant.side,)))
    num_classes = config.get("num_classes", pretrained.get("num_classes", 1000))
    num_classes = changes.pop("num_classes", num_classes)
    channels = changes.pop("channels", channels)
    size = pair(changes.pop("image_size", (height, width)))
    settings = {**variant.settings, **changes}
    settings |= family.size_arguments(settings, size)
    if channels != 3:
        settings["channels"] = channels
    labels = config.get("label_names", pretrained.get("label_names"))
    pixels = dict(
        image_size=size,
        mean=tuple(pretrained.get("mean", (0.485, 0.456, 0.406))),
        std=tuple(pretrained.get("std", (0.229, 0.224, 0.225))),
        crop=pretrained.get("crop_pct", 0.875),
        crop_mode=pretrained.get("crop_mode", "center"),
        interpolation=pretrained.get("interpolation", "bicubic"),
    )
    if pixels["crop_mode"] not in ("center", "squash"):
        raise ValueError(
            f"`crop_mode={pixels['crop_mode']!r}`; it must be 'center' or 'squash'"
        )
    return _record(
        source,
        variant.model,
        settings,
        num_classes,
        _labels(labels),
        pretrained.get("hf_hub_filename"),
        pixels,
        True,
        pretrained.get("license"),
    )


def _labels(labels: Any) -> tuple[str, ...] | None:
    """Class names, from a list or from a mapping of their places."""
    if not labels:
        return None
    if isinstance(labels, Mapping):
        places = {int(place): str(label) for place, label in labels.items()}
        if sorted(places) != list(range(len(places))):
            raise ValueError("the places of its labels have gaps")
        return tuple(places[place] for place in range(len(places)))
    return tuple(map(str, labels))


def _of_transformers(source: _Source, config: Config) -> Record:
    family, kind = _kind_of(source, config)
    arguments = kind.read(config)
    num_classes = arguments.pop("num_classes")
    held = pair(arguments["image_size"])
    if arguments.get("channels") == 3:
        del arguments["channels"]
    labels = _labels(config.get("id2label")) if num_classes else None
    # (The library writes these where the classes have no names.)
    if labels and all(name == f"LABEL_{i}" for i, name in enumerate(labels)):
        labels = None
    if labels and len(labels) != num_classes:  # an embedding, of no classes
        labels = None
    pixels = _preprocessing(source, held)
    if not kind.any_size:
        pixels["image_size"] = held
    return _record(
        source,
        family.model,
        arguments,
        num_classes,
        labels,
        None,
        pixels,
        kind.antialias,
        None,
    )


def _kind_of(source: _Source, config: Config) -> tuple[Family, Kind]:
    model_type = config.get("model_type")
    known = {
        name: (family, kind)
        for family in families().values()
        for kind in family.kinds
        for name in kind.model_types
    }
    if model_type not in known:
        code = " (it needs code of its own)" if "auto_map" in config else ""
        raise ValueError(
            f"`{source.name}` holds a `{model_type}` of transformers{code}, which has "
            "another structure than the architectures here; it must be one of "
            f"{', '.join(sorted(known))}"
        )
    return known[model_type]


def _preprocessing(source: _Source, size: tuple[int, int]) -> dict[str, Any]:
    config: Any = source.json("preprocessor_config.json")
    if config is None:
        config = (source.json("processor_config.json") or {}).get("image_processor")
    if config is None:
        _logger.warning(
            f"{source.name}: it does not say how images are prepared; squashed "
            f"to {size[0]} x {size[1]} pixels, with a mean and a deviation of 0.5."
        )
    return read_preprocessor(config, size)


def fetch_repository(record: Record) -> Path:
    """The weights of a repository or a folder, on this machine.

    **Raises:**

    A `ValueError` if it has none; as `hub_file`.
    """
    source = _source(record.name)
    if record.revision is not None:
        source = _Source(source.name, source.repository, record.revision, source.folder)
    # (As in timm, only a repository names its file.)
    names = [record.file] if record.file and source.folder is None else []
    for name in (*names, *_WEIGHTS):
        path = source.find(name)
        if path is None:
            continue
        if name.endswith(".index.json"):
            index = source.json(name) or {}
            for shard in sorted(set(index.get("weight_map", {}).values())):
                if source.find(shard) is None:
                    raise FileNotFoundError(
                        f"`{record.name}` has no `{shard}`, which its `{name}` names."
                    )
        return path
    others = ""
    if source.folder is not None:
        found = sorted(file.name for file in source.folder.iterdir())
        others = f" It has {', '.join(found[:8])}."
    raise ValueError(
        f"`{record.name}` has no weights: none of {', '.join(_WEIGHTS)}.{others}"
    )
