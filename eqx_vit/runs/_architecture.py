"""From a name to a model for a data set."""

import difflib
import inspect
import os
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from .. import models
from ..checkpoints import create_model, Record, zoo
from ..layers import pair


@dataclass(frozen=True)
class Architecture:
    """A model for a data set, all that `config.json` says of it.

    - `name`: A published model, `"cait_s24_224"`, or a class, `"CaiT"`, which stands
        for a tiny size of it for small images.
    - `num_classes`: The number of classes.
    - `image_size`: `(height, width)`, what images are resized to.
    - `channels`: 1 or 3.
    - `settings`: Further arguments of the class.
    """

    name: str
    num_classes: int
    image_size: tuple[int, int]
    channels: int
    settings: dict[str, Any]

    @classmethod
    def of(
        cls,
        name: str,
        num_classes: int,
        image_size: tuple[int, int] | None,
        channels: int,
        settings: dict[str, Any],
        stochastic_depth: float = 0.0,
    ) -> "Architecture":
        """An architecture with what the name says where nothing is asked for.

        **Arguments:**

        - `name`, `num_classes`, `settings`: As the fields.
        - `image_size`: By default that of the published model or of the tiny size.
        - `channels`: Of the data; published models take 3.
        - `stochastic_depth`: Of the recipe, if `settings` has none.

        **Raises:**

        A `ValueError` that names the nearest name or setting.
        """
        record = _record(name)
        model, arguments = _class_and_arguments(name, record)
        legal = inspect.signature(model).parameters
        rate = "layer_dropout" if "layer_dropout" in legal else "stochastic_depth"
        if stochastic_depth:
            settings = {rate: stochastic_depth} | settings
        for key in settings:
            if key not in legal or key in ("key", "num_classes", "image_size"):
                nearest = difflib.get_close_matches(key, legal, n=1, cutoff=0)[0]
                raise ValueError(
                    f"{model.__name__} has no setting `{key}`; the nearest is "
                    f"`{nearest}`."
                )
        size = arguments["image_size"] if record is None else record.image_size
        channels = channels if record is None else 3
        return cls(name, num_classes, image_size or pair(size), channels, settings)

    @property
    def record(self) -> Record | None:
        """What is known about it, if it is published."""
        return _record(self.name)

    def make(
        self,
        key: PRNGKeyArray,
        pretrained: bool = False,
        weights: str | os.PathLike | None = None,
    ) -> tuple[Any, eqx.nn.State]:
        """The model and its state.

        **Arguments:**

        - `key`: Randomness for the parameters.
        - `pretrained`, `weights`: As in [`eqx_vit.create_model`][], of a published
            model.
        """
        record = self.record
        if record is not None:
            return create_model(
                self.name,
                pretrained=pretrained,
                weights=weights,
                num_classes=self.num_classes,
                image_size=self.image_size,
                channels=self.channels,
                settings=self.settings,
                key=key,
            )
        if pretrained or weights is not None:
            raise ValueError(
                f"`--model {self.name}` has no published weights; give the name of a "
                "published model (`eqx-vit models`)."
            )
        model, arguments = _class_and_arguments(self.name, None)
        takes_size = "image_size" in inspect.signature(model).parameters
        del arguments["image_size"]
        arguments |= {"image_size": self.image_size} if takes_size else {}
        arguments |= dict(num_classes=self.num_classes, channels=self.channels)
        make: Any = eqx.nn.make_with_state(model)
        made = make(**arguments | self.settings, key=key)
        multiple = getattr(made[0], "image_multiple", 1)
        for side in self.image_size:
            if side % multiple:
                nearest = max(1, round(side / multiple)) * multiple
                raise ValueError(
                    f"`--image-size {side}` must be a multiple of {multiple} for "
                    f"{self.name}; the nearest legal value is {nearest}."
                )
        return made

    def shapes(self) -> tuple[Any, eqx.nn.State]:
        """The model and its state without numbers, to load weights into."""
        return eqx.filter_eval_shape(self.make, jax.random.key(0))


def _record(name: str) -> Record | None:
    if name in _tiny():
        return None
    if name not in zoo:
        classes = difflib.get_close_matches(name, _tiny(), n=3, cutoff=0.3)
        either = f" (Or a class, for a tiny size: {', '.join(classes or _tiny())}.)"
        raise ValueError(zoo.unknown(name) + either)
    return zoo[name]


def _class_and_arguments(
    name: str, record: Record | None
) -> tuple[type[eqx.Module], dict[str, Any]]:
    if record is not None:
        return record.model, record.arguments()
    return getattr(models, name), {k: as_tuples(v) for k, v in _tiny()[name].items()}


def _tiny() -> dict[str, dict[str, Any]]:
    text = (files("eqx_vit.runs") / "tiny.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def tiny_models() -> list[str]:
    """The classes that have a tiny size: all seventeen."""
    return list(_tiny())


def as_tuples(value: Any) -> Any:
    """TOML and JSON have no tuples, and TOML no `None`."""
    if isinstance(value, list):
        return tuple(map(as_tuples, value))
    return None if value == "none" else value
