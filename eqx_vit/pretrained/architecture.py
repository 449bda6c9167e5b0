"""Models by name, fresh or with weights from a file."""

import dataclasses
import difflib
import importlib
import inspect
import itertools
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from .. import layers
from ..families import families, Family, family_of
from ..layers import pair
from .adapt import reset_head, resize
from .channels import with_channels
from .download import fetch
from .record import Record
from .repository import is_repository, repository_record
from .run_folder import run_config, run_weights
from .weights import Fit, WeightFile
from .zoo import zoo


_logger = logging.getLogger("eqx_vit")

# These are arguments wherever further settings are given.
_OWN_ARGUMENTS = ("num_classes", "image_size", "channels", "key")


@dataclass(frozen=True)
class Architecture:
    """A model for some images and classes, as `config.json` of a run describes it.

    - `name`: A published model, `"cait_s24_224"`; a repository or a folder,
        `"hf-hub:user/name"`; or a class, `"CaiT"`, which stands for a tiny size of it
        for small images.
    - `num_classes`: The number of classes.
    - `image_size`: The `(height, width)` that images are resized to.
    - `channels`: 1 or 3.
    - `settings`: Further arguments of the class.
    """

    name: str
    num_classes: int
    image_size: tuple[int, int]
    channels: int
    settings: dict[str, Any]

    @classmethod
    def named(cls, name: str) -> "Architecture":
        """The architecture of a published model as published, of a class in its tiny
        size, or of a run folder as it was trained.

        **Raises:**

        A `ValueError` that names the nearest name.
        """
        if (config := run_config(name)) is not None:
            return cls.of_config(config)
        record = _record(name)
        if record is not None:
            channels = record.settings.get("channels", 3)
            return cls(name, record.num_classes, record.image_size, channels, {})
        return cls(name, 10, pair(_class_named(name).tiny_side), 3, {})

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> "Architecture":
        """The architecture in the `config.json` of a run."""
        values = config["model"]
        settings = {key: as_tuples(value) for key, value in values["settings"].items()}
        size = tuple(values["image_size"])
        return cls(**values | {"image_size": size, "settings": settings})

    @classmethod
    def of(
        cls,
        name: str,
        num_classes: int,
        image_size: tuple[int, int] | None,
        channels: int,
        settings: Mapping[str, Any],
        stochastic_depth: float = 0.0,
    ) -> "Architecture":
        """An architecture for a data set, with what the name says where nothing is
        asked for.

        **Arguments:**

        - `name`: As the field, or a run folder.
        - `num_classes`, `settings`: As the fields.
        - `image_size`: By default the size of the published model, the run or the tiny
            model.
        - `channels`: The channels of the data; published models take 3, runs as before.
        - `stochastic_depth`: The rate of the recipe, if `settings` has none.

        **Raises:**

        A `ValueError` that names the nearest name or setting.
        """
        base = cls.named(name)
        if run_config(name) is None and base.record is None:
            base = dataclasses.replace(base, channels=channels)
        if stochastic_depth:
            settings = {base.family.stochastic_depth: stochastic_depth} | dict(settings)
        return base.changed(num_classes, image_size, None, settings)

    @classmethod
    def of_file(cls, name: str) -> "Architecture":
        """As `named`, but of the size of images that the weights are for. (A repository
        can ask for images of another.)"""
        named = cls.named(name)
        record = named.record
        if record is None:
            return named
        return dataclasses.replace(named, image_size=_size_of_file(record))

    def standalone(self) -> "Architecture":
        """The same by its class and all settings, where the name is a repository or a
        folder, which can change or go."""
        record = self.record
        if record is None or not is_repository(self.name):
            return self
        legal = inspect.signature(self.model).parameters
        sizes = self.family.size_arguments(record.settings, self.image_size)
        settings = {n: p.default for n, p in legal.items() if n in self.family.tiny}
        settings |= {**record.settings, **sizes, **self.settings}
        return dataclasses.replace(
            self,
            name=self.model.__name__,
            settings={
                name: _spelt(value)
                for name, value in settings.items()
                if name not in _OWN_ARGUMENTS
            },
        )

    def changed(
        self,
        num_classes: int | None,
        image_size: int | tuple[int, int] | None,
        channels: int | None,
        settings: Mapping[str, Any],
    ) -> "Architecture":
        """The architecture with other values where some are given.

        **Raises:**

        A `ValueError` for a setting that the class does not have, or that has an
        argument of its own.
        """
        legal = inspect.signature(self.model).parameters
        for key in settings:
            if key in _OWN_ARGUMENTS:
                raise ValueError(
                    f"`settings` has `{key}`, which is an argument of its own: give "
                    f"`{key}={settings[key]!r}` instead."
                )
            if key not in legal:
                nearest = difflib.get_close_matches(key, legal, n=1, cutoff=0)[0]
                raise ValueError(
                    f"{self.model.__name__} has no setting `{key}`; the nearest is "
                    f"`{nearest}`."
                )
        return dataclasses.replace(
            self,
            num_classes=self.num_classes if num_classes is None else num_classes,
            image_size=self.image_size if image_size is None else pair(image_size),
            channels=self.channels if channels is None else channels,
            settings=self.settings | dict(settings),
        )

    @property
    def record(self) -> Record | None:
        """The record of the checkpoint, if it is published."""
        return _record(self.name)

    @property
    def model(self) -> type[eqx.Module]:
        """The class."""
        return self.family.model

    @property
    def family(self) -> Family:
        """The family of the class."""
        record = self.record
        return _class_named(self.name) if record is None else family_of(record.model)

    def fresh(self, key: PRNGKeyArray) -> tuple[Any, eqx.nn.State]:
        """A new model and its state.

        **Arguments:**

        - `key`: Randomness for the parameters.
        """
        record, size = self.record, self.image_size
        if record is None:
            tiny = _tiny_settings(self.family)
            sizes = self.family.size_arguments(tiny, size)
            arguments = {**self.family.tiny, **sizes}
            arguments |= dict(num_classes=self.num_classes, channels=self.channels)
        else:
            # (`arguments` derives the size of a second branch.)
            other = None if size == _size_of_file(record) else size
            arguments = record.arguments(self.num_classes, other, self.channels)
        make: Any = eqx.nn.make_with_state(self.model)
        arguments |= self.settings
        if isinstance(arguments.get("activation"), str):
            arguments["activation"] = _function(arguments["activation"])
        made = make(**arguments, key=key)
        if "image_size" not in arguments:
            resize(made[0], size)  # only checks it: it takes any size
        return made

    def shapes(self) -> tuple[Any, eqx.nn.State]:
        """The model and its state without numbers, to load weights into."""
        return eqx.filter_eval_shape(self.fresh, jax.random.key(0))

    def make(
        self,
        key: PRNGKeyArray,
        pretrained: bool = False,
        weights: str | os.PathLike | Mapping | WeightFile | None = None,
    ) -> tuple[Any, eqx.nn.State]:
        """The model and its state, fresh or with weights.

        **Arguments:**

        - `key`: Randomness for whatever is not loaded.
        - `pretrained`, `weights`: As in [`eqx_vit.create_model`][]; or a file that is
            read already.
        """
        self.shapes()  # What cannot be raises here, before a download.
        if weights is None and not pretrained:
            return self.fresh(key)
        record = self.record
        if weights is not None:
            source = weights
        elif record is not None:
            source = fetch(record)
        else:
            raise ValueError(
                f"{self.name!r} has no published weights; give the name of a published "
                "model (`eqx_vit.list_models()`), or `weights`."
            )
        published, exact = Architecture.of_file(self.name), False
        if not isinstance(source, Mapping | WeightFile):
            config = run_config(source)
            if is_repository(source):
                published = Architecture.of_file(str(source))
                _check_same(self, published, str(source))
                source = fetch(repository_record(str(source)))
            elif config is not None:
                published, exact = Architecture.of_config(config), True
                _check_same(self, published, str(source))
                source = run_weights(Path(source))
        file = source if isinstance(source, WeightFile) else WeightFile(source)
        return self._loaded(file, published, exact, key)

    def _loaded(
        self, file: WeightFile, published: "Architecture", exact: bool, key: Any
    ) -> tuple[Any, eqx.nn.State]:
        """The model with the weights of a file, adapted to the wanted size and classes.

        `published` has the sizes that the file may have instead of those asked for;
        with `exact` it has them for certain.
        """
        held, (model, state), fit = _best_fit(self, file, published, exact)
        try:
            model, state = file.load(model, state, fit)
        except ValueError as error:
            hint = _hint(self, file, model, state)
            raise ValueError(f"{error}{hint}") from None
        if held.channels != self.channels:
            target, _ = dataclasses.replace(held, channels=self.channels).shapes()
            model = with_channels(model, target, held.channels, self.channels)
            self._say(
                f"its first layer takes {self.channels} channels instead of "
                f"{held.channels}"
            )
        if held.image_size != self.image_size:
            antialias = self.record is None or self.record.antialias
            model = resize(model, self.image_size, antialias=antialias)
            sizes = (self.image_size, held.image_size)
            new, old = (" x ".join(map(str, size)) for size in sizes)
            self._say(f"it takes images of {new} pixels instead of {old}")
        if held.num_classes != self.num_classes:
            model = reset_head(model, self.num_classes, key=key)
            old = f"that for {held.num_classes}" if held.num_classes else "none"
            classes = self.num_classes
            new = f"a fresh head for {classes} classes" if classes else "no head"
            self._say(f"{new} instead of {old}")
        return model, state

    def _say(self, what: str) -> None:
        record = self.record
        name = self.name if record is None else record.name
        _logger.warning(f"{name}: {what}.")


def run_record(folder: str, config: Mapping[str, Any]) -> Record:
    """The record of a run folder."""
    architecture = Architecture.of_config(config)
    settings = {**_all_settings(architecture), "channels": architecture.channels}
    sizes = architecture.family.size_arguments(settings, architecture.image_size)
    return Record(
        name=folder,
        model=architecture.model,
        settings=MappingProxyType(settings | sizes),
        num_classes=architecture.num_classes,
        source=folder,
        file="weights.safetensors",
        revision=None,
        licence=None,
        image_size=architecture.image_size,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        crop=config["crop"],
        crop_mode="center",
        interpolation="bicubic",
        top1=None,
        parameters=None,
        paper=None,
        classes=tuple(config["classes"]),
    )


# What may differ between a model and the weights it takes: nothing computes otherwise
# in inference.
_RATES = ("dropout", "emb_dropout", "attn_dropout", "ff_dropout")
_RATES += ("stochastic_depth", "layer_dropout")


def _check_same(wanted: Architecture, run: Architecture, source: str) -> None:
    """Raise if a run computes another function than the model that is to take its
    weights, whose shapes may be the same."""
    ours, theirs = _all_settings(wanted), _all_settings(run)
    sizes = {"image_size"}
    for one, settings in ((wanted, ours), (run, theirs)):
        sizes |= one.family.size_arguments(settings, one.image_size).keys()
    names = {*ours, *theirs} - {*_RATES, *sizes}
    spelt = lambda settings, name: _spelt(settings.get(name, _default(wanted, name)))
    differ = sorted(n for n in names if spelt(ours, n) != spelt(theirs, n))
    if wanted.model is not run.model or differ:
        settings = ", ".join(f"`{n}={theirs.get(n)!r}`" for n in differ)
        raise ValueError(
            f"`{source}` holds a {run.name} ({settings or run.model.__name__}), not "
            f"this {wanted.name}; give the run folder as the model."
        )


def _default(architecture: Architecture, name: str) -> Any:
    parameter = inspect.signature(architecture.model).parameters.get(name)
    return None if parameter is None else parameter.default


def _spelt(value: Any) -> Any:
    """A function by its name, as `config.json` keeps it."""
    return getattr(value, "__name__", str(value)) if callable(value) else value


def _function(name: str) -> Callable:
    """An activation by its name.

    **Raises:**

    A `ValueError` if there is none.
    """
    for module in (layers, jax.nn):
        if callable(function := getattr(module, name, None)):
            return function
    raise ValueError(
        f"`activation={name!r}` is not known; it must be 'gelu', 'gelu_tanh', "
        "'quick_gelu', or the name of a function of `jax.nn`."
    )


def _all_settings(architecture: Architecture) -> dict[str, Any]:
    record = architecture.record
    if record is not None:
        return {**record.settings, **architecture.settings}
    return _tiny_settings(architecture.family) | architecture.settings


def _tiny_settings(family: Family) -> dict[str, Any]:
    return {"image_size": pair(family.tiny_side), **family.tiny}


def _best_fit(
    wanted: Architecture, file: WeightFile, published: Architecture, exact: bool
) -> tuple[Architecture, tuple[Any, eqx.nn.State], Fit]:
    """The sizes, between those wanted and those published, that a file has; or those
    with the fewest problems."""
    classes = (wanted.num_classes, published.num_classes)
    if wanted.num_classes != published.num_classes:
        classes += (0,)  # a file without a head gets a fresh one
    # Where tables of positions have one length for both sizes, the published one is
    # meant: a table of 14 x 14 positions is not one of 7 x 28.
    sizes = (published.image_size, wanted.image_size)
    channels = (wanted.channels, published.channels)
    if exact:
        classes, sizes, channels = (x[:1] for x in (classes[1:], sizes, channels[1:]))
    found = []
    for held in dict.fromkeys(itertools.product(classes, sizes, channels)):
        names = ("num_classes", "image_size", "channels")
        architecture = dataclasses.replace(wanted, **dict(zip(names, held)))
        shapes = architecture.shapes()
        fit = file.fit(*shapes)
        found.append((architecture, shapes, fit))
        if not fit.problems:
            return found[-1]
    return min(found, key=lambda candidate: len(candidate[-1].problems))


def _hint(wanted: Architecture, file: WeightFile, model: Any, state: Any) -> str:
    found = file.num_classes(model, state)
    if found in (None, wanted.num_classes) or not wanted.num_classes:
        return ""
    if found == 0:
        return "\n(The file has no head: `num_classes=0` loads it so.)"
    return f"\n(The file has a head for {found} classes: give `num_classes={found}`.)"


def _size_of_file(record: Record) -> tuple[int, int]:
    """The size of images that the weights are for. (A repository can ask for images of
    another.)"""
    return pair(record.settings.get("image_size", record.image_size))


def _record(name: str) -> Record | None:
    if is_repository(name):
        return repository_record(name)
    if ":" in name or name in families():
        return None
    if name not in zoo:
        known = families()
        classes = difflib.get_close_matches(name, known, n=3, cutoff=0.3)
        either = f" (Or a class, for a tiny size: {', '.join(classes or known)}.)"
        raise ValueError(zoo.unknown(name) + either)
    return zoo[name]


def _class_named(name: str) -> Family:
    """The family of a class, by its name or by the path `package.module:Name` of one
    that is registered elsewhere."""
    module, is_path, kind = name.rpartition(":")
    if not is_path:
        return families()[name]
    try:
        model = getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{name!r} cannot be imported: {error}. A path is "
            "`package.module:Name`, of a module that is installed or whose folder is "
            "in PYTHONPATH."
        ) from error
    family = family_of(model)
    if family.model is not model:
        raise ValueError(
            f"{name!r} is not registered, only its parent `{family.model.__name__}` "
            "is; register it too, by `eqx_vit.register(Family(...))`."
        )
    return family


def as_tuples(value: Any) -> Any:
    """TOML and JSON have no tuples, and TOML no `None`."""
    if isinstance(value, list):
        return tuple(map(as_tuples, value))
    return None if value == "none" else value
