"""The pictures that a training run leaves behind."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from ..pretrained.files import whole_file


def draw_curves(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """Loss and accuracy against the epoch, as a PNG.

    **Arguments:**

    - `rows`: The rows of a run's `metrics.csv`.
    - `path`: Where to write.
    """
    epochs = [int(row["epoch"]) for row in rows]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for name in ("train_loss", "test_loss"):
        values = [float(row[name]) for row in rows]
        loss_axes.plot(epochs, values, ".-", label=name.replace("_", " "))
    loss_axes.set(xlabel="epoch", ylabel="cross-entropy")
    loss_axes.legend()
    accuracy = [100 * float(row["test_accuracy"]) for row in rows]
    accuracy_axes.plot(epochs, accuracy, ".-", color="tab:green")
    accuracy_axes.set(xlabel="epoch", ylabel="test accuracy (%)", ylim=(None, 100))
    accuracy_axes.grid(alpha=0.3)
    _save(figure, path, 150)


def draw_predictions(
    images: Float[np.ndarray, "images height width channels"],
    labels: Int[np.ndarray, " images"],
    probabilities: Float[np.ndarray, "images classes"],
    classes: Sequence[str],
    path: Path,
    rows: int = 4,
    columns: int = 8,
) -> None:
    """Images with their predictions, as a PNG: wrong ones in red, then right ones.

    **Arguments:**

    - `images`: In [0, 1].
    - `labels`: The true class of each.
    - `probabilities`: What the model thinks.
    - `classes`: The name of every class.
    - `path`: Where to write.
    - `rows`, `columns`: The size of the picture; at most half of it are wrong ones.
    """
    predicted = probabilities.argmax(axis=-1)
    wrong = np.flatnonzero(predicted != labels)[: rows * columns // 2]
    right = np.flatnonzero(predicted == labels)[: rows * columns - len(wrong)]
    figure = Figure(figsize=(1.3 * columns, 1.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, i in zip(axes.flat, [*wrong, *right]):
        image = images[i]
        ax.imshow(
            image[..., 0] if image.shape[-1] == 1 else image, "gray", vmin=0, vmax=1
        )
        guess, truth = classes[int(predicted[i])], classes[int(labels[i])]
        title = f"{guess}  {probabilities[i].max():.0%}"
        if predicted[i] != labels[i]:
            title += f"\nis {truth}"
        colour = "tab:green" if predicted[i] == labels[i] else "tab:red"
        ax.set_title(title, color=colour, fontsize=9, parse_math=False)
    _save(figure, path, 150)


def draw_classes(
    rows: Sequence[tuple[str, np.ndarray, Sequence[tuple[str, float]]]], path: Path
) -> None:
    """Images, each beside bars of what a model takes it for, as a PNG.

    **Arguments:**

    - `rows`: For every image its name, its pixels, and classes with probabilities.
    - `path`: Where to write.
    """
    figure = Figure(figsize=(9, 3 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 2, squeeze=False)
    for (image_axes, bar_axes), (name, image, classes) in zip(axes, rows):
        image_axes.imshow(image.squeeze(), "gray")
        image_axes.set_axis_off()
        image_axes.set_title(name, fontsize=10, parse_math=False)
        names, probabilities = zip(*classes)
        bars = bar_axes.barh(range(len(names)), probabilities, color="tab:blue")
        bar_axes.bar_label(bars, [f"{p:.1%}" for p in probabilities], padding=3)
        bar_axes.set_yticks(range(len(names)), names, parse_math=False)
        bar_axes.invert_yaxis()
        bar_axes.set(xlim=(0, 1.15), xlabel="probability")
        bar_axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path, 120)


def draw_grid(
    images: Float[np.ndarray, "rows columns height width channels"],
    names: Sequence[str],
    path: Path,
) -> None:
    """Rows of images, as a PNG: the first of each is the original of the others.

    **Arguments:**

    - `images`: In [0, 1].
    - `names`: Of the rows.
    - `path`: Where to write.
    """
    rows, columns = images.shape[:2]
    figure = Figure(figsize=(1.2 * columns, 1.3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax, image in zip(axes.flat, images.reshape(-1, *images.shape[2:])):
        ax.imshow(
            image.squeeze(-1) if image.shape[-1] == 1 else image, "gray", vmin=0, vmax=1
        )
        ax.set_axis_off()
    for ax, name in zip(axes[:, 0], names):
        ax.set_title(name, fontsize=9, parse_math=False)
    _save(figure, path, 120)


def _save(figure: Figure, path: Path, dpi: int) -> None:
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=dpi)
