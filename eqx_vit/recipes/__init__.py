"""Everything about a training run but the model and the data."""

import dataclasses
import difflib
import tomllib
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import DTypeLike

from ..distilling import Distillation
from ..layers import check_at_least, check_choice, check_rate
from ..optimizing import (
    decay_mask,
    freeze,
    layer_decay,
    moving_average,
    watch_gradient,
)
from ..rematerialising import BLOCK_NAMES, rematerialise


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Recipe:
    """How to train: each field is an option of `eqx-vit train` too.

    The defaults are those of the built-in recipe `default`, for small images.
    [`eqx_vit.recipe`][] reads the recipes of the papers and files of your own, and
    `eqx-vit train --help` explains the fields.
    """

    epochs: int = _option(20, "passes over the training images")
    batch_size: int = _option(100, "images a step, of all devices together")
    learning_rate: float = _option(2e-3, "highest learning rate")
    learning_rate_batch: int | None = _option(
        None, "batch size that the learning rate is for, scaled in proportion to others"
    )
    warmup: float = _option(2.0, "epochs of linear warm-up")
    final_learning_rate: float = _option(0.0, "learning rate at the end of the cosine")
    weight_decay: float = _option(0.05, "decay of AdamW, of the weights of products")
    beta1: float = _option(0.9, "decay of AdamW's first moment")
    beta2: float = _option(0.999, "decay of AdamW's second moment")
    layer_decay: float = _option(1.0, "factor of the learning rate from block to block")
    clip: float = _option(1.0, "largest global norm of the gradient, 0 for none")
    accumulate: int = _option(1, "steps whose gradients make one update")
    label_smoothing: float = _option(0.1, "share of a label spread on all classes")
    stochastic_depth: float = _option(0.0, "rate at which the last block is dropped")
    average: float = _option(0.0, "decay of the average of the weights, 0 for none")
    freeze: tuple[str, ...] = _option((), "paths of the parameters that stay")
    precision: str = _option("float32", "what the model computes in")
    remat: str = _option("products", "what of a block is kept for the backward pass")
    remat_keep: tuple[str, ...] = _option(
        (), f"what `--remat blocks` keeps all the same, of {', '.join(BLOCK_NAMES)}"
    )
    jitter: float = _option(12.0, "largest turn of an image in degrees, 0 for none")
    crop: float = _option(1.0, "least share of an image that is cropped, 1 for all")
    flip: float = _option(0.0, "probability of mirroring left and right")
    rand_augment: float = _option(0.0, "strength of RandAugment of 10, 0 for none")
    erasing: float = _option(0.0, "probability of erasing a rectangle")
    repeats: int = _option(1, "times that an image is in a batch")
    mixup: float = _option(0.0, "exponent of mixup, 0 for none")
    cutmix: float = _option(0.0, "exponent of CutMix, 0 for none")
    teacher: str | None = _option(None, "published model, or run, to distil from")
    distillation: str = _option("hard", "kind of distillation")
    teacher_weight: float = _option(0.5, "share of the teacher in the loss")
    temperature: float = _option(3.0, "of soft distillation")
    expected: str = _option("", "what the paper reaches with it")

    def __post_init__(self):
        check_at_least(1, epochs=self.epochs, batch_size=self.batch_size)
        check_at_least(1, accumulate=self.accumulate, repeats=self.repeats)
        check_rate(label_smoothing=self.label_smoothing, average=self.average)
        check_rate(stochastic_depth=self.stochastic_depth)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("remat", self.remat, REMATERIALISATIONS)
        for name in self.remat_keep:
            check_choice("remat_keep", name, BLOCK_NAMES)
        if self.remat_keep and self.remat != "blocks":
            raise ValueError(
                f"`remat_keep={self.remat_keep}` goes with `remat='blocks'`, not "
                f"{self.remat!r}."
            )
        for name in ("flip", "erasing"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"`{name}={value}` is a probability, in [0, 1].")
        if not 0 < self.crop <= 1:
            raise ValueError(f"`crop={self.crop}` is a share, in (0, 1].")
        if not 0 <= self.rand_augment <= 10:
            raise ValueError(
                f"`rand_augment={self.rand_augment}` must be in [0, 10]; DeiT's is 9."
            )
        for name in ("learning_rate", "warmup", "weight_decay", "clip", "mixup"):
            value = getattr(self, name)
            if value < 0:
                raise ValueError(f"`{name}={value}` must not be below 0.")
        self.distil  # which checks its own

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
        """The optimiser: AdamW and whatever the recipe puts around it.

        From the inside: the gradient's norm is remembered and clipped, AdamW with decay
        of the weights of products alone, layer-wise decay of the learning rate, frozen
        parts, the average of the weights, accumulation.

        **Arguments:**

        - `model`: The model.
        - `steps_per_epoch`: Batches in an epoch.
        """
        links = [
            watch_gradient(),
            optax.clip_by_global_norm(self.clip) if self.clip else optax.identity(),
            optax.adamw(
                self.schedule(steps_per_epoch),
                self.beta1,
                self.beta2,
                weight_decay=self.weight_decay,
                mask=decay_mask,
            ),
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

    def rematerialised(self, model: eqx.Module) -> eqx.Module:
        """The model, with `remat` of its blocks, but for `remat_keep`.

        **Arguments:**

        - `model`: A model.
        """
        blocks = self.remat == "blocks"
        return rematerialise(model, self.remat_keep) if blocks else model


PRECISIONS = ("float32", "bfloat16")

# What of a block is kept: the outcome of its linear layers, or only its input.
REMATERIALISATIONS = ("products", "blocks")


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
        if legal[key] is float and isinstance(value, int):
            values[key] = float(value)
    return dataclasses.replace(Recipe(), **values)


def recipes() -> list[str]:
    """The names of the built-in recipes."""
    found = [path.name for path in files("eqx_vit.recipes").iterdir()]
    return sorted(name.removesuffix(".toml") for name in found if ".toml" in name)


def _read(name: str | Path) -> dict[str, Any]:
    built_in = files("eqx_vit.recipes") / f"{name}.toml"
    if built_in.is_file():
        text = built_in.read_text(encoding="utf-8")
    elif Path(name).suffix == ".toml" and Path(name).is_file():
        text = Path(name).read_text(encoding="utf-8")
    else:
        nearest = difflib.get_close_matches(str(name), recipes(), n=1, cutoff=0)[0]
        raise ValueError(
            f"There is no recipe or TOML file {str(name)!r}; the nearest recipe is "
            f"{nearest!r} of {', '.join(recipes())}."
        )
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(
            f"The recipe {str(name)!r} is no TOML file: {error}"
        ) from error
    base = values.pop("base", None)
    return values if base is None else _read(base) | values
