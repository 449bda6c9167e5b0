"""A run folder: what `eqx-vit train` writes and the other commands read."""

import contextlib
import csv
import fcntl
import json
import math
import os
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from ...data import (
    Augmentation,
    Centre,
    Channels,
    first_of,
    ForDevice,
    Splits,
    with_classes,
)
from ...pretrained import Architecture, run_config, run_weights
from ...pretrained.files import whole_file
from ...pretrained.weights import load_weights, save_weights
from ...training.normalisation import normalise
from ...training.recipe import Recipe, recipe
from .._run_file import absolute, RUN_FILE, write_run_file
from ..metrics import MAIN


class Run:
    """A folder with one training run.

    - `config.json`: The model, the classes, the mean and standard deviation of the
        pixels, the recipe and the options of the command.
    - `run.toml`: The options and the recipe, for `eqx-vit train` to start the same run
        again.
    - `weights.safetensors`: The weights after the last epoch (their average, if the
        recipe keeps one), in their published names.
    - `best.safetensors`: The same after the epoch with the best test accuracy.
    - `metrics.csv`: A row per epoch; the same and more for TensorBoard in
        `events.out.tfevents.*`.
    - `thresholds.json`: Where images have any number of classes, the probability of
        every class from which on an image is taken to be of it: those with the highest
        F1 on the images to test on, for the last and for the best weights.
    - `loggers.json`: The ids of the run in services that log it.
    - `checkpoints`: To resume from.
    - `curves.png`, `predictions.png`: Drawn when the run ends or is interrupted.
    - `report.html`: The saved weights on the test images, when the run ends.
    """

    folder: Path
    config: dict[str, Any]

    def __init__(
        self, folder: Path, config: dict[str, Any], values: Mapping[str, Any] = {}
    ):
        """**Arguments:**

        - `folder`: The folder.
        - `config`: For `config.json`.
        - `values`: For `run.toml`, of a new run.
        """
        self.folder = folder
        self.config = config
        self.values = values
        self.is_new = False

    @staticmethod
    def check_free(folder: Path) -> None:
        """Raise a `ValueError` if a folder for a new run exists and is not empty. That
        of a run that saved nothing and does not train is as good as empty."""
        if Run.saved_nothing(folder):
            with Run(folder, {}).locked():
                return
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(
                f"`--out {folder}` already exists and is not empty; choose another "
                f"folder, delete it, or go on with `--resume {folder}`."
            )

    @staticmethod
    def saved_nothing(folder: Path) -> bool:
        """Return whether it is the folder of a run without checkpoints and weights."""
        return (
            run_config(folder) is not None
            and not Run(folder, {}).has_checkpoint
            and not (folder / "weights.safetensors").exists()
        )

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return any((self.folder / "checkpoints").glob("[0-9]*"))

    def create(self) -> None:
        """Make the folder, which must not exist or be empty, and write `config.json`
        and `run.toml`.

        **Raises:** as `check_free`; an `OSError`.
        """
        self.is_new = True
        # (Other hosts may have begun to make the folder of their checkpoints in it.)
        if jax.process_count() == 1:
            self.check_free(self.folder)
            if self.saved_nothing(self.folder):
                self.discard()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write_config()
            write_run_file(self.folder / RUN_FILE, self.values)
        except OSError:
            self.discard()
            raise

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in this folder meanwhile.

        **Raises:**

        A `ValueError` if another one does.
        """
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(
                    f"Another process trains in `{self.folder}`; wait for it, or stop "
                    "it first."
                ) from error
            except OSError:  # a file system without locks
                pass
            yield
        finally:
            os.close(descriptor)

    def discard(self) -> None:
        """Delete the folder, if `create` made it and nothing was saved in it."""
        if self.is_new:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _write_config(self) -> None:
        with whole_file(self.folder / "config.json") as new:
            new.write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")

    def changed(self, epochs: int, **options: Any) -> "Run":
        """The run with another number of epochs and other options; `store` writes them.

        **Arguments:**

        - `epochs`: The number of epochs.
        - `options`: What else of its options is another.
        """
        self.config = self.config | {
            "recipe": self.config["recipe"] | {"epochs": epochs},
            "options": self.config["options"] | options,
        }
        self.values = {"epochs": epochs, **options}
        return self

    def store(self) -> None:
        """Write what `changed` did to its folder."""
        self._write_config()
        path = self.folder / RUN_FILE
        if self.values and path.exists():  # (earlier versions have not written it)
            before = tomllib.loads(path.read_text(encoding="utf-8"))
            changes = {k: absolute(k, v) for k, v in self.values.items()}
            write_run_file(path, before | changes)

    def same_data(self, splits: Splits) -> Splits:
        """Data that was opened again, with its classes in the order of the run.

        **Raises:**

        A `ValueError` that says in what it differs from the data of the run.
        """
        problems, classes, kind = [], self.config["classes"], self.label_kind
        gone = [name for name in classes if name not in splits.train.classes]
        new = [name for name in splits.train.classes if name not in classes]
        problems += [f"the class `{name}` is new" for name in new]
        problems += [f"the class `{name}` is gone" for name in gone]
        known = self.config.get("data", {})  # which older runs have not written
        for part, now in fingerprints(splits).items() if known else ():
            before = known[part]
            for name in before.keys() & now.keys():
                (count, digest), (old_count, old_digest) = now[name], before[name]
                if count != old_count:
                    problems.append(
                        f"`{name}` has {count} images to {part} on instead of "
                        f"{old_count}"
                    )
                elif digest != old_digest:
                    what = "images or numbers" if kind == "numbers" else "images"
                    problems.append(f"`{name}` has other {what} to {part} on")
        if problems:
            raise ValueError(
                f"The data is not what `{self.folder}` was trained on: "
                f"{first_of(problems, '; ')}. Give it the same data, start a new run "
                f"from its weights with `--model {self.folder}`, or evaluate it on "
                "other data with `--data`."
            )
        return Splits(*(with_classes(images, classes) for images in splits))

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Opens the folder of an earlier run."""
        config = run_config(folder)
        if config is None:
            raise ValueError(
                f"`{folder}` is not a run folder: it has no config.json. Give the "
                "folder that `eqx-vit train` printed."
            )
        return cls(folder, config)

    @property
    def recipe(self) -> Recipe:
        """How it is trained."""
        return recipe(**self.config["recipe"])

    @property
    def architecture(self) -> Architecture:
        """The model that is trained."""
        return Architecture.of_config(self.config)

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
    def augmentation(self) -> ForDevice:
        """How images are prepared for training, but for what `finished` does."""
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
            simple_crop=recipe.cropping == "simple",
            three_augment=recipe.three_augment,
        )
        return ForDevice(augmentation)

    def finished(self, batch: Mapping[str, Any], key: PRNGKeyArray) -> jax.Array:
        """The images of a batch that `augmentation` made, as the model wants them.

        **Arguments:**

        - `batch`: Arrays of `"image"` and, if any are erased, `"erased"`.
        - `key`: Randomness.
        """
        mean, std = self.config["mean"], self.config["std"]
        return normalise(batch["image"], mean, std, batch.get("erased"), key=key)

    @property
    def label_kind(self) -> str:
        """What the labels are, as `eqx_vit.data.Images` has it."""
        # (Runs of earlier versions have one class an image.)
        return self.config.get("label_kind", "class")

    @property
    def measure(self) -> str:
        """What tells the best epoch: `metrics.csv` has it as `test_...`."""
        return MAIN[self.label_kind]

    def thresholds(self, best: bool = False) -> Float[np.ndarray, " classes"] | None:
        """The threshold of every class, where images have any number of classes.

        **Arguments:**

        - `best`: Whether to take those of the best epoch, not of the last.
        """
        if self.label_kind != "classes":
            return None
        path = self.folder / "thresholds.json"
        saved = json.loads(path.read_text("utf-8"))["best" if best else "last"]
        return np.array([saved[name] for name in self.config["classes"]])

    def save_thresholds(
        self, thresholds: Float[np.ndarray, " classes"], is_best: bool
    ) -> None:
        """Replace the thresholds, whole or not at all.

        **Arguments:**

        - `thresholds`: The threshold of every class.
        - `is_best`: Whether they are those of the best weights so far, too.
        """
        path = self.folder / "thresholds.json"
        saved = dict(zip(self.config["classes"], thresholds.tolist()))
        best = saved
        if not is_best and path.exists():
            best = json.loads(path.read_text("utf-8"))["best"]
        with whole_file(path) as new:
            text = json.dumps({"last": saved, "best": best}, indent=2)
            new.write_text(text + "\n", encoding="utf-8")

    def load_model(self, best: bool = False) -> tuple[Any, eqx.nn.State]:
        """The trained model.

        **Arguments:**

        - `best`: With the weights of the best epoch, not of the last.

        **Raises:**

        A `ValueError` if the run has no such weights.
        """
        model, state = self.architecture.shapes()
        path = self.folder / "best.safetensors"
        if best and not path.exists():
            raise ValueError(
                f"`{self.folder}` has no `best.safetensors`; leave `--best` out for "
                "the weights of the last epoch."
            )
        return load_weights(model, path if best else run_weights(self.folder), state)

    def save_model(
        self, model: eqx.Module, state: eqx.nn.State, is_best: bool = False
    ) -> None:
        """Replaces the weights; a kill at any moment leaves the old or the new ones.

        **Arguments:**

        - `model`, `state`: What to save.
        - `is_best`: Whether they are the best so far, too.
        """
        path = self.folder / "weights.safetensors"
        save_weights(model, path, state)
        if is_best:
            with whole_file(self.folder / "best.safetensors") as new:
                shutil.copyfile(path, new)

    def metrics(self) -> list[dict[str, str]]:
        """The rows of `metrics.csv`.

        **Raises:**

        A `ValueError` that names the line and the column of what is damaged.
        """
        path = self.folder / "metrics.csv"
        if not path.exists():
            return []
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            for line, row in enumerate(rows, start=2):
                _check_row(row, f"line {line}", f"test_{self.measure}")
        except (csv.Error, ValueError) as error:
            raise ValueError(
                f"`{path}` is damaged: {error}. Put a copy in its place, or move it "
                "elsewhere: the run goes on without the rows of its earlier epochs."
            ) from error
        return rows

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Replaces the metrics, whole or not at all."""
        new = whole_file(self.folder / "metrics.csv")
        with new as path, path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys() if rows else ["epoch"])
            writer.writeheader()
            writer.writerows(rows)


def _check_row(row: dict[str, str], where: str, measure: str) -> None:
    """Raise a `ValueError` if a row of `metrics.csv` is not what a run writes."""
    for column in ("epoch", "step", "train_loss", "test_loss", measure):
        text = row.get(column)
        try:
            number = float(text or "")
        except ValueError:
            number = math.nan
        is_whole = column not in ("epoch", "step") or str(text).isdecimal()
        if not math.isfinite(number) or not is_whole:
            raise ValueError(f"in {where}, `{column}` is {str(text)[:60]!r}")


def fingerprints(splits: Splits) -> dict[str, Any]:
    """What `config.json` says of the data, to know it again."""
    return {part: images.fingerprint() for part, images in splits._asdict().items()}


def as_config(architecture: Architecture, recipe: Recipe) -> dict[str, Any]:
    """What `config.json` says of the model and the recipe."""
    return {
        "model": asdict(architecture),
        "recipe": {f.name: getattr(recipe, f.name) for f in fields(recipe)},
    }
