"""Losses: how a training step compares logits with labels."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Integer

from ..layers import (
    AnyArray,
    check_choice,
    NOT_NEGATIVE,
    RATE,
    SHARE,
    widen,
)


Labels = (
    Int[AnyArray, " batch"]
    | Float[AnyArray, " batch"]
    | Float[AnyArray, "batch columns"]
    | Integer[AnyArray, "batch columns"]
    | Bool[AnyArray, "batch columns"]
)
Logits = Float[AnyArray, "batch outputs"]

KINDS = ("softmax", "sigmoid", "focal", "squared", "absolute")
# One of several classes; any number of them; numbers.
_ONE, _MANY, _NUMBERS = KINDS[:1], KINDS[1:3], KINDS[3:]
# The losses for every kind of labels of `eqx_vit.data.Images`, the usual one first.
LOSSES = {"class": _ONE + _MANY, "classes": _MANY, "numbers": _NUMBERS}


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss of an image, for [`eqx_vit.train_step`][] and [`eqx_vit.evaluate`][].

    - `kind`: One of

        - `"softmax"`, cross-entropy with one class of several. Labels are a class per
            image, or rows that are distributions over the classes.
        - `"sigmoid"`, binary cross-entropy with every class by itself, the mean over
            the classes. Labels are a class per image, or rows of numbers from 0 to 1:
            an image can be of several classes, or of none. (DeiT III trains with it.)
        - `"focal"`, the [focal loss](https://arxiv.org/abs/1708.02002) of every class
            by itself, the mean over the classes. Labels as for `"sigmoid"`.
        - `"squared"`, `"absolute"`, the mean over the outputs of the squared or the
            absolute error. Labels are a number per image, or a row of numbers.

    - `label_smoothing`: The share of every label that is spread over all classes, in
        [0, 1); for the first three.
    - `threshold`: Rows of labels above it count as 1 and others as 0, after mixing and
        smoothing; for `"sigmoid"` and `"focal"`. `None` leaves them. (timm's
        `bce_target_thresh`.)
    - `class_weights`: A factor for the loss of every class, or `None`; for the first
        three. See [`eqx_vit.training.balanced_weights`][].
    - `gamma`: By how much the focal loss turns to classes that are hard.
    - `alpha`: The weight of classes that an image is of, in the focal loss; the others
        have `1 - alpha`. `None` for no weights.

    Called with logits and labels it returns a loss per image: NaN for a label that is
    not legal.

    **Raises:**

    A `ValueError` that names the argument, its value and the legal values.
    """

    kind: str = "softmax"
    label_smoothing: float = 0.0
    threshold: float | None = None
    class_weights: tuple[float, ...] | None = None
    gamma: float = 2.0
    alpha: float | None = None

    def __post_init__(self):
        check_choice("kind", self.kind, KINDS)
        RATE.check("label_smoothing", self.label_smoothing)
        NOT_NEGATIVE.check("gamma", self.gamma)
        for name in ("threshold", "alpha"):
            if getattr(self, name) is not None:
                SHARE.check(name, getattr(self, name))
        for weight in self.class_weights or ():
            NOT_NEGATIVE.check("class_weights", weight, self.class_weights)
        if self.kind in _NUMBERS:
            self._refuse("label_smoothing", "class_weights")
        if self.kind not in _MANY:
            self._refuse("threshold")
        if self.kind != "focal":
            self._refuse("alpha")

    def _refuse(self, *names: str) -> None:
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if entry.name in names and value != entry.default:
                raise ValueError(
                    f"`{entry.name}={value}` does not go with `kind={self.kind!r}`; "
                    "leave it out."
                )

    @property
    def has_classes(self) -> bool:
        """Whether the outputs are classes."""
        return self.kind not in _NUMBERS

    @property
    def has_many(self) -> bool:
        """Whether an image can be of several classes."""
        return self.kind in _MANY

    def __call__(self, logits: Logits, labels: Labels) -> Float[Array, " batch"]:
        labels = as_floats(labels)
        logits = widen(jnp.asarray(logits))
        self._check_outputs(logits.shape[-1])
        if not self.has_classes:
            return self._of_numbers(logits, labels)
        targets = self._targets(labels, logits)
        weights = jnp.ones(logits.shape[-1], logits.dtype)
        if self.class_weights is not None:
            weights = jnp.asarray(self.class_weights, logits.dtype)
        if self.kind == "softmax":
            targets = optax.smooth_labels(targets, self.label_smoothing)
            return optax.softmax_cross_entropy(logits, weights * targets)
        # (With one output yes and no are the classes.)
        spread = targets.mean(-1, keepdims=True) if logits.shape[-1] > 1 else 0.5
        targets += self.label_smoothing * (spread - targets)
        if self.threshold is not None:
            above = (targets > self.threshold).astype(targets.dtype)
            targets = jnp.where(jnp.isnan(targets), targets, above)
        if self.kind == "sigmoid":
            losses = optax.sigmoid_binary_cross_entropy(logits, targets)
        else:
            losses = optax.sigmoid_focal_loss(
                logits, targets, alpha=self.alpha, gamma=self.gamma
            )
        return jnp.mean(weights * losses, axis=-1)

    def _of_numbers(self, logits, labels):
        wanted = labels[:, None] if labels.ndim == 1 else labels
        if wanted.shape != logits.shape:
            raise ValueError(
                f"`labels` are of shape {labels.shape}, and the model has "
                f"{logits.shape[-1]} output(s); they must be {logits.shape}."
            )
        errors = logits - jnp.asarray(wanted).astype(logits.dtype)
        errors = jnp.square(errors) if self.kind == "squared" else jnp.abs(errors)
        return jnp.mean(errors, axis=-1)

    def _targets(self, labels, logits):
        """A row for every image, NaN where its label is not legal."""
        number, dtype = logits.shape[-1], logits.dtype
        if jnp.issubdtype(labels.dtype, jnp.integer):
            if number == 1:  # yes or no
                legal = (labels >= 0) & (labels <= 1)
                rows = labels[:, None].astype(dtype)
            else:
                legal = (labels >= 0) & (labels < number)
                rows = jax.nn.one_hot(labels, number, dtype=dtype)
        else:
            rows = jnp.asarray(labels).astype(dtype)
            rows = rows[:, None] if labels.ndim == 1 else rows
            legal = self._are_legal(labels if labels.ndim == 2 else labels[:, None])
            if rows.shape != logits.shape:
                raise ValueError(
                    f"`labels` are of shape {labels.shape}, and the model has {number} "
                    f"output(s); they must be a class per image, or {logits.shape}."
                )
        return jnp.where(legal[:, None], rows, jnp.nan)

    def _check_outputs(self, number: int) -> None:
        if self.kind == "softmax" and number == 1:
            raise ValueError(
                "The model has one output, for which softmax cross-entropy is always "
                "0. Give it two (`num_classes=2`), or take `loss='sigmoid'` for a "
                "question of yes or no, `loss='squared'` or `'absolute'` for a number."
            )
        if self.class_weights is not None and len(self.class_weights) != number:
            raise ValueError(
                f"`class_weights` has {len(self.class_weights)} entries, and the model "
                f"has {number} outputs; give one for each."
            )

    def _are_legal(self, rows: Any) -> Any:
        """Whether each row is a distribution, or within 0 and 1, to within what
        rounding in its dtype leaves."""
        eps = float(jnp.finfo(rows.dtype).eps)
        rows = rows.astype(np.float32)
        legal = ((rows >= -1e-6) & (rows <= 1 + 4 * eps + 1e-3)).all(-1)
        if self.kind != "softmax":
            return legal
        return legal & (abs(rows.sum(-1) - 1) <= max(1e-3, 4 * eps))

    def check(
        self, labels: Labels, weights: Float[AnyArray, " batch"] | None = None
    ) -> None:
        """Raise if labels are not legal, where their values are known. (Where they are
        traced, such a label makes the loss NaN.)

        **Arguments:**

        - `labels`: The labels.
        - `weights`: How much every row counts; one that does not may hold anything.

        **Raises:**

        A `ValueError` that names the first row that is wrong.
        """
        is_known = not isinstance(labels, Tracer) and not isinstance(weights, Tracer)
        if isinstance(labels, jax.Array) and is_known:
            is_known = labels.is_fully_addressable  # by this one of several hosts
        is_whole = jnp.issubdtype(labels.dtype, jnp.integer)
        if not is_known or (is_whole and self.has_classes):
            return
        rows = np.asarray(labels)
        if self.kind == "softmax" and rows.ndim == 1:
            raise ValueError(
                "`labels` are numbers, one an image; for `loss='softmax'` they must be "
                "classes, as integers, or rows that are distributions. For numbers "
                "take `loss='squared'` or `'absolute'`."
            )
        rows = rows[:, None] if rows.ndim == 1 else rows
        if self.has_classes:
            wrong = ~np.asarray(self._are_legal(rows))
        else:
            wrong = ~np.isfinite(rows.astype(np.float32)).all(-1)
        if weights is not None:
            wrong &= np.asarray(weights) > 0
        if wrong.any():
            place = int(wrong.argmax())
            raise ValueError(self._reason(place, rows[place].astype(np.float32)))

    def _reason(self, place: int, row: np.ndarray) -> str:
        begin = f"`labels[{place}]`"
        if self.kind == "softmax":
            return (
                f"{begin} sums to {row.sum():g} and has values from {row.min():g} to "
                f"{row.max():g}; for softmax cross-entropy every row must be a "
                "distribution over classes: not negative, with a sum of one. For "
                "several labels an image take `loss='sigmoid'`, for numbers "
                "`loss='squared'` or `'absolute'`."
            )
        if self.has_classes:
            return (
                f"{begin} has values from {row.min():g} to {row.max():g}; for "
                f"`loss={self.kind!r}` they must be from 0 to 1."
            )
        return f"{begin} is not finite."


# From logits and labels to a loss per image.
LossFunction = Callable[..., Float[Array, " batch"]]


def as_floats(labels: Labels) -> Labels:
    """Return rows of whole numbers or of truth values as floats, other labels as they
    are."""
    is_float = jnp.issubdtype(labels.dtype, jnp.floating)
    return labels if labels.ndim == 1 or is_float else labels.astype(np.float32)


def as_loss(loss: str | LossFunction, label_smoothing: float = 0.0) -> LossFunction:
    """Return the loss of a name, with label smoothing; or the loss itself.

    **Raises:**

    A `ValueError` for an unknown name, or for label smoothing beside a function.
    """
    if isinstance(loss, str):
        check_choice("loss", loss, KINDS)
        return Loss(kind=loss, label_smoothing=label_smoothing)
    if label_smoothing:
        raise ValueError(
            f"`label_smoothing={label_smoothing}` goes with the name of a loss; give "
            "it to the loss: `loss=eqx_vit.Loss(label_smoothing=...)`."
        )
    return loss


def balanced_weights(labels: Any, num_classes: int) -> tuple[float, ...]:
    """Return class weights that let every class count the same: the number of labels
    over the number of classes and the number of labels of the class.

    **Arguments:**

    - `labels`: A class per image, or a row of 0 and 1 per image.
    - `num_classes`: The number of classes.

    **Raises:**

    A `ValueError` for a class that no image is of.
    """
    labels = np.asarray(labels)
    if labels.ndim == 1:
        counts = np.bincount(labels.astype(np.int64), minlength=num_classes)
    else:
        counts = labels.sum(axis=0)
    if (counts == 0).any():
        place = int((counts == 0).argmax())
        raise ValueError(
            f"No image is of class {place}, so that it has no balanced weight; leave "
            "the class out, or give `class_weights` of your own."
        )
    return tuple((counts.sum() / (num_classes * counts)).tolist())


def check_distillation(loss: LossFunction, name: str = "distillation") -> None:
    """Raise a `ValueError` unless a loss is softmax cross-entropy, which distillation
    goes with."""
    if not isinstance(loss, Loss) or loss.kind != "softmax":
        kind = f"loss={loss.kind!r}" if isinstance(loss, Loss) else "a loss of your own"
        raise ValueError(
            f"`{name}` goes with softmax cross-entropy, not with `{kind}`; leave one "
            "of them out."
        )
