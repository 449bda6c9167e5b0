"""Recipes: every setting of a training run apart from the model and the data."""

import dataclasses
import difflib
import tomllib
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import DTypeLike

from ..layers import check_choice, COUNT, NOT_NEGATIVE, POSITIVE, Range, RATE, SHARE
from .distillation import Distillation
from .memory import BLOCK_NAMES, rematerialise
from .optimizer import (
    decay_mask,
    freeze,
    keep_gradient_norm,
    layer_decay,
    moving_average,
    muon_dimensions,
)


PRECISIONS = ("float32", "bfloat16")

# The values of a block that are kept: the results of its linear layers, or its input.
REMATERIALISATIONS = ("products", "blocks")

ALGORITHMS = ("adamw", "muon")


def _option(
    default: Any, help: str, legal: Range | tuple[str, ...] | None = None
) -> Any:
    return field(default=default, metadata={"help": help, "legal": legal})


@dataclass(frozen=True)
class Recipe:
    """How to train: each field is an option of `eqx-vit train` too.

    The defaults are those of the built-in recipe `default`, for small images.
    [`eqx_vit.recipe`][] reads the recipes of the papers and files of your own, and
    `eqx-vit train --help` explains the fields and says what is legal.

    **Raises:**

    A `ValueError` that names the field, its value and what is legal.
    """

    epochs: int = _option(20, "passes over the training images", COUNT)
    batch_size: int = _option(
        100, "images a step, of all devices together", Range(1, 2**24)
    )
    learning_rate: float = _option(2e-3, "highest learning rate", NOT_NEGATIVE)
    learning_rate_batch: int | None = _option(
        None,
        "batch size that the learning rate is for, scaled in proportion to others",
        COUNT,
    )
    warmup: float = _option(2.0, "epochs of linear warm-up", NOT_NEGATIVE)
    final_learning_rate: float = _option(
        0.0, "learning rate at the end of the cosine", NOT_NEGATIVE
    )
    algorithm: str = _option("adamw", "what the optimiser is", ALGORITHMS)
    weight_decay: float = _option(
        0.05, "weight decay of linear layers and convolutions", NOT_NEGATIVE
    )
    beta1: float = _option(0.9, "decay of AdamW's first moment", RATE)
    beta2: float = _option(0.999, "decay of AdamW's second moment", RATE)
    layer_decay: float = _option(
        1.0,
        "factor of the learning rate from block to block",
        Range(0, 1, (True, False)),
    )
    clip: float = _option(
        1.0, "largest global norm of the gradient, 0 for none", NOT_NEGATIVE
    )
    accumulate: int = _option(1, "steps whose gradients make one update", COUNT)
    label_smoothing: float = _option(
        0.1, "share of a label spread on all classes", RATE
    )
    stochastic_depth: float = _option(
        0.0, "rate at which the last block is dropped", RATE
    )
    average: float = _option(
        0.0, "decay of the moving average of the weights, 0 for none", RATE
    )
    freeze: tuple[str, ...] = _option((), "paths of the parameters that stay")
    precision: str = _option("float32", "what the model computes in", PRECISIONS)
    remat: str = _option(
        "products", "what of a block is kept for the backward pass", REMATERIALISATIONS
    )
    remat_keep: tuple[str, ...] = _option(
        (),
        f"what `--remat blocks` keeps all the same, of {', '.join(BLOCK_NAMES)}",
        BLOCK_NAMES,
    )
    jitter: float = _option(
        12.0, "largest turn of an image in degrees, 0 for none", Range(0, 180)
    )
    crop: float = _option(
        1.0,
        "least share of an image that is cropped, 1 for all",
        Range(0, 1, (True, False)),
    )
    flip: float = _option(0.0, "probability of mirroring left and right", SHARE)
    rand_augment: float = _option(
        0.0,
        "strength of RandAugment of 10, 0 for none",
        Range(0, 10, usual="DeiT's is 9"),
    )
    erasing: float = _option(0.0, "probability of erasing a rectangle", SHARE)
    repeats: int = _option(1, "times that an image is in a batch", COUNT)
    mixup: float = _option(0.0, "exponent of mixup, 0 for none", Range(0, 1000))
    cutmix: float = _option(0.0, "exponent of CutMix, 0 for none", Range(0, 1000))
    teacher: str | None = _option(None, "published model, or run, to distil from")
    distillation: str = _option("hard", "kind of distillation", ("hard", "soft"))
    teacher_weight: float = _option(0.5, "share of the teacher in the loss", SHARE)
    temperature: float = _option(3.0, "temperature of soft distillation", POSITIVE)
    expected: str = _option("", "what the paper reaches with it")

    def __post_init__(self):
        for entry in dataclasses.fields(self):
            _check_field(entry, getattr(self, entry.name))
        if self.remat_keep and self.remat != "blocks":
            raise ValueError(
                f"`remat_keep={self.remat_keep}` goes with `remat='blocks'`, not "
                f"{self.remat!r}."
            )

    @property
    def compute_dtype(self) -> DTypeLike | None:
        """For [`eqx_vit.train_step`][]."""
        return jnp.bfloat16 if self.precision == "bfloat16" else None

    @property
    def distil(self) -> Distillation:
        """For [`eqx_vit.train_step`][], if there is a teacher."""
        return Distillation(self.distillation, self.teacher_weight, self.temperature)

    def schedule(self, steps_per_epoch: int) -> optax.Schedule:
        """The learning rate of every update: linear warm-up, then a cosine.

        **Arguments:**

        - `steps_per_epoch`: Batches in an epoch.
        """
        highest = self.learning_rate
        if self.learning_rate_batch is not None:
            highest *= self.batch_size * self.accumulate / self.learning_rate_batch
        updates = max(1, self.epochs * steps_per_epoch // self.accumulate)
        warmup = round(self.warmup * steps_per_epoch / self.accumulate)
        warmup = min(max(1, warmup), max(1, updates - 1))
        return optax.warmup_cosine_decay_schedule(
            0.0, highest, warmup, max(updates, warmup + 1), self.final_learning_rate
        )

    def optimizer(
        self, model: eqx.Module, steps_per_epoch: int
    ) -> optax.GradientTransformation:
        """The optimiser: AdamW or Muon, and whatever the recipe puts around it.

        From the inside: the gradient's norm is remembered and clipped, AdamW or Muon
        with weight decay of linear layers and convolutions, layer-wise decay of the
        learning rate, frozen parts, the moving average of the weights, accumulation.
        Muon's updates are scaled to the size of AdamW's, so that one learning rate
        serves both.

        **Arguments:**

        - `model`: The model.
        - `steps_per_epoch`: Batches in an epoch.
        """
        links = [
            keep_gradient_norm(),
            optax.clip_by_global_norm(self.clip) if self.clip else optax.identity(),
            self._direction(),
            optax.add_decayed_weights(self.weight_decay, decay_mask),
            optax.scale_by_learning_rate(self.schedule(steps_per_epoch)),
        ]
        if self.layer_decay != 1:
            links.append(layer_decay(model, self.layer_decay))
        optimizer = optax.chain(*links)
        if self.freeze:
            optimizer = freeze(optimizer, model, self.freeze)
        if self.average:
            optimizer = moving_average(optimizer, self.average)
        if self.accumulate > 1:
            multi = optax.MultiSteps(optimizer, self.accumulate)
            optimizer = multi.gradient_transformation()
        return optimizer

    def _direction(self) -> optax.GradientTransformation:
        if self.algorithm == "adamw":
            return optax.scale_by_adam(self.beta1, self.beta2)
        muon = optax.contrib.muon(
            1.0,
            adam_b1=self.beta1,
            adam_b2=self.beta2,
            consistent_rms=0.2,
            muon_weight_dimension_numbers=muon_dimensions,
        )
        return optax.chain(muon, optax.scale(-1.0))

    def rematerialised(self, model: eqx.Module) -> eqx.Module:
        """The model, with `remat` of its blocks, but for `remat_keep`.

        **Arguments:**

        - `model`: A model.
        """
        blocks = self.remat == "blocks"
        return rematerialise(model, self.remat_keep) if blocks else model


def _check_field(entry: dataclasses.Field, value: Any) -> None:
    name, legal = entry.name, entry.metadata["legal"]
    kind = {int: int, int | None: int, float: float}.get(entry.type)
    if value is None and entry.default is None:
        return
    if kind is not None:
        types = (int, np.integer) if kind is int else (int, float, np.number)
        if isinstance(value, bool) or not isinstance(value, types):
            wanted = "a whole number" if kind is int else "a number"
            raise ValueError(f"`{name}={value!r}` must be {wanted} {legal}.")
        legal.check(name, value)
        return
    is_list = entry.type == tuple[str, ...]
    if not isinstance(value, tuple if is_list else str):
        wanted = "a list of names" if is_list else "a text"
        raise ValueError(f"`{name}={value!r}` must be {wanted}.")
    for part in value if is_list else (value,):
        if not isinstance(part, str):
            raise ValueError(f"`{name}` has {part!r}, which must be a text.")
        if legal is not None:
            check_choice(name, part, legal)


def recipe(name: str | Path = "default", **changes: Any) -> Recipe:
    """A recipe from a file.

    **Arguments:**

    - `name`: `"default"`, `"deit_small"`, `"cait"`, `"levit"`, `"finetune"`, or the
        path of a TOML file of your own. A file with the key `base` changes the recipe
        of that name.
    - `changes`: Fields of [`eqx_vit.Recipe`][] with other values.

    **Raises:**

    A `ValueError` that names what is unknown and the nearest known.
    """
    legal = {f.name: f.type for f in dataclasses.fields(Recipe)}
    values = _read(name) | changes
    for key in values:
        if key not in legal:
            nearest = difflib.get_close_matches(key, legal, n=1, cutoff=0)[0]
            raise ValueError(
                f"A recipe has no `{key}` (in {str(name)!r}); the nearest is "
                f"`{nearest}`."
            )
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    for key, value in values.items():  # TOML tells 1 from 1.0
        if legal[key] is float and isinstance(value, int) and abs(value) < 2**63:
            values[key] = value if isinstance(value, bool) else float(value)
    return dataclasses.replace(Recipe(), **values)


def recipes() -> list[str]:
    """The names of the built-in recipes."""
    found = [path.name for path in (files("eqx_vit.training") / "recipes").iterdir()]
    return sorted(name.removesuffix(".toml") for name in found if ".toml" in name)


def _read(name: str | Path, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    if str(name) in seen:
        raise ValueError(
            f"The recipe {str(name)!r} is the base of itself: "
            f"{' -> '.join((*seen, str(name)))}."
        )
    built_in = (files("eqx_vit.training") / "recipes") / f"{name}.toml"
    is_plain = str(name).replace("_", "").isalnum()  # and no path
    if is_plain and built_in.is_file():
        path = built_in
    elif Path(name).suffix == ".toml" and Path(name).is_file():
        path = Path(name)
    else:
        nearest = difflib.get_close_matches(str(name), recipes(), n=1, cutoff=0)[0]
        raise ValueError(
            f"There is no recipe or TOML file {str(name)!r}; the nearest recipe is "
            f"{nearest!r} of {', '.join(recipes())}."
        )
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"The recipe {str(name)!r} is not a TOML file: {error}"
        ) from error
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ValueError(f"The recipe {str(name)!r} has `base={base!r}`, not a name.")
    return _read(base, (*seen, str(name))) | values
