"""Measures of outputs against labels, for every kind of labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float


# Of every kind of labels the measure that tells which epoch is the best.
MAIN = {"class": "accuracy", "classes": "map", "numbers": "r2"}
NAMES = {
    "accuracy": "accuracy",
    "map": "mAP",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "r2": "R2",
    "absolute_error": "absolute error",
    "squared_error": "squared error",
}


def shown(measure: str, value: float) -> str:
    """Return a value as it is printed: a share in percent, others as numbers."""
    is_share = measure not in ("r2", "absolute_error", "squared_error")
    return f"{value:.2%}" if is_share else f"{value:.4f}"


def of_classes(
    probabilities: Float[np.ndarray, "images classes"],
    labels: Bool[np.ndarray, "images classes"],
    thresholds: float | Float[np.ndarray, " classes"] = 0.5,
) -> dict[str, float]:
    """Return measures of any number of classes an image, by scikit-learn.

    - `map`: The mean of the average precision of every class that has an image.
    - `micro_f1`: F1 of all decisions together.
    - `macro_f1`: The mean of F1 of every class that has an image.

    **Arguments:**

    - `probabilities`: The probability of every class.
    - `labels`: The classes that an image is of.
    - `thresholds`: The probability from which on an image is taken to be of a class.

    **Raises:**

    A `ValueError` if no image is of a class.
    """
    from sklearn.metrics import f1_score

    every = _by_class(probabilities, labels, thresholds)
    rows = [row for row in every if row["images"]]
    if not rows:
        raise ValueError(
            "None of the images to test on is of a class, so that there is nothing to "
            "measure; give others."
        )
    guesses = probabilities >= thresholds
    micro = f1_score(labels.ravel(), guesses.ravel(), zero_division=_ZERO)
    return {
        "map": float(np.mean([row["average_precision"] for row in rows])),
        "micro_f1": float(micro),
        "macro_f1": float(np.mean([row["f1"] for row in rows])),
    }


# For scikit-learn: the precision of a class that is never predicted.
_ZERO: Any = 0


def _by_class(
    probabilities: Float[np.ndarray, "images classes"],
    labels: Bool[np.ndarray, "images classes"],
    thresholds: float | Float[np.ndarray, " classes"],
) -> list[dict[str, Any]]:
    """The measures of every class, `None` where it has no images. (Class by class: in a
    table of one column scikit-learn takes no and yes for two classes.)"""
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support

    found: list[dict[str, Any]] = []
    limits = np.broadcast_to(thresholds, labels.shape[1]).tolist()
    for own, truth, limit in zip(probabilities.T, labels.T, limits):
        guesses, has_images = own >= limit, bool(truth.any())
        precision, recall, f1, _ = precision_recall_fscore_support(
            truth, guesses, average="binary", zero_division=_ZERO
        )
        average = float(average_precision_score(truth, own)) if has_images else None
        found.append(
            {
                "images": int(truth.sum()),
                "threshold": limit,
                "predicted": int(guesses.sum()),
                "precision": float(precision),
                "recall": float(recall) if has_images else None,
                "f1": float(f1) if has_images else None,
                "average_precision": average,
            }
        )
    return found


def of_numbers(
    outputs: Float[np.ndarray, "images numbers"],
    labels: Float[np.ndarray, "images numbers"],
) -> dict[str, float]:
    """Return measures of numbers, each the mean over the numbers, by scikit-learn.

    - `r2`: The share of the variance that is explained, at most 1.
    - `absolute_error`, `squared_error`: The mean error.

    **Arguments:**

    - `outputs`, `labels`: The numbers of a model, and the true ones.

    **Raises:**

    A `ValueError` for fewer than two images, which have no variance.
    """
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

    if len(labels) < 2:
        raise ValueError(
            f"R2 needs two images or more to test on, and there is {len(labels)}; give "
            "more."
        )
    return {
        "r2": float(r2_score(labels, outputs)),
        "absolute_error": float(mean_absolute_error(labels, outputs)),
        "squared_error": float(mean_squared_error(labels, outputs)),
    }


def best_thresholds(
    probabilities: Float[np.ndarray, "images classes"],
    labels: Bool[np.ndarray, "images classes"],
) -> Float[np.ndarray, " classes"]:
    """Return the threshold of every class that gives the highest F1 on some images; 0.5
    for a class that no image is of.

    **Arguments:**

    - `probabilities`, `labels`: As in `of_classes`.
    """
    from sklearn.metrics import precision_recall_curve

    thresholds = np.full(labels.shape[1], 0.5)
    for place in np.flatnonzero(labels.any(axis=0)):
        precision, recall, values = precision_recall_curve(
            labels[:, place], probabilities[:, place]
        )
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        thresholds[place] = values[f1[:-1].argmax()]
    return thresholds


def each(
    kind: str,
    outputs: Float[np.ndarray, "images outputs"],
    labels: np.ndarray,
    thresholds: float | Float[np.ndarray, " classes"],
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """Return the measures of every class or number by itself, `None` where a class has
    no images.

    **Arguments:**

    - `kind`, `outputs`, `labels`, `thresholds`: As in `measures`.
    - `names`: The names of the classes or numbers.
    """
    if kind == "numbers":
        columns = zip(names, outputs.T[..., None], labels.T[..., None])
        return [{"number": name, **of_numbers(*both)} for name, *both in columns]
    rows = _by_class(sigmoid(outputs), labels > 0.5, thresholds)
    return [{"class": name, **row} for name, row in zip(names, rows)]


def sigmoid(logits: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return the probability of every class by itself."""
    return 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -500, 500)))


def measures(
    kind: str,
    outputs: Float[np.ndarray, "images outputs"],
    labels: np.ndarray,
    thresholds: float | Float[np.ndarray, " classes"] = 0.5,
) -> Mapping[str, float]:
    """Return the measures of one kind of labels, the main one first.

    **Arguments:**

    - `kind`: `"classes"` or `"numbers"`.
    - `outputs`: The outputs of the model.
    - `labels`: A row an image.
    - `thresholds`: As in `of_classes`.
    """
    if kind == "numbers":
        return of_numbers(outputs, labels)
    return of_classes(sigmoid(outputs), labels > 0.5, thresholds)


def above(probabilities: Sequence[float], thresholds: Sequence[float]) -> list[int]:
    """Return the places of the classes at or above their threshold, the most probable
    first."""
    order = np.argsort(-np.asarray(probabilities), kind="stable").tolist()
    return [place for place in order if probabilities[place] >= thresholds[place]]
