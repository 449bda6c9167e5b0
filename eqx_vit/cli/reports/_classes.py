"""Reports of one class an image."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ...data import Images, NONE_READABLE
from .._load import Outputs
from ..pictures import image_grid
from ..runs import Loaded
from ._pictures import confusion_picture, png
from ._report import counts, Picture, Report, Table


BINS = 15  # of the calibration error
MOST_CLASSES = 1000  # of `confusion.csv`
MOST_DRAWN = 30  # classes of `confusion.png`
MOST_WORST = 24  # images of `worst.png`


class Scores(NamedTuple):
    """How right a model is about some images: one number an image.

    - `place`: The place of the image.
    - `label`, `predicted`: The true class and the most probable one.
    - `confidence`: The probability of the most probable class.
    - `probability`: The probability of the true class.
    - `loss`: The cross-entropy.
    - `rank`: How many classes are ahead of the true one.
    """

    place: Int[np.ndarray, " images"]
    label: Int[np.ndarray, " images"]
    predicted: Int[np.ndarray, " images"]
    confidence: Float[np.ndarray, " images"]
    probability: Float[np.ndarray, " images"]
    loss: Float[np.ndarray, " images"]
    rank: Int[np.ndarray, " images"]


def score(
    logits: Float[np.ndarray, "images classes"],
    labels: Int[np.ndarray, " images"],
    places: Int[np.ndarray, " images"] | None = None,
) -> Scores:
    """Return how right a model is about a batch of images.

    Where logits are equal, the first class is the most probable one, and the others are
    ahead of the true class.

    **Arguments:**

    - `logits`: The outputs of the model, or the logarithms of probabilities.
    - `labels`: The true classes.
    - `places`: The places of the images; by default they are counted from 0.
    """
    logits = logits.astype(np.float64)
    rows = np.arange(len(labels))
    highest = logits.max(-1)
    sums = np.log(np.exp(logits - highest[:, None]).sum(-1)) + highest
    own, predicted = logits[rows, labels], logits.argmax(-1)
    ahead = (logits >= own[:, None]).sum(-1) - 1
    return Scores(
        rows if places is None else places,
        labels,
        predicted,
        np.exp(highest - sums),
        np.exp(own - sums),
        sums - own,
        np.where(predicted == labels, 0, ahead),
    )


def joined(batches: Iterable[Scores]) -> Scores:
    """Return the scores of several batches as those of one.

    **Raises:** a `ValueError` if there is none.
    """
    found = list(batches)
    if not found:
        raise ValueError(NONE_READABLE)
    return Scores(*map(np.concatenate, zip(*found)))


def calibration_error(scores: Scores, bins: int = BINS) -> float:
    """Return the expected calibration error.

    The images are divided into bins of equal width of the confidence. The error is the
    mean over the images of the distance between the accuracy and the mean confidence of
    their bin ([arXiv:1706.04599](https://arxiv.org/abs/1706.04599)).

    **Arguments:**

    - `scores`, `bins`: The scores, and how many bins.
    """
    place = np.minimum((scores.confidence * bins).astype(int), bins - 1)
    right = (scores.predicted == scores.label).astype(np.float64)
    gaps = np.bincount(place, right - scores.confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(right))


def top(scores: Scores, most: int) -> float:
    """Return the share of images whose true class is among the `most` probable ones."""
    return float(np.mean(scores.rank < most))


def class_measures(scores: Scores, classes: Sequence[str]) -> dict[str, Any]:
    """Return the measures of some images, as `report.json` has them.

    Precision, recall and F1 are counted by scikit-learn. They are of the classes that
    have images or are predicted; their means are over the classes that have images. The
    precision of a class that is never predicted is 0; the recall of a class without
    images is `None`.

    **Arguments:**

    - `scores`: The scores of the images.
    - `classes`: The names of the model's classes.

    **Returns:**

    - `loss`, `top1`, `top5`, `calibration_error`;
    - `macro_precision`, `macro_recall`, `macro_f1`;
    - `classes`: of every class `class`, `images`, `predicted` (how often), `precision`,
        `recall`, `f1`;
    - `confusions`: the 20 most frequent ones, with `class`, `predicted`, `images`.
    """
    from sklearn.metrics import precision_recall_fscore_support

    label, predicted = scores.label, scores.predicted
    used = np.union1d(label, predicted)
    none: Any = 0
    precision, recall, f1, support = map(
        np.asarray,
        precision_recall_fscore_support(
            label, predicted, labels=used, zero_division=none
        ),
    )
    guesses = np.bincount(predicted, minlength=len(classes))[used]
    has_images = support > 0
    macro = {"precision": precision, "recall": recall, "f1": f1}
    measures = {
        "loss": float(scores.loss.mean()),
        "top1": top(scores, 1),
        "top5": top(scores, 5),
        "calibration_error": calibration_error(scores),
    }
    measures |= {f"macro_{n}": float(v[has_images].mean()) for n, v in macro.items()}
    return measures | {
        "classes": [
            {
                "class": classes[place],
                "images": int(support[i]),
                "predicted": int(guesses[i]),
                "precision": float(precision[i]),
                "recall": float(recall[i]) if has_images[i] else None,
                "f1": float(f1[i]),
            }
            for i, place in enumerate(used.tolist())
        ],
        "confusions": [
            {"class": classes[one], "predicted": classes[other], "images": count}
            for one, other, count in _confusions(scores)
        ],
    }


def _confusions(scores: Scores, most: int = 20) -> list[tuple[int, int, int]]:
    """The most frequent pairs of a true class and another that is predicted."""
    wrong = scores.predicted != scores.label
    pairs = np.stack([scores.label[wrong], scores.predicted[wrong]], axis=1)
    if not len(pairs):
        return []
    pairs, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return [(*pairs[i].tolist(), int(counts[i])) for i in order]


def matrix_of(
    scores: Scores, most: int = MOST_CLASSES
) -> tuple[Int[np.ndarray, " used"], Int[np.ndarray, "used used"]]:
    """Return the confusion matrix: true classes in rows, predicted ones in columns.

    **Arguments:**

    - `scores`: The scores.
    - `most`: How many classes it may have. Of more, those are left out that are
        confused least; classes that have images come before those without.

    **Returns:**

    The places of the classes that have images or are predicted, in order, and the
    matrix of these.
    """
    from sklearn.metrics import confusion_matrix

    label, predicted = scores.label, scores.predicted
    used, number = np.union1d(label, predicted), int(max(label.max(), predicted.max()))
    wrong = label != predicted
    errors = sum(
        np.bincount(x[wrong], minlength=number + 1) for x in (label, predicted)
    )
    has_images = np.bincount(label, minlength=number + 1) > 0
    # (`lexsort` goes by its last key first.)
    order = np.lexsort((used, -np.asarray(errors)[used], ~has_images[used]))
    used = np.sort(used[order[:most]])
    with warnings.catch_warnings():  # of one class it warns
        warnings.simplefilter("ignore", UserWarning)
        return used, confusion_matrix(label, predicted, labels=used)


class ClassEvaluation(NamedTuple):
    """The measures of a model that knows one class an image.

    - `scores`: The scores of the images that can be read.
    - `classes`: The names of the model's classes.
    - `images`: The images, for their names and their pixels.
    - `about`: What else `report.json` says.
    """

    scores: Scores
    classes: Sequence[str]
    images: Images
    about: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        batches: Iterable[Outputs],
        loaded: Loaded,
        images: Images,
        about: Mapping[str, Any],
    ) -> "ClassEvaluation":
        """The evaluation of outputs, see `evaluation`."""
        scores = joined(score(*batch) for batch in batches)
        return cls(scores, loaded.classes, images, about)

    @property
    def _counts(self) -> dict[str, int]:
        return counts(self.images, len(self.scores.label))

    @property
    def row(self) -> dict[str, str]:
        """The measures that `eqx-vit evaluate` prints, by name."""
        scores = self.scores
        return {name: str(count) for name, count in self._counts.items()} | {
            "loss": f"{scores.loss.mean():.4f}",
            "top-1": f"{top(scores, 1):.2%}",
            "top-5": f"{top(scores, 5):.2%}",
            "calibration error": f"{calibration_error(scores):.2%}",
        }

    def measures(self) -> dict[str, Any]:
        """Return the object of `report.json`: what is known of model and data, the
        counts of images, and `class_measures`."""
        known = {**self.about, "label_kind": "class", **self._counts}
        return known | class_measures(self.scores, self.classes)

    def report(self, title: str) -> Report:
        """Return the report, with a title."""
        measures, scores, images = self.measures(), self.scores, self.images
        head = ("image", "class", "predicted", "confidence", "probability", "loss")
        head += ("rank",)
        rows = [
            (images.name(i), self.classes[label], self.classes[guess], *rest, rank + 1)
            for i, label, guess, *rest, rank in zip(*(a.tolist() for a in scores))
        ]
        macro = {
            f"macro {name}": f"{measures[f'macro_{name.lower()}']:.2%}"
            for name in ("precision", "recall", "F1")
        }
        worst = np.argsort(-scores.loss, kind="stable")[:MOST_WORST]
        chosen = [rows[place] for place in worst.tolist()]
        parts = [
            *_matrix_parts(scores, self.classes),
            _worst(scores, worst, self.classes, images),
            Table("", "Names of the worst images", head, chosen, "", True),
            *_class_parts(measures, len(self.classes)),
            Table("predictions", "", head, rows),
            Table("", "Definitions", ("measure", "definition"), _DEFINITIONS),
        ]
        return Report(title, measures, self.row | macro, parts)


def _class_parts(measures: dict[str, Any], number: int) -> list[Table]:
    keys = ("class", "images", "predicted", "precision", "recall", "f1")
    rows = [[row[key] for key in keys] for row in measures["classes"]]
    bare = number - sum(row["images"] > 0 for row in measures["classes"])
    note = "The means (macro) are over the classes that have images"
    note += f"; {bare} of the {number} have none. " if bare else ". "
    note += "The precision of a class that is never predicted is 0."
    pairs = [list(row.values()) for row in measures["confusions"]]
    head = ("class", "predicted", "images")
    confusions = [Table("", "Most frequent confusions", head, pairs)] if pairs else []
    return [*confusions, Table("classes", "Classes", keys, rows, note)]


_DEFINITIONS = (
    ("loss", "mean cross-entropy of the softmax of the outputs"),
    ("top-1, top-5", "share of images whose class is among the 1 or 5 most probable"),
    ("precision", "share of the images predicted as a class that are of it"),
    ("recall", "share of the images of a class that are predicted as it"),
    ("F1", "harmonic mean of precision and recall"),
    (
        "calibration error",
        f"expected calibration error: {BINS} equal bins of the confidence; the mean "
        "over the images of the distance between accuracy and mean confidence of their "
        "bin",
    ),
    ("confidence", "probability of the most probable class"),
    ("probability", "probability of the true class"),
    ("rank", "place of the true class among all, by probability, from 1"),
)


def _matrix_parts(scores: Scores, classes: Sequence[str]) -> list[Table | Picture]:
    used, matrix = matrix_of(scores)
    names = [classes[int(place)] for place in used]
    rows = [[name, *row] for name, row in zip(names, matrix.tolist())]
    table = Table("confusion", "", ("class", *names), rows)
    drawn, small = matrix_of(scores, MOST_DRAWN)
    number = len(np.union1d(scores.label, scores.predicted))
    note = "True classes in rows, predicted classes in columns."
    if len(drawn) < number:
        note += f" It has the {len(drawn)} of {number} classes most often confused."
    png = confusion_picture(small, [classes[int(place)] for place in drawn])
    return [Picture("confusion", "Confusion matrix", png, note), table]


def _worst(
    scores: Scores,
    worst: Int[np.ndarray, " worst"],
    classes: Sequence[str],
    images: Images,
) -> Picture:
    """The images with the highest loss."""
    pixels, texts, are_right = [], [], []
    for row in worst.tolist():
        try:
            pixels.append(images.read(int(scores.place[row])))
        except Exception:  # it could be read a moment ago
            continue
        guess, truth = (classes[int(x[row])] for x in (scores.predicted, scores.label))
        are_right.append(guess == truth)
        other = "" if guess == truth else f"\nis {truth} {scores.probability[row]:.0%}"
        texts.append(f"{guess} {scores.confidence[row]:.0%}{other}")
    note = (
        "The images with the highest loss, with the predicted class and its "
        "probability, and the true class and its probability where it is another."
    )
    return Picture(
        "worst", "Worst images", png(image_grid(pixels, texts, are_right, 6)), note
    )
