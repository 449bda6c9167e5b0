"""Loggers: where the numbers of a run go as it trains."""

import contextlib
import importlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ...pretrained.files import whole_file
from .._output import warn
from ._events import Events


class Logger(Protocol):
    """Takes the numbers of a run."""

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Log numbers by their names at a step."""
        ...

    def close(self) -> None:
        """Send what is left."""
        ...


class Loggers:
    """The loggers of a run, as one.

    The run does not depend on a service: where one of these fails, that is said once
    and the training goes on without it. Only a new run that cannot begin to log, and
    TensorBoard's files, which are on the disk of the run, raise.
    """

    def __init__(
        self, names: Iterable[str], folder: Path, step: int, settings: Mapping[str, Any]
    ):
        """**Arguments:**

        - `names`: Any of `"tensorboard"`, `"wandb"` and `"mlflow"`.
        - `folder`: The folder of the run. Its file `loggers.json` has the ids of the
            runs of the services, with which a run that is resumed goes on.
        - `step`: The step at which the run begins or goes on.
        - `settings`: The settings of the run.

        **Raises:**

        A `ValueError` that names a logger with which a new run cannot begin.
        """
        self._loggers: dict[str, Logger] = {}
        path = folder / "loggers.json"
        known = json.loads(path.read_text()) if path.is_file() else {}
        for name in names:
            if name == "tensorboard":
                self._loggers[name] = Events(folder, step)
                continue
            try:
                logger = _SERVICES[name](folder, known.get(name), settings)
            except Exception as error:  # of many kinds, by the service
                if step == 0:
                    self.close()
                    raise ValueError(_cannot_start(name, error)) from error
                warn(_cannot_start(name, error))
                continue
            self._loggers[name] = logger
            known[name] = logger.id
        if known:
            with whole_file(path) as new:
                new.write_text(json.dumps(known) + "\n", encoding="utf-8")

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Log numbers by their names. Raises as `Events.add`."""
        for name, logger in list(self._loggers.items()):
            if isinstance(logger, Events):
                logger.add(scalars, step)
                continue
            try:
                logger.add(scalars, step)
            except Exception as error:
                del self._loggers[name]
                warn(
                    f"`--logger {name}` failed at step {step} and is not used any more "
                    f"in this run: {_first_line(error)}."
                )

    def close(self) -> None:
        """Send what is left. Raises as `Events.close`."""
        with contextlib.ExitStack() as stack:  # each, also if one before it fails
            for name, logger in self._loggers.items():
                is_file = isinstance(logger, Events)
                stack.callback(logger.close if is_file else _closing(name, logger))
            self._loggers = {}


def _closing(name: str, logger: Logger) -> Callable[[], None]:
    def close() -> None:
        try:
            logger.close()
        except Exception as error:
            warn(f"`--logger {name}` failed at the end: {_first_line(error)}.")

    return close


def _cannot_start(name: str, error: Exception) -> str:
    return (
        f"`--logger {name}` cannot start: {_first_line(error)}. Leave it out, or mend "
        "it first."
    )


def _first_line(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text[:300].rstrip(".")


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"it needs the package {error.name}; install it with "
            f"`pip install -e '.[{name}]'` in a clone of eqx_vit"
        ) from error


class WandB:
    """A run of Weights & Biases.

    Its own settings hold: `WANDB_PROJECT` (by default `eqx_vit`), `WANDB_ENTITY`,
    `WANDB_MODE=offline` and the others.
    """

    id: str

    def __init__(self, folder: Path, known: str | None, settings: Mapping[str, Any]):
        """**Arguments:** as `MLflow`."""
        wandb = _imported("wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "eqx_vit"),
            name=folder.name,
            dir=folder,
            id=known,
            resume=None if known is None else "allow",
            config=dict(settings),
            allow_val_change=True,
            settings=wandb.Settings(console="off"),
        )
        self.id = self._run.id

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Log numbers by their names. (Steps that were logged before a run was resumed
        are not logged again: they have the same numbers.)"""
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """Wait until all is sent."""
        self._run.finish()


class MLflow:
    """A run of MLflow.

    Its own settings hold: `MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME` (by default
    `eqx_vit`) and the others.
    """

    id: str

    def __init__(self, folder: Path, known: str | None, settings: Mapping[str, Any]):
        """**Arguments:**

        - `folder`: The folder of the run, after which the run of the service is called.
        - `known`: The id of the run to go on with.
        - `settings`: The settings of the run.
        """
        mlflow = _imported("mlflow")
        self._entities, self._client = mlflow.entities, mlflow.MlflowClient()
        if known is not None:
            self.id = known
            self._client.update_run(known, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "eqx_vit")
        found = self._client.get_experiment_by_name(name)
        experiment = (
            self._client.create_experiment(name)
            if found is None
            else found.experiment_id
        )
        run = self._client.create_run(experiment, run_name=folder.name)
        self.id = run.info.run_id
        parameters = [
            self._entities.Param(key, str(value)[:500])
            for key, value in _flat(settings)
        ]
        for start in range(0, len(parameters), 100):  # as many as a call may have
            self._client.log_batch(self.id, params=parameters[start : start + 100])

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Log numbers by their names."""
        now = round(1e3 * time.time())
        metrics = [
            self._entities.Metric(name, value, now, step)
            for name, value in scalars.items()
        ]
        self._client.log_batch(self.id, metrics=metrics)

    def close(self) -> None:
        """Say that the run has ended."""
        self._client.set_terminated(self.id)


def _flat(settings: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


_SERVICES = {"wandb": WandB, "mlflow": MLflow}
LOGGERS = ("tensorboard", *_SERVICES)
