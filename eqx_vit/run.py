"""A run folder: what `eqx-vit train` writes and `eqx-vit predict` reads."""

import csv
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float

from .data import Dataset
from .models import ViT
from .pictures import draw_curves, draw_predictions
from .training import predict
from .weights import load_weights, save_weights


class Run:
    """A folder with one training run.

    - `config.json`: The arguments of the model, the classes, the mean and standard
        deviation of the pixels, and the options of the command.
    - `weights.safetensors`: The weights after the last epoch, in timm's names.
    - `metrics.csv`: A row per epoch.
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
                "folder or delete it."
            )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
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

    def make_model(self, key: jax.Array) -> tuple[ViT, eqx.nn.State]:
        """A fresh model of this run."""
        return eqx.nn.make_with_state(ViT)(**self.config["model"], key=key)

    def load_model(self) -> tuple[ViT, eqx.nn.State]:
        """The trained model."""
        model, state = eqx.filter_eval_shape(self.make_model, jr.key(0))
        return load_weights(model, state, self.folder / "weights.safetensors")

    def save_model(self, model: ViT, state: eqx.nn.State) -> None:
        """Replaces the weights; a kill at any moment leaves the old or the new ones."""
        save_weights(model, state, self.folder / "weights.safetensors")

    def add_metrics(self, row: dict[str, float]) -> None:
        """Appends a row to the metrics."""
        path = self.folder / "metrics.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row.keys())
            if new:
                writer.writeheader()
            writer.writerow(row)

    def normalise(
        self, images: Float[jax.Array | np.ndarray, "batch height width channels"]
    ) -> Float[jax.Array, "batch height width channels"]:
        """Images in [0, 1] as the model of this run wants them."""
        mean, std = (np.float32(self.config[name]) for name in ("mean", "std"))
        return jnp.asarray((images - mean) / std)

    def probabilities(
        self,
        model: ViT,
        state: eqx.nn.State,
        images: Float[np.ndarray, "batch height width channels"],
    ) -> Float[np.ndarray, "batch classes"]:
        """What the model thinks of images in [0, 1]."""
        logits = predict(model, state, self.normalise(images))
        return np.asarray(jax.nn.softmax(logits))

    def draw(self, model: ViT, state: eqx.nn.State, data: Dataset) -> None:
        """Draws the pictures."""
        if (self.folder / "metrics.csv").exists():
            draw_curves(self.folder / "metrics.csv", self.folder / "curves.png")
        draw_predictions(
            data.test_images,
            data.test_labels,
            self.probabilities(model, state, data.test_images),
            data.classes,
            self.folder / "predictions.png",
        )
