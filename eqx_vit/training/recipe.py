"""Recipes: every setting of a training run apart from the model and the data."""

import dataclasses
import difflib
import json
import os
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import DTypeLike, PRNGKeyArray

from ..layers import (
    check_choice,
    COUNT,
    FROM_ZERO,
    NOT_NEGATIVE,
    POSITIVE,
    Range,
    RATE,
    SHARE,
)
from .adapters import lora, lora_patterns
from .distillation import Distillation
from .losses import balanced_weights, KINDS, Loss
from .memory import BLOCK_NAMES, rematerialise
from .optimizer import (
    adaptive_clip,
    decay_mask,
    freeze,
    keep_gradient_norm,
    layer_decay,
    moving_average,
    muon_dimensions,
    per_layer,
)


Model = TypeVar("Model", bound=Callable)

PRECISIONS = ("float32", "bfloat16")

# The values of a block that are kept: the results of its linear layers, or its input.
REMATERIALISATIONS = ("products", "blocks")

ALGORITHMS = (
    "adamw",
    "sgd",
    "lamb",
    "lion",
    "adafactor",
    "muon",
    "schedule_free_adamw",
)
SCHEDULES = ("cosine", "linear", "constant", "warmup_stable_decay", "plateau")

# Other names of the fields that share their names with methods of a recipe.
ALIASES = {"optimizer": "algorithm", "schedule": "learning_rate_schedule"}


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

    A `ValueError` that names the field, its value and the legal values.
    """

    epochs: int = _option(20, "passes over the training images", COUNT)
    patience: int = _option(
        0,
        "epochs without a better test accuracy after which training stops, 0 for never",
        FROM_ZERO,
    )
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
        0.0, "learning rate at the end of the schedule", NOT_NEGATIVE
    )
    learning_rate_schedule: str = _option(
        "cosine",
        "course of the learning rate after warm-up; `plateau` lowers it when the "
        "training loss does not fall any more",
        SCHEDULES,
    )
    cooldown: float = _option(
        0.2, "share of the updates in which `warmup_stable_decay` decays", SHARE
    )
    plateau_patience: int = _option(
        5, "epochs without a lower training loss that `plateau` waits for", COUNT
    )
    plateau_factor: float = _option(
        0.3, "factor of the learning rate at a plateau", Range(0, 1, (True, True))
    )
    algorithm: str = _option(
        "adamw", "the optimiser; in a file also `optimizer`", ALGORITHMS
    )
    weight_decay: float = _option(
        0.05, "weight decay of linear layers and convolutions", NOT_NEGATIVE
    )
    beta1: float = _option(0.9, "decay of the first moment, or momentum", RATE)
    beta2: float = _option(
        0.999, "decay of the second moment (Lion's is usually 0.99)", RATE
    )
    layer_decay: float = _option(
        1.0,
        "factor of the learning rate from block to block",
        Range(0, 1, (True, False)),
    )
    clip: float = _option(
        1.0, "largest global norm of the gradient, 0 for none", NOT_NEGATIVE
    )
    adaptive_clip: float = _option(
        0.0,
        "largest norm of the gradient of a unit as a share of its weights' (AGC), 0 "
        "for none; 0.01 is usual",
        NOT_NEGATIVE,
    )
    accumulate: int = _option(1, "steps whose gradients make one update", COUNT)
    loss: str = _option("softmax", "loss function", KINDS)
    label_smoothing: float = _option(
        0.1, "share of a label spread on all classes", RATE
    )
    label_threshold: float | None = _option(
        None,
        "labels above it count as 1, others as 0, for `sigmoid` and `focal`",
        SHARE,
    )
    class_weights: tuple[str, ...] = _option(
        (), "`balanced`, or a factor of the loss for every class"
    )
    focal_gamma: float = _option(
        2.0, "by how much `focal` turns to hard classes", NOT_NEGATIVE
    )
    stochastic_depth: float = _option(
        0.0, "rate at which the last block is dropped", RATE
    )
    average: float = _option(
        0.0, "decay of the moving average of the weights, 0 for none", RATE
    )
    lora: int = _option(
        0, "rank of adapters beside the projections of attention, 0 for none", FROM_ZERO
    )
    lora_alpha: float | None = _option(
        None, "`alpha` of the adapters (default: their rank)", POSITIVE
    )
    lora_dropout: float = _option(0.0, "dropout rate of the adapters' inputs", RATE)
    freeze: tuple[str, ...] = _option((), "paths of the parameters that stay")
    precision: str = _option(
        "float32", "type of the numbers that the model computes in", PRECISIONS
    )
    remat: str = _option(
        "products",
        "values of a block that are kept for the backward pass",
        REMATERIALISATIONS,
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
    cropping: str = _option(
        "resized",
        "how images are cropped: `simple` is DeiT III's, without a change of scale",
        ("resized", "simple"),
    )
    three_augment: float = _option(
        0.0,
        "colour jitter of 3-Augment, 0 for none",
        Range(0, 1, usual="DeiT III's is 0.3"),
    )
    erasing: float = _option(0.0, "probability of erasing a rectangle", SHARE)
    repeats: int = _option(1, "times that an image is in a batch", COUNT)
    mixup: float = _option(0.0, "exponent of mixup, 0 for none", Range(0, 1000))
    cutmix: float = _option(0.0, "exponent of CutMix, 0 for none", Range(0, 1000))
    teacher: str | None = _option(None, "published model, or run, to distil from")
    distillation: str = _option("hard", "kind of distillation", ("hard", "soft"))
    teacher_weight: float = _option(0.5, "share of the teacher in the loss", SHARE)
    temperature: float = _option(3.0, "temperature of soft distillation", POSITIVE)
    expected: str = _option("", "accuracy in the paper")

    def __post_init__(self):
        for entry in dataclasses.fields(self):
            _check_field(entry, getattr(self, entry.name))
        if self.remat_keep and self.remat != "blocks":
            raise ValueError(
                f"`remat_keep={self.remat_keep}` goes with `remat='blocks'`, not "
                f"{self.remat!r}."
            )
        for weight in self.class_weights if self.class_weights != ("balanced",) else ():
            try:
                float(weight)
            except ValueError:
                raise ValueError(
                    f"`class_weights` has {weight!r}; it must be `balanced` alone, or "
                    "a number for every class."
                ) from None
        if self.teacher is not None and self.loss != "softmax":
            raise ValueError(
                f"`teacher` goes with `loss='softmax'`, not with {self.loss!r}; leave "
                "one of them out."
            )
        self.loss_of([0], 1 if self.class_weights in ((), ("balanced",)) else 0)
        if self.algorithm == "schedule_free_adamw":
            if self.average:
                raise ValueError(
                    f"`average={self.average}` does not go with "
                    "`algorithm='schedule_free_adamw'`, which keeps an average itself; "
                    "use 0."
                )
            if not self.beta1:
                raise ValueError(
                    "`beta1=0` leaves `algorithm='schedule_free_adamw'` no average; "
                    "0.9 is usual."
                )
            if self.learning_rate_schedule == "plateau":
                raise ValueError(
                    "`learning_rate_schedule='plateau'` does not go with "
                    "`algorithm='schedule_free_adamw'`; use 'constant'."
                )

    @property
    def compute_dtype(self) -> DTypeLike | None:
        """For [`eqx_vit.train_step`][]."""
        return jnp.bfloat16 if self.precision == "bfloat16" else None

    def loss_of(self, labels: Any, num_outputs: int) -> Loss:
        """The loss, for [`eqx_vit.train_step`][].

        **Arguments:**

        - `labels`: The labels of all training images, whose counts give `class_weights`
            of `"balanced"`.
        - `num_outputs`: The number of outputs of the model.

        **Raises:**

        A `ValueError` for `class_weights` that are not one for every class.
        """
        weights = None
        if self.class_weights == ("balanced",):
            weights = balanced_weights(labels, num_outputs)
        elif self.class_weights:
            weights = tuple(map(float, self.class_weights))
        # (The recipe's default is for classes only.)
        smoothing = self.label_smoothing if self.loss in KINDS[:3] else 0.0
        return Loss(
            kind=self.loss,
            label_smoothing=smoothing,
            threshold=self.label_threshold,
            class_weights=weights,
            gamma=self.focal_gamma,
        )

    @property
    def distil(self) -> Distillation:
        """For [`eqx_vit.train_step`][], if there is a teacher."""
        return Distillation(self.distillation, self.teacher_weight, self.temperature)

    def schedule(self, steps_per_epoch: int) -> optax.Schedule:
        """The learning rate of every update: linear warm-up, then the recipe's
        `learning_rate_schedule`. (`plateau` multiplies it in the optimiser.)

        **Arguments:**

        - `steps_per_epoch`: Batches in an epoch.
        """
        highest = self.learning_rate
        if self.learning_rate_batch is not None:
            highest *= self.batch_size * self.accumulate / self.learning_rate_batch
        updates = max(1, self.epochs * steps_per_epoch // self.accumulate)
        warmup = round(self.warmup * steps_per_epoch / self.accumulate)
        warmup = min(max(1, warmup), max(1, updates - 1))
        updates, final = max(updates, warmup + 1), self.final_learning_rate
        if self.learning_rate_schedule == "cosine":
            return optax.warmup_cosine_decay_schedule(
                0.0, highest, warmup, updates, final
            )
        rise = optax.linear_schedule(0.0, highest, warmup)
        steady = optax.constant_schedule(highest)
        if self.learning_rate_schedule in ("constant", "plateau"):
            return optax.join_schedules([rise, steady], [warmup])
        if self.learning_rate_schedule == "linear":
            fall = optax.linear_schedule(highest, final, updates - warmup)
            return optax.join_schedules([rise, fall], [warmup])
        length = min(max(1, round(self.cooldown * updates)), updates - warmup)
        fall = optax.linear_schedule(highest, final, length)
        return optax.join_schedules([rise, steady, fall], [warmup, updates - length])

    def optimizer(
        self, model: eqx.Module, steps_per_epoch: int
    ) -> optax.GradientTransformation:
        """The optimiser: the recipe's `algorithm` and the links around it.

        From the inside: the gradient's norm is remembered and clipped, the algorithm
        with weight decay of linear layers and convolutions, layer-wise decay of the
        learning rate, frozen parts, the moving average of the weights, accumulation.
        Muon's updates are scaled to the size of AdamW's, so that one learning rate
        serves both. SGD has Nesterov's momentum, and its weight decay is part of the
        gradient. LAMB, Adafactor and Muon see every layer by itself. LAMB scales the
        updates of what decays, as timm's does.

        **Arguments:**

        - `model`: The model.
        - `steps_per_epoch`: Batches in an epoch.
        """
        schedule = self.schedule(steps_per_epoch)
        before = optax.chain(
            keep_gradient_norm(),
            optax.clip_by_global_norm(self.clip) if self.clip else optax.identity(),
            adaptive_clip(self.adaptive_clip)
            if self.adaptive_clip
            else optax.identity(),
        )
        links = [*self._directions(), optax.scale_by_learning_rate(schedule)]
        if self.layer_decay != 1:
            links.append(layer_decay(model, self.layer_decay))
        if self.learning_rate_schedule == "plateau":
            plateau = optax.contrib.reduce_on_plateau(
                factor=self.plateau_factor,
                patience=self.plateau_patience,
                accumulation_size=max(1, steps_per_epoch // self.accumulate),
            )
            links.append(plateau)
        optimizer = optax.chain(*links)
        if self.algorithm == "schedule_free_adamw":
            optimizer = optax.contrib.schedule_free(optimizer, schedule, self.beta1)
        optimizer = optax.chain(before, optimizer)
        frozen = (*(lora_patterns(model) if self.lora else ()), *self.freeze)
        if frozen:
            optimizer = freeze(optimizer, model, frozen)
        if self.average:
            optimizer = moving_average(optimizer, self.average)
        if self.accumulate > 1:
            multi = optax.MultiSteps(optimizer, self.accumulate)
            optimizer = multi.gradient_transformation()
        return optimizer

    def _directions(self) -> list[optax.GradientTransformation]:
        """The links from the gradient to the direction of the update, with decay."""
        decay = optax.add_decayed_weights(self.weight_decay, decay_mask)
        if self.algorithm == "sgd":
            return [decay, optax.trace(self.beta1, nesterov=True)]
        if self.algorithm == "lamb":
            ratio = per_layer(optax.scale_by_trust_ratio())
            adam = optax.scale_by_adam(self.beta1, self.beta2, 1e-6)
            return [adam, decay, optax.masked(ratio, decay_mask)]
        if self.algorithm == "lion":
            return [optax.scale_by_lion(self.beta1, self.beta2), decay]
        if self.algorithm == "adafactor":
            adafactor = optax.adafactor(
                multiply_by_parameter_scale=False, momentum=self.beta1
            )
            return [per_layer(adafactor), optax.scale(-1.0), decay]
        if self.algorithm == "muon":
            muon = optax.contrib.muon(
                1.0,
                adam_b1=self.beta1,
                adam_b2=self.beta2,
                consistent_rms=0.2,
                muon_weight_dimension_numbers=muon_dimensions,
            )
            return [muon, optax.scale(-1.0), decay]
        # (Schedule-free keeps the first moment itself.)
        beta1 = 0.0 if self.algorithm == "schedule_free_adamw" else self.beta1
        return [optax.scale_by_adam(beta1, self.beta2), decay]

    def adapted(self, model: Model, *, key: PRNGKeyArray) -> Model:
        """The model, with adapters if the recipe has a rank for them.

        **Arguments:**

        - `model`: A model.
        - `key`: Randomness for the adapters. (Keyword only argument.)
        """
        if not self.lora:
            return model
        alpha, dropout = self.lora_alpha, self.lora_dropout
        return lora(model, self.lora, alpha=alpha, dropout=dropout, key=key)

    def rematerialised(self, model: eqx.Module) -> eqx.Module:
        """The model, with `remat` of its blocks, but for `remat_keep`.

        **Arguments:**

        - `model`: A model.
        """
        blocks = self.remat == "blocks"
        return rematerialise(model, self.remat_keep) if blocks else model


def _check_field(entry: dataclasses.Field, value: Any) -> None:
    name, legal = entry.name, entry.metadata["legal"]
    kinds = {int: int, int | None: int, float: float, float | None: float}
    kind = kinds.get(entry.type)
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
        path of a TOML file of your own, or of a run folder of `eqx-vit train`. A file
        with the key `base` changes the recipe of that name.
    - `changes`: Fields of [`eqx_vit.Recipe`][] with other values.

    **Raises:**

    A `ValueError` that names the unknown recipe or field, and the nearest known one.
    """
    legal = {f.name: f.type for f in dataclasses.fields(Recipe)}
    values = {ALIASES.get(k, k): v for k, v in (_read(name) | changes).items()}
    for key in values:
        if key not in legal:
            nearest = difflib.get_close_matches(key, legal, n=1, cutoff=0)[0]
            raise ValueError(
                f"A recipe has no `{key}` (in {str(name)!r}); the nearest is "
                f"`{nearest}`. (A file with other options is for `eqx-vit train "
                f"{name}`.)"
            )
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    for key, value in values.items():  # TOML tells 1 from 1.0
        if legal[key] is float and isinstance(value, int) and abs(value) < 2**63:
            values[key] = value if isinstance(value, bool) else float(value)
    for entry in dataclasses.fields(Recipe):
        _check_field(entry, values.get(entry.name, entry.default))
    return dataclasses.replace(Recipe(), **values)


def recipes() -> list[str]:
    """The names of the built-in recipes."""
    found = [path.name for path in (files("eqx_vit.training") / "recipes").iterdir()]
    return sorted(name.removesuffix(".toml") for name in found if ".toml" in name)


def _of_run(path: Path) -> dict[str, Any]:
    """The recipe in the `config.json` of a run folder."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))["recipe"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"`{path}` is not a run's: it has no `recipe`.") from error
    if not isinstance(values, dict):
        raise ValueError(f"`{path}` is damaged: its `recipe` is not a table.")
    return values


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
    elif os.path.isfile(config := Path(name) / "config.json"):
        return _of_run(config)
    elif Path(name).suffix == ".toml" and Path(name).is_file():
        path = Path(name)
    else:
        nearest = difflib.get_close_matches(str(name), recipes(), n=1, cutoff=0)[0]
        raise ValueError(
            f"There is no recipe, TOML file or run folder {str(name)!r}; the nearest "
            f"recipe is {nearest!r} of {', '.join(recipes())}."
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
