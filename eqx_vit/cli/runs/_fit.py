"""The loop of `eqx-vit train`: batches, steps, tests, checkpoints."""

import collections
import contextlib
import math
import signal
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ...data import (
    evaluation_batches,
    match_classes,
    Splits,
    training_batches,
    why_unreadable,
)
from ...interpret.flops import count_flops, count_training_flops, matmul_peak
from ...pretrained.adapt import reset_head
from ...pretrained.peft import save_adapter
from ...training.adapters import merge_lora
from ...training.flat_step import FlatStep
from ...training.losses import as_loss
from ...training.memory import unroll
from ...training.mixup import mixup_cutmix
from ...training.optimizer import averaged_model, plateau_scale
from ...training.sharding import make_mesh, shard, shard_batch
from ...training.step import evaluate, predict
from .._output import say, warn
from ..metrics import best_thresholds, measures, NAMES, shown, sigmoid
from ._checkpoints import Checkpoints
from ._load import load_run_or_published
from ._loggers import Loggers
from ._run import Run


class NonFinite(ValueError):
    """The loss or the gradient is NaN or infinite."""


class Stop:
    """Notes SIGTERM, SIGHUP and SIGINT, so that a training can save before it ends; a
    second SIGINT ends it at once."""

    signal: int | None = None

    def __enter__(self) -> "Stop":
        self._before = {
            number: signal.signal(number, self._note)
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
        }
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal = number


def fit(
    run: Run, splits: Splits, console: Console, *, resume: bool = False
) -> int | None:
    """Trains a run to its end.

    **Arguments:**

    - `run`: A run folder.
    - `splits`: What to train and test on.
    - `console`: Where to show progress.
    - `resume`: Whether to go on from the last checkpoint, if there is one.

    **Returns:**

    The signal that asked it to save and stop; `None` if it trained to its end.
    """
    with _mesh(run, console, resume), Stop() as stop, _progress(console) as progress:
        training = None
        try:
            training = _Training(run, splits, console, progress, resume)
            with contextlib.closing(training):
                if resume:
                    training.restore()
                training.run_until(stop)
        except BaseException:
            # A run that did not begin leaves nothing behind, so that the corrected
            # command does not find its folder taken.
            if not resume and (training is None or training.step == 0):
                run.discard()
            raise
    return stop.signal


def _mesh(run: Run, console: Console, resume: bool) -> Any:
    """The devices of a run, in which it is trained. A run that goes on where there are
    fewer takes as many as divide its batch."""
    options = run.config["options"]
    data_parallel, fsdp = options["data_parallel"], options["fsdp"]
    if not data_parallel and fsdp == 1:
        return contextlib.nullcontext()
    here, wanted = jax.device_count(), (data_parallel or 1) * fsdp
    batch = run.recipe.batch_size
    if resume and wanted > here:
        shares = [n for n in range(1, min(here, fsdp) + 1) if fsdp % n == 0]
        fsdp = max(shares)
        copies = range(1, here // fsdp + 1)
        data_parallel = max(n for n in copies if batch % (n * fsdp) == 0 or n == 1)
        say(
            console,
            f"The run was made on {wanted} devices and goes on on "
            f"{data_parallel * fsdp} of the {here} here: its numbers may differ in the "
            "last bits.",
        )
    mesh = make_mesh(data_parallel, fsdp)
    if batch % mesh.size:
        nearest = mesh.size * max(1, round(batch / mesh.size))
        raise ValueError(
            f"`--batch-size {batch}` does not divide among {mesh.size} devices; the "
            f"nearest legal value is {nearest}."
        )
    return jax.set_mesh(mesh)


class _Training:
    """A training under way."""

    def __init__(
        self,
        run: Run,
        splits: Splits,
        console: Console,
        progress: Progress,
        resume: bool,
    ):
        self.run, self.splits, self.console = run, splits, console
        self.options, self.recipe = run.config["options"], run.recipe
        self.kind = run.label_kind
        architecture = run.architecture
        self.is_first = jax.process_index() == 0
        seed, recipe = self.options["seed"], self.recipe
        model_key, self.key = jr.split(jr.key(seed))
        self.steps_per_epoch = len(splits.train) // recipe.batch_size
        self.total = recipe.epochs * self.steps_per_epoch
        self.batches = training_batches(
            splits.train,
            run.augmentation,
            recipe.batch_size,
            seed=seed,
            repeats=recipe.repeats,
            workers=self.options["workers"],
        )
        model, state = self._made(model_key, resume)
        model = recipe.adapted(model, key=jr.fold_in(model_key, 1))
        model = unroll(model) if jax.default_backend() == "gpu" else model
        model = recipe.rematerialised(model)
        optimizer = recipe.optimizer(model, self.steps_per_epoch)
        self.schedule = recipe.schedule(self.steps_per_epoch)
        # (As one program: by itself each shape of moments would be compiled.)
        opt_state = jax.jit(optimizer.init)(eqx.filter(model, eqx.is_inexact_array))
        model, state, opt_state = shard((model, state, opt_state))
        self.take_step = FlatStep(
            model,
            state,
            opt_state,
            optimizer,
            loss=recipe.loss_of(splits.train.labels, architecture.num_classes),
            distillation=recipe.distil if recipe.teacher else None,
            compute_dtype=recipe.compute_dtype,
        )
        self.leaves = self.take_step.leaves(model, state, opt_state)
        self.teacher = _Teacher(run, recipe.teacher) if recipe.teacher else None
        if not resume and self.is_first:
            run.create()
        self.lock = contextlib.ExitStack()
        if self.is_first:
            self.lock.enter_context(run.locked())
            run.store()
        self.checkpoints = Checkpoints(run.folder / "checkpoints", self.options["keep"])
        self.step, self.rows = 0, []
        self.pending = collections.deque()
        self.unreadable: set[str] = set()
        self.epoch_losses: list[float] = []
        self.started, self.since, self.waited = time.monotonic(), 0, 0.0
        self.flops = self._step_flops()
        self.peak = matmul_peak(recipe.compute_dtype or jnp.float32)
        self.progress = progress
        self.bar = progress.add_task(
            "", total=self.total, loss="-", test="", speed="-", waits="-"
        )
        self.loggers = None
        self.shown = 0  # percent of the steps

    def _made(self, key: jax.Array, resume: bool) -> tuple[Any, eqx.nn.State]:
        """The model as it begins: a checkpoint replaces all of it."""
        architecture = self.run.architecture
        if resume and self.run.has_checkpoint:
            return architecture.make(key)
        pretrained, weights = self.options["pretrained"], self.options["weights"]
        model, state = architecture.make(key, pretrained, weights)
        if self.run.config.get("fresh_head"):
            model = reset_head(model, architecture.num_classes, key=key)
        return model, state

    # The parts of a training.

    def run_until(self, stop: Stop) -> None:
        """Trains until the end, or until it is asked to stop."""
        if self.is_first:
            self.loggers = self._loggers()
        self.started, self.since, self.waited = time.monotonic(), self.step, 0.0
        while self.step < self.total and not self._stops(stop):
            if self._has_waited():
                say(
                    self.console,
                    f"No better test {NAMES[self.run.measure]} for "
                    f"{self.recipe.patience} epochs: the training ends at step "
                    f"{self.step}.",
                )
                break
            self._train()
            ends_epoch = self.step % self.steps_per_epoch == 0
            every = self.options["save_every"]
            saves = ends_epoch or (every and self.step % every == 0)
            # (No state is saved whose loss nobody has looked at.)
            if self.step % self.options["watch"] == 0 or saves:
                self._watch()
            if ends_epoch:
                self._test()
            if saves:
                self._save(self.rows[-1] if ends_epoch else None)
        if self._stops(stop) and self.step < self.total:
            self._watch()
            self._save(None)
            self.checkpoints.wait()
            say(
                self.console,
                f"Saved at step {self.step}; go on with "
                f"`eqx-vit train --resume {self.run.folder}`.",
            )

    def _has_waited(self) -> bool:
        """Whether the best epoch is as many epochs ago as the recipe waits."""
        patience = self.recipe.patience
        if not patience or not self.rows:
            return False
        values = self._values(self.rows)
        return len(values) - 1 - int(np.argmax(values)) >= patience

    def _values(self, rows: list[dict[str, Any]]) -> list[float]:
        """What tells the best epoch, of every epoch."""
        return [float(row[f"test_{self.run.measure}"]) for row in rows]

    def _train(self) -> None:
        recipe, batch = self.recipe, self._next_batch()
        self._report_unreadable(self.splits.train, batch["unreadable"])
        key = jr.fold_in(self.key, self.step)
        mix_key, step_key, noise_key = jr.split(key, 3)
        names = ("image", "label", "erased")
        arrays = shard_batch({name: batch[name] for name in names if name in batch})
        images = self.run.finished(arrays, noise_key)
        labels = arrays["label"]
        if recipe.mixup or recipe.cutmix:
            classes = len(self.splits.train.classes)
            mixup, cutmix = recipe.mixup, recipe.cutmix
            images, labels = mixup_cutmix(
                images, labels, classes, mixup, cutmix, key=mix_key
            )
        taught = None if self.teacher is None else self.teacher(images)
        self.leaves, loss = self.take_step(
            self.leaves, images, labels, taught, key=step_key
        )
        self.pending.append((self.step, loss, batch["index"]))
        self.step += 1
        self.progress.update(self.bar, completed=self.step)

    def _next_batch(self) -> dict[str, np.ndarray]:
        started = time.monotonic()
        batch = next(self.batches)
        # (The device waited if it had nothing left to do when the batch came.)
        if not self.pending or self.pending[-1][1].is_ready():
            self.waited += time.monotonic() - started
        return batch

    def _watch(self) -> None:
        """Looks at the losses since the last look: this waits for the device."""
        steps, losses, indices = zip(*self.pending) if self.pending else ((), (), ())
        self.pending.clear()
        losses = [float(loss) for loss in losses]
        *_, opt_state = self._trees()
        norm = float(np.asarray(optax.tree.get(opt_state, "gradient_norm")))
        # A NaN in the gradient has spoilt the parameters that follow the loss.
        broken = [i for i, loss in enumerate(losses) if not math.isfinite(loss)]
        if not broken and losses and not math.isfinite(norm):
            broken = [len(losses) - 1]
        if broken:
            raise NonFinite(
                self._advice(steps[broken[0]], losses[broken[0]], indices[broken[0]])
            )
        self.epoch_losses += losses
        seconds, count = time.monotonic() - self.started, self.step - self.since
        if count == 0:
            return
        self.watched = {
            "gradient_norm": norm,
            "learning_rate": self._learning_rate(opt_state),
            "step_seconds": seconds / count,
            "images_per_second": count * self.recipe.batch_size / seconds,
            "data_wait": self.waited / seconds,
            "flop_utilisation": count
            * self.flops
            / (seconds * self.peak * jax.device_count()),
        }
        self._write({"train_loss": losses[-1]} | self.watched if losses else {})
        loss = f"{losses[-1]:.3f}" if losses else "-"
        speed = f"{self.watched['images_per_second']:.0f}"
        waits = f"{self.watched['data_wait']:.0%}"
        self.progress.update(self.bar, loss=loss, speed=speed, waits=waits)
        percent = 100 * self.step // self.total
        if not self.console.is_terminal and percent > self.shown and self.is_first:
            self.shown = percent
            say(
                self.console,
                f"step {self.step}/{self.total}: loss {loss}, {speed} images/s, waits "
                f"{waits} for data",
            )

    def _learning_rate(self, opt_state: Any) -> float:
        rate = float(np.asarray(self.schedule(self.step // self.recipe.accumulate)))
        if self.recipe.learning_rate_schedule == "plateau":
            rate *= float(np.asarray(plateau_scale(opt_state)))
        return rate

    def _advice(self, step: int, loss: float, index: np.ndarray) -> str:
        names = [self.splits.train.name(int(i)) for i in index]
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        # The parameters that gave this loss are those of the checkpoint of this step.
        self.checkpoints.discard_from(step)
        saved = self.checkpoints.steps
        kept = (
            f"The checkpoint of step {saved[-1]} is from before"
            if saved
            else "There is no checkpoint from before"
        )
        recipe = self.recipe
        return (
            f"At step {step} the loss is {loss} and the gradient NaN or infinite. The "
            f"batch: {shown}. Try a lower `--learning-rate` than "
            f"{recipe.learning_rate:g}, a longer `--warmup` than {recipe.warmup:g} "
            f"epochs, `--clip 1`, or `--precision float32`; and look at these images "
            f"(`eqx-vit augment`). {kept}."
        )

    def _test(self) -> None:
        model, state, opt_state = self._trees()
        model = averaged_model(model, opt_state)
        sums, found, loss_of = np.zeros(3), [], as_loss(self.recipe.loss)
        for batch in evaluation_batches(
            self.splits.test,
            self.run.centre,
            self.recipe.batch_size,
            workers=self.options["workers"],
        ):
            self._report_unreadable(self.splits.test, batch["unreadable"])
            images, labels, weights = shard_batch(
                (batch["image"], batch["label"], batch["weight"])
            )
            if self.kind == "class":
                loss, accuracy = evaluate(
                    model, images, labels, state, weights=weights, loss=loss_of
                )
                count = float(weights.sum())
                sums += count * np.array([1, float(loss), float(accuracy)])
                continue
            whole = _whole((predict(model, images, state), labels, weights))
            rows, truth = (array[whole[-1] > 0] for array in whole[:2])
            found.append((rows, truth))
            sums += [len(rows), float(np.sum(loss_of(rows, truth))), math.nan]
        count, loss, accuracy = sums / np.array([1, *2 * (max(sums[0], 1),)])
        if count == 0:
            raise ValueError("None of the images to test on can be read.")
        if not math.isfinite(loss):
            raise NonFinite(
                f"After step {self.step} the test loss is {loss}: the outputs for some "
                f"of the {count:.0f} test images are NaN or infinite."
            )
        measured, thresholds = {"accuracy": accuracy}, None
        if self.kind != "class":
            outputs, truth = map(np.concatenate, zip(*found))
            measured = measures(self.kind, outputs, truth)
            if self.kind == "classes":
                thresholds = best_thresholds(sigmoid(outputs), truth > 0.5)
        tested = {"test_loss": loss} | {f"test_{n}": v for n, v in measured.items()}
        row = {
            "epoch": self.step // self.steps_per_epoch,
            "step": self.step,
            "train_loss": float(np.mean(self.epoch_losses)),
            **tested,
            **self.watched,
            "unreadable": len(self.unreadable),
        }
        self.rows.append(row)
        self.epoch_losses = []
        self._write(tested)
        value = measured[self.run.measure]
        is_best = value > max(self._values(self.rows[:-1]), default=-math.inf)
        said = f"test {NAMES[self.run.measure]} {shown(self.run.measure, value)}"
        self.progress.update(self.bar, test=said)
        if not self.console.is_terminal and self.is_first:
            say(
                self.console,
                f"epoch {row['epoch']}/{self.recipe.epochs}: train loss "
                f"{row['train_loss']:.4f}, test loss {loss:.4f}, {said}",
            )
        self._save_weights(model, state, is_best)
        if self.is_first:
            if thresholds is not None:
                self.run.save_thresholds(thresholds, is_best)
            self.run.write_metrics(self.rows)
        self.started, self.since, self.waited = time.monotonic(), self.step, 0.0

    def _save_weights(self, model: Any, state: eqx.nn.State, is_best: bool) -> None:
        if jax.process_count() > 1:
            arrays, static = eqx.partition((model, state), eqx.is_array)
            model, state = eqx.combine(_whole(arrays), static)
        if self.is_first:
            self.run.save_model(merge_lora(model), state, is_best)
            if self.recipe.lora:
                self._save_adapter(model)

    def _save_adapter(self, model: eqx.Module) -> None:
        folder, name = self.run.folder / "adapter", self.run.architecture.name
        try:
            save_adapter(model, folder, base=name)
        except ValueError:  # whose published names have no place for an adapter
            save_adapter(model, folder, base=name, names="eqx_vit")

    def _save(self, row: dict[str, Any] | None) -> None:
        metrics = row and {f"test_{self.run.measure}": self._values([row])[0]}
        position = {
            "batches": self.batches.get_state(),
            "epoch_losses": self.epoch_losses,
        }
        self.checkpoints.save(self.step, self._tree(), position, metrics)

    def _tree(self) -> Any:
        return *self._trees(), self.key

    def _trees(self) -> tuple[Any, eqx.nn.State, Any]:
        return self.take_step.trees(self.leaves)

    def restore(self) -> None:
        """Goes to where the last checkpoint is."""
        restored = self.checkpoints.restore(self._tree())
        if restored is None:
            return
        self.step, tree, position = restored
        model, state, opt_state, self.key = tree
        self.leaves = self.take_step.leaves(model, state, opt_state)
        self.batches.set_state(position["batches"])
        self.epoch_losses = position["epoch_losses"]
        # (An epoch may have been tested again since: its row is the same.)
        rows = [r for r in self.run.metrics() if int(r["step"]) <= self.step]
        self.rows = rows
        self.progress.update(self.bar, completed=self.step)
        say(self.console, f"Resumed at step {self.step}.")

    def close(self) -> None:
        """Lets go of files and processes."""
        with contextlib.ExitStack() as stack:  # each, also if one before it fails
            for opened in (self.lock, self.checkpoints, self.batches, self.loggers):
                if opened is not None:
                    stack.callback(opened.close)

    # What they need.

    def _stops(self, stop: Stop) -> bool:
        is_asked = stop.signal is not None
        if jax.process_count() == 1:
            return is_asked
        if self.step % self.options["watch"]:
            return False
        # All hosts stop at the same step, whichever was asked to.
        from jax.experimental.multihost_utils import process_allgather

        return bool(np.any(process_allgather(np.array(is_asked))))

    def _step_flops(self) -> int:
        """The operations of a step that count: the student's and the teacher's."""
        model, state, opt_state = self._trees()
        height, width = self.run.architecture.image_size
        shape = (self.recipe.batch_size, height, width, self.run.architecture.channels)
        images = jax.ShapeDtypeStruct(shape, jnp.float32)
        flops = count_training_flops(model, images, state, opt_state)
        return flops + (count_flops(self.teacher, images) if self.teacher else 0)

    def _report_unreadable(self, images: Any, places: np.ndarray) -> None:
        for place in places[places >= 0]:
            name = images.name(int(place))
            if name not in self.unreadable:
                self.unreadable.add(name)
                reason = why_unreadable(images, int(place))
                warn(f"{reason} ({len(self.unreadable)} so far)")

    def _write(self, scalars: dict[str, float]) -> None:
        if self.loggers is not None:
            self.loggers.add(scalars, self.step)

    def _loggers(self) -> Loggers:
        # (Runs of earlier versions have no such option.)
        names = self.options.get("logger", ["tensorboard"])
        settings = {name: self.run.config[name] for name in ("model", "recipe")}
        settings |= {"options": self.options, "classes": self.run.config["classes"]}
        return Loggers(names, self.run.folder, self.step, settings)


def _whole(arrays: Any) -> Any:
    """Arrays that hosts may have parts of, as a whole on each of them."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, arrays)
    from jax.experimental.multihost_utils import process_allgather

    return process_allgather(arrays, tiled=True)


class _Teacher:
    """The logits of a published model, or of another run, for a student's images."""

    def __init__(self, run: Run, name: str):
        loaded = load_run_or_published(name, run.config["options"]["teacher_weights"])
        if loaded.label_kind != "class":
            raise ValueError(
                f"`--teacher {name}` was trained on labels of the kind "
                f"{loaded.label_kind!r}; a teacher must know one class an image."
            )
        self.model, self.state = loaded.model, loaded.state
        centre: Any = loaded.transform.transform
        size, channels = centre.image_size, loaded.transform.channels
        # The teacher may know more classes, and in another order.
        self.places = match_classes(
            run.config["classes"],
            loaded.classes,
            loaded.aliases,
            what="The data",
            whose=f"`--teacher {name}`",
        )
        mean, std, own_mean, own_std = (
            np.array(x, np.float32)
            for x in (centre.mean, centre.std, run.config["mean"], run.config["std"])
        )

        @jax.jit
        def translate(images: jax.Array) -> jax.Array:
            pixels = images * own_std + own_mean
            if pixels.shape[1:3] != size:
                shape = (len(pixels), *size, pixels.shape[-1])
                pixels = jax.image.resize(pixels, shape, "cubic")
            if pixels.shape[-1] < channels:
                pixels = jnp.repeat(pixels, channels, axis=-1)
            elif pixels.shape[-1] > channels:
                pixels = pixels.mean(-1, keepdims=True)
            return (pixels - mean) / std

        self.translate = translate

    def __call__(self, images: jax.Array) -> jax.Array:
        logits = predict(self.model, self.translate(images), self.state)
        return logits[:, self.places]


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[test]}"),
        TextColumn("{task.fields[speed]} images/s"),
        TextColumn("waits {task.fields[waits]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=jax.process_index() > 0 or not console.is_terminal,
    )
