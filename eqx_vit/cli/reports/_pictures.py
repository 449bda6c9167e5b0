"""The pictures of reports, as the bytes of PNG files."""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure

from ..pictures import shortened


def confusion_picture(
    matrix: Int[np.ndarray, "classes classes"], names: Sequence[str]
) -> bytes:
    """Return a picture of a confusion matrix. The colour is the share of the row.

    **Arguments:**

    - `matrix`: True classes in rows, predicted ones in columns.
    - `names`: The names of the classes.
    """
    number = len(names)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = max(4.0, 2 + 0.36 * number)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, "Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(matrix > 0).tolist():
        colour = "white" if shares[row, column] > 0.5 else "black"
        text, place = str(matrix[row, column]), (column, row)
        drawn = axes.annotate(
            text, place, ha="center", va="center", color=colour, fontsize=7
        )
        drawn.set_in_layout(False)  # (which would measure each of them)
    labels = [shortened(name) for name in names]
    axes.set_xticks(range(number), labels, rotation=90, fontsize=8, parse_math=False)
    axes.set_yticks(range(number), labels, fontsize=8, parse_math=False)
    axes.set(xlabel="predicted class", ylabel="true class")
    return png(figure, 120)


def png(figure: Figure, dpi: int = 100) -> bytes:
    """Return a figure as the bytes of a PNG file.

    **Arguments:**

    - `figure`, `dpi`: The figure, and pixels an inch.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi, format="png")
    return buffer.getvalue()
