"""Draw what a recipe's augmentation makes of images.

A grid: each row an image as it is, and then as training sees it, mixed with others if
the recipe says so."""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from rich.console import Console

from ..data import pixel_statistics, reader
from ..training.mixup import mixup_cutmix
from ._data import add_data_arguments, add_split_arguments, opened
from ._options import integer, path
from ._output import say
from ._recipe import (
    add_model_arguments,
    add_recipe_arguments,
    architecture_of,
    recipe_of,
)
from .pictures import draw_grid
from .runs import as_config, Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", type=path, default=Path("augmented.png"), help="the PNG to write")
    add("--rows", type=integer(1, 100), default=8, help="images (default: 8)")
    add(
        "--columns",
        type=integer(1, 100),
        default=8,
        help="samples of each (default: 8)",
    )
    add(
        "--seed",
        type=integer(0),
        default=0,
        help="seed of the choice and the augmentation (default: 0)",
    )
    add_data_arguments(parser)
    add_split_arguments(parser)
    add_model_arguments(parser)
    add_recipe_arguments(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    splits = opened(options.data, vars(options))
    images, recipe = splits.train, recipe_of(options)
    architecture = architecture_of(options, splits)
    mean, std = pixel_statistics(images, architecture.channels)
    config = as_config(architecture, recipe) | dict(mean=mean, std=std, crop=1.0)
    described = Run(options.out, config)
    rng = np.random.default_rng(options.seed)
    columns = []
    chosen = rng.choice(len(images), min(options.rows, len(images)), replace=False)
    pixels = list(map(reader(images, described.augmentation), chosen.tolist()))
    columns.append(np.stack([described.centre(p) for p in pixels]))
    for column in range(options.columns):
        rows = [described.augmentation(p, rng) for p in pixels]
        batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
        mix_key, noise_key = jr.split(jr.fold_in(jr.key(options.seed), column))
        batch = described.finished(batch, noise_key)
        if recipe.mixup or recipe.cutmix:
            labels = jnp.asarray(images.labels[chosen])
            labels = labels.astype(jnp.int32 if labels.ndim == 1 else jnp.float32)
            batch, _ = mixup_cutmix(
                batch,
                labels,
                len(images.classes),
                recipe.mixup,
                recipe.cutmix,
                key=mix_key,
            )
        columns.append(np.asarray(batch))
    pictures = np.stack(columns, axis=1) * np.array(std) + np.array(mean)
    pictures = np.clip(pictures, 0, 1).astype(np.float32)
    draw_grid(pictures, [images.label_text(int(i)) for i in chosen], options.out)
    say(console, f"See {options.out}")
    return 0
