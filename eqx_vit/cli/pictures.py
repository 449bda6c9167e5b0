"""The pictures that a training run leaves behind."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from ..data import as_image, Pixels
from ..pretrained.files import whole_file
from .metrics import sigmoid


def draw_curves(
    rows: Sequence[Mapping[str, str]], measure: str, name: str, path: Path
) -> None:
    """Loss and another measure against the epoch, as a PNG.

    **Arguments:**

    - `rows`: The rows of a run's `metrics.csv`.
    - `measure`, `name`: The measure, without `test_`, and what it is called.
    - `path`: Where to write.
    """
    epochs = [int(row["epoch"]) for row in rows]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    loss_axes, axes = figure.subplots(1, 2)
    for column in ("train_loss", "test_loss"):
        values = [float(row[column]) for row in rows]
        loss_axes.plot(epochs, values, ".-", label=column.replace("_", " "))
    loss_axes.set(xlabel="epoch", ylabel="loss")
    loss_axes.legend()
    values = [100 * float(row[f"test_{measure}"]) for row in rows]
    axes.plot(epochs, values, ".-", color="tab:green")
    axes.set(xlabel="epoch", ylabel=f"test {name} (%)", ylim=(None, 100))
    axes.grid(alpha=0.3)
    _save(figure, path, 150)


def draw_predictions(
    images: Float[np.ndarray, "images height width channels"],
    names: Sequence[str],
    are_right: Bool[np.ndarray, " images"],
    path: Path,
    rows: int = 4,
    columns: int = 8,
) -> None:
    """Images with their predictions, as a PNG: wrong ones in red, then right ones.

    **Arguments:**

    - `images`: In [0, 1].
    - `names`, `are_right`: As `titles` returns.
    - `path`: Where to write.
    - `rows`, `columns`: The size of the picture; at most half of it are wrong ones.
    """
    wrong = np.flatnonzero(~are_right)[: rows * columns // 2]
    right = np.flatnonzero(are_right)[: rows * columns - len(wrong)]
    chosen = [*wrong.tolist(), *right.tolist()]
    pixels = [np.round(255 * images[i]).astype(np.uint8) for i in chosen]
    texts = [names[int(i)] for i in chosen]
    figure = image_grid(pixels, texts, are_right[chosen].tolist(), columns)
    _save(figure, path, 100)


def image_grid(
    images: Sequence[Pixels],
    texts: Sequence[str],
    are_right: Sequence[bool],
    columns: int,
) -> Figure:
    """Return a picture of images, each below one or two lines of text.

    **Arguments:**

    - `images`: Images of any sizes.
    - `texts`, `are_right`: The text of each, and whether it is green or red.
    - `columns`: How many are side by side.
    """
    rows = max(1, -(-len(images) // columns))
    # (One pair of axes: one for every image takes many times as long.)
    figure = Figure(figsize=(2 * columns, 2.5 * rows))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for i, (image, text, is_right) in enumerate(zip(images, texts, are_right)):
        row, left = divmod(i, columns)
        shown = small(image, 180)
        height, width = (0.45 * n / max(shown.shape[:2]) for n in shown.shape[:2])
        x, y = left + 0.5, 1.25 * row + 0.76
        sides = (x - width, x + width, y + height, y - height)
        axes.imshow(shown, "gray", vmin=0, vmax=255, extent=sides)
        axes.text(
            x,
            1.25 * row + 0.28,
            "\n".join(shortened(line) for line in text.splitlines()),
            ha="center",
            va="bottom",
            color="tab:green" if is_right else "tab:red",
            fontsize=11,
            parse_math=False,
        )
    axes.set(xlim=(0, columns), ylim=(1.25 * rows, 0), aspect="equal")
    return figure


def shortened(name: str, most: int = 24) -> str:
    """Return a name that fits into a picture.

    **Arguments:**

    - `name`, `most`: The name, and the most characters that it may have.
    """
    return name if len(name) <= most else f"{name[: most - 1]}…"


def titles(
    kind: str,
    outputs: Float[np.ndarray, "images outputs"],
    labels: np.ndarray,
    classes: Sequence[str],
    thresholds: Float[np.ndarray, " classes"] | None = None,
) -> tuple[list[str], Bool[np.ndarray, " images"]]:
    """Return for every image what a model says of it, and the truth where it is wrong;
    and whether it is right.

    **Arguments:**

    - `kind`: The kind of labels, as `eqx_vit.data.Images` has it. Numbers are right if
        they are nearer than a standard deviation of the labels to the truth.
    - `outputs`, `labels`: The outputs of the model, and the true labels.
    - `classes`: The name of every class or number.
    - `thresholds`: For the kind `"classes"`.
    """
    if kind == "numbers":
        said, truth = (
            [" ".join(f"{n:.3g}" for n in row) for row in rows.tolist()]
            for rows in (outputs, labels)
        )
        right = (abs(outputs - labels) <= labels.std(axis=0)).all(axis=-1)
        return [f"{s}\nis {t}" for s, t in zip(said, truth)], right
    if kind == "classes":
        assert thresholds is not None
        guesses = sigmoid(outputs) >= thresholds
        right = (guesses == labels).all(axis=-1)
        said, truth = (
            [
                ", ".join(classes[int(i)] for i in np.flatnonzero(row)) or "none"
                for row in rows
            ]
            for rows in (guesses, labels)
        )
    else:
        probabilities = np.asarray(jax.nn.softmax(outputs))
        predicted = probabilities.argmax(axis=-1)
        right = predicted == labels
        said = [
            f"{classes[i]}  {p.max():.0%}" for i, p in zip(predicted, probabilities)
        ]
        truth = [classes[label] for label in labels]
    both = zip(said, truth, right)
    return [s if is_right else f"{s}\nis {t}" for s, t, is_right in both], right


def draw_classes(
    rows: Sequence[tuple[str, np.ndarray, Sequence[tuple[str, float]]]],
    path: Path,
    *,
    are_numbers: bool = False,
) -> None:
    """Images, each beside bars of a model's answers, as a PNG.

    **Arguments:**

    - `rows`: For every image its name, its pixels, and classes with probabilities, or
        numbers with values.
    - `path`: Where to write.
    - `are_numbers`: Whether they are numbers. (Keyword only argument.)
    """
    figure = Figure(figsize=(9, 3 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 2, squeeze=False)
    for (image_axes, bar_axes), (name, image, classes) in zip(axes, rows):
        image_axes.imshow(image.squeeze(), "gray")
        image_axes.set_axis_off()
        image_axes.set_title(name, fontsize=10, parse_math=False)
        names, values = zip(*classes)
        bars = bar_axes.barh(range(len(names)), values, color="tab:blue")
        spell = "{:.4g}" if are_numbers else "{:.1%}"
        bar_axes.bar_label(bars, [spell.format(v) for v in values], padding=3)
        bar_axes.set_yticks(range(len(names)), names, parse_math=False)
        bar_axes.invert_yaxis()
        if are_numbers:
            bar_axes.set(xlabel="value")
            bar_axes.margins(x=0.25)
        else:
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
    - `names`: The names of the rows.
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


def small(pixels: Pixels, side: int = 360) -> np.ndarray:
    """Return an image no larger than a picture shows it; grey ones have no channels.

    **Arguments:**

    - `pixels`: An image of 1 or 3 channels.
    - `side`: The most that its height and its width may be.
    """
    image = as_image(pixels)
    image.thumbnail((side, side))
    return np.asarray(image)


def _save(figure: Figure, path: Path, dpi: int) -> None:
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=dpi)
