"""Where the numbers of a run go as it trains: Weights & Biases and MLflow as installed,
without a network."""

import json
import sys
from typing import Any

import jax
import pytest
from eqx_vit.cli import main
from eqx_vit.cli.runs import _loggers, Run


SMALL = "train --set dim=8 heads=2 dim_head=4 depth=1 mlp_dim=8 patch_size=14".split()
SMALL += ["--batch-size", "1000", "--epochs", "1"]


@pytest.fixture(autouse=True)
def _promotion():
    with jax.numpy_dtype_promotion("standard"):  # Optax needs it
        yield


class Failing:
    """A service whose network is gone after the first numbers."""

    added = 0

    def __init__(self, folder, known, settings):
        self.id = "one"

    def add(self, scalars, step):
        self.added += 1
        if self.added > 1:
            raise ConnectionError("no route to host")

    def close(self):
        raise ConnectionError("no route to host")


def test_a_service_that_fails_is_named_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(_loggers._SERVICES, "wandb", Failing)
    loggers = _loggers.Loggers(["wandb", "tensorboard"], tmp_path, 0, {})
    for step in range(4):
        loggers.add({"loss": 1.0}, step)
    loggers.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert "`--logger wandb` failed at step 1" in line and "no route to host" in line
    assert json.loads((tmp_path / "loggers.json").read_text()) == {"wandb": "one"}
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_a_service_may_fail_at_the_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(_loggers._SERVICES, "wandb", Failing)
    loggers = _loggers.Loggers(["wandb"], tmp_path, 0, {})
    loggers.close()
    assert "failed at the end: no route to host" in capsys.readouterr().err


def test_a_service_that_cannot_start(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(_loggers._SERVICES, "wandb", lambda *_: 1 / 0)
    with pytest.raises(ValueError, match="`--logger wandb` cannot start: division"):
        _loggers.Loggers(["wandb"], tmp_path, 0, {})
    _loggers.Loggers(["wandb"], tmp_path, 5, {}).add({"loss": 1.0}, 5)
    assert "`--logger wandb` cannot start" in capsys.readouterr().err


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"package wandb; .*'\.\[wandb\]'"):
        _loggers.Loggers(["wandb"], tmp_path, 0, {})


@pytest.mark.slow
def test_a_run_in_mlflow(tmp_path, monkeypatch):
    mlflow: Any = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    out = tmp_path / "run"
    assert main([*SMALL, "--logger", "mlflow", "--out", str(out)]) == 0
    assert main(["train", "--resume", str(out), "--epochs", "2"]) == 0
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("eqx_vit").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.info.run_name == "run" and run.info.status == "FINISHED"
    assert run.data.params["recipe.batch_size"] == "1000"
    assert run.data.params["model.settings.dim"] == "8"
    history = client.get_metric_history(run.info.run_id, "test_accuracy")
    rows = Run.open(out).metrics()
    assert [metric.value for metric in history] == [
        float(row["test_accuracy"]) for row in rows
    ]
    assert [metric.step for metric in history] == [4, 8]
    assert not list(out.glob("events.out.tfevents.*"))


@pytest.mark.slow
def test_a_run_in_weights_and_biases(tmp_path, monkeypatch):
    wandb: Any = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    logged, init = [], wandb.init

    def keep(**arguments):
        logged.append(init(**arguments))
        return logged[-1]

    monkeypatch.setattr(wandb, "init", keep)
    out = tmp_path / "run"
    assert main([*SMALL, "--logger", "wandb", "--out", str(out)]) == 0
    assert main(["train", "--resume", str(out), "--epochs", "2"]) == 0
    first, second = logged
    assert first.id == second.id and first.name == "run"
    assert json.loads((out / "loggers.json").read_text()) == {"wandb": first.id}
    assert first.config["recipe"]["batch_size"] == 1000
    files = list(out.glob(f"wandb/offline-run-*-{first.id}/run-{first.id}.wandb"))
    assert files and all(b"test_accuracy" in file.read_bytes() for file in files)
