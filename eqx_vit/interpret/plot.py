"""Pictures of attention, rollout and relevance, drawn by Matplotlib."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..families import family_of
from ..layers import unwrapped
from .attention import attention_maps, relevance, rollout


def overlay(
    axes: Axes,
    pixels: Float[np.ndarray, "height width channels"],
    values: Float[Array, "rows columns"] | Float[np.ndarray, "rows columns"],
    title: str = "",
) -> None:
    """Draws a map over an image: attention of one query, rollout, relevance, a feature.

    **Arguments:**

    - `axes`: Where to draw.
    - `pixels`: The image, in [0, 1].
    - `values`: A map of any size; from its least value, transparent, to its largest.
    - `title`: The title of the drawing.
    """
    height, width, _ = pixels.shape
    heat = np.asarray(values, np.float64)
    span = np.ptp(heat)
    heat = (heat - heat.min()) / (span if span > 0 else 1)
    axes.imshow(pixels.mean(-1), "gray", vmin=0, vmax=1, extent=(0, width, height, 0))
    axes.imshow(
        heat,
        "inferno",
        alpha=np.sqrt(heat) * 0.8,
        extent=(0, width, height, 0),
        interpolation="nearest" if min(heat.shape) < 4 else "bilinear",
    )
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def boxes(
    axes: Axes,
    pixels: Float[np.ndarray, "height width channels"],
    picks: Int[Array, "picks 4"],
    title: str = "",
) -> None:
    """Draws the blocks that [`eqx_vit.models.grad_cat`][] picked.

    **Arguments:** as `overlay`, and

    - `picks`: Rows of `(top, left, height, width)`.
    """
    axes.imshow(pixels.squeeze(), "gray", vmin=0, vmax=1)
    for top, left, height, width in np.asarray(picks).tolist():
        box = Rectangle((left, top), width, height, fill=False, color="tab:red", lw=2)
        axes.add_patch(box)
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def explain(
    model: Callable,
    image: Float[Array, "height width channels"],
    state: eqx.nn.State | None = None,
    *,
    pixels: Float[np.ndarray, "height width channels"],
    label: int,
    figure: Any = None,
) -> Figure:
    """An image, and beside it what its model saw in it: attention of the first and the
    last layer, rollout and gradient-weighted relevance where the model has them, and
    the paper's own method if it has one.

    **Arguments:**

    - `model`, `image`, `state`: As in [`eqx_vit.attention_maps`][].
    - `pixels`: The image in [0, 1], as it is drawn. (This and the rest are keyword only
        arguments.)
    - `label`: The class to explain.
    - `figure`: A figure, or a part of one, to draw in; by default a new one.
    """
    panels: list[tuple[Callable, str, Any]] = []
    layers = attention_maps(model, image, state)
    on_grid = [m for m in layers if m.key_grid != (0, 0)]
    for where, layer in (("first", on_grid[0]), ("last", on_grid[-1])):
        rows = layer.on_keys().mean(0)
        tokens = layer.num_prefix if 0 < layer.num_prefix < 3 else len(rows)
        panels.append((overlay, f"attention, {where} layer", rows[:tokens].mean(0)))
    family = family_of(unwrapped(model))
    if family.rollout:
        panels.append((overlay, "rollout", rollout(model, image, state)))
    if family.relevance:
        seen = relevance(model, image, state, label=label)
        panels.append((overlay, "relevance", seen))
    if family.picks is not None:
        name, pick = family.picks
        panels.append((boxes, name, pick(model, image, jnp.asarray(label))))
    if figure is None:
        figure = Figure(figsize=(2.4 * (1 + len(panels)), 2.7), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(panels), squeeze=False)[0]
    first.imshow(pixels.squeeze(), "gray", vmin=0, vmax=1)
    first.set_axis_off()
    for axes, (draw, title, values) in zip(others, panels):
        draw(axes, pixels, values, title)
    colours = ScalarMappable(cmap="inferno")
    bar = figure.colorbar(colours, ax=others, shrink=0.8, ticks=[0, 1])
    bar.ax.set_yticklabels(["lowest", "highest"], fontsize=8)
    return figure
