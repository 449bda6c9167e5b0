"""A run folder: what `eqx-vit train` writes and the other commands read."""

import csv
import json
import os
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from ..data import Augmentation, Centre, Channels, Images
from ..pictures import draw_curves, draw_predictions
from ..recipes import Recipe, recipe
from ..training import predict
from ..weights import load_weights, save_weights
from ._architecture import Architecture, as_tuples


class Run:
    """A folder with one training run.

    - `config.json`: The model, the classes, the mean and standard deviation of the
        pixels, the recipe and the options of the command.
    - `weights.safetensors`: The weights after the last epoch (their average, if the
        recipe keeps one), in their published names.
    - `metrics.csv`: A row per epoch; the same and more for TensorBoard in
        `events.out.tfevents.*`.
    - `checkpoints`: To resume from.
    - `curves.png`, `predictions.png`: Drawn when the run ends or is interrupted.
    """

    folder: Path
    config: dict[str, Any]

    def __init__(self, folder: Path, config: dict[str, Any]):
        self.folder = folder
        self.config = config

    @classmethod
    def create(cls, folder: Path, config: dict[str, Any]) -> "Run":
        """Starts a run in a folder that does not exist yet or is empty."""
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(
                f"`--out {folder}` already exists and is not empty; choose another "
                f"folder, delete it, or go on with `--resume {folder}`."
            )
        folder.mkdir(parents=True, exist_ok=True)
        new = folder / "config.json.new"
        new.write_text(json.dumps(config, indent=2) + "\n")
        new.rename(folder / "config.json")
        return cls(folder, config)

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Opens the folder of an earlier run."""
        path = folder / "config.json"
        if not path.is_file():
            raise ValueError(
                f"`{folder}` is no run folder, it has no config.json; give the folder "
                "that `eqx-vit train` printed."
            )
        return cls(folder, json.loads(path.read_text()))

    @property
    def recipe(self) -> Recipe:
        """How it is trained."""
        return recipe(**self.config["recipe"])

    @property
    def architecture(self) -> Architecture:
        """What is trained."""
        values: Any = self.config["model"]
        settings = {k: as_tuples(v) for k, v in values["settings"].items()}
        size = tuple(values["image_size"])
        return Architecture(**values | {"image_size": size, "settings": settings})

    @property
    def centre(self) -> Channels:
        """How images are prepared for tests."""
        transform = Centre(
            self.architecture.image_size,
            tuple(self.config["mean"]),
            tuple(self.config["std"]),
            self.config["crop"],
        )
        return Channels(transform, self.architecture.channels)

    @property
    def augmentation(self) -> Channels:
        """How images are prepared for training."""
        recipe = self.recipe
        augmentation = Augmentation(
            self.architecture.image_size,
            tuple(self.config["mean"]),
            tuple(self.config["std"]),
            scale=(recipe.crop, 1.0),
            jitter=recipe.jitter,
            flip=recipe.flip,
            rand_augment=recipe.rand_augment,
            erasing=recipe.erasing,
        )
        return Channels(augmentation, self.architecture.channels)

    def load_model(self) -> tuple[Any, eqx.nn.State]:
        """The trained model."""
        path = self.folder / "weights.safetensors"
        if not path.exists():
            raise ValueError(
                f"`{self.folder}` has no weights yet: they are written after the first "
                f"epoch. Go on with `eqx-vit train --resume {self.folder}`."
            )
        return load_weights(*self.architecture.shapes(), path)

    def save_model(self, model: eqx.Module, state: eqx.nn.State) -> None:
        """Replaces the weights; a kill at any moment leaves the old or the new ones."""
        save_weights(model, state, self.folder / "weights.safetensors")

    def metrics(self) -> list[dict[str, str]]:
        """The rows of `metrics.csv`."""
        path = self.folder / "metrics.csv"
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Replaces the metrics, whole or not at all."""
        new = self.folder / "metrics.csv.new"
        with new.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys() if rows else ["epoch"])
            writer.writeheader()
            writer.writerows(rows)
        os.replace(new, self.folder / "metrics.csv")

    def probabilities(
        self,
        model: Callable,
        state: eqx.nn.State,
        images: Float[np.ndarray, "batch height width channels"],
    ) -> Float[np.ndarray, "batch classes"]:
        """What the model thinks of images that `centre` prepared."""
        logits = predict(model, state, jax.numpy.asarray(images))
        return np.asarray(jax.nn.softmax(logits))

    def draw(self, images: Images, most: int = 300) -> None:
        """Draws the pictures, of what the saved weights make of some images."""
        if self.metrics():
            draw_curves(self.folder / "metrics.csv", self.folder / "curves.png")
        prepared, labels = [], []
        for i in range(0, len(images), max(1, len(images) // most)):
            try:
                prepared.append(self.centre(images.read(i)))
            except Exception:  # the training has reported it
                continue
            labels.append(int(images.labels[i]))
        array = np.stack(prepared)
        mean, std = (np.float32(self.config[name]) for name in ("mean", "std"))
        draw_predictions(
            np.clip(array * std + mean, 0, 1),
            np.array(labels),
            self.probabilities(*self.load_model(), array),
            self.config["classes"],
            self.folder / "predictions.png",
        )


def as_config(architecture: Architecture, recipe: Recipe) -> dict[str, Any]:
    """What `config.json` says of the model and the recipe."""
    return {
        "model": asdict(architecture),
        "recipe": {f.name: getattr(recipe, f.name) for f in fields(recipe)},
    }
