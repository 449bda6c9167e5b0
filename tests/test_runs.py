"""What a run meets after its training: other data, other names, other options."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import eqx_vit
import jax
import jax.random as jr
import numpy as np
import pytest
from eqx_vit.cli import main
from eqx_vit.cli.runs import Run
from eqx_vit.data import imagenet, imagenet_subset
from PIL import Image
from safetensors.numpy import load_file, save_file


@pytest.fixture(scope="module", autouse=True)
def _promotion():
    with jax.numpy_dtype_promotion("standard"):  # Optax needs it
        yield


def write_colours(folder, names=("alpha", "beta"), count=10):
    """Two classes that their colour tells apart, whatever their names."""
    rng = np.random.default_rng(0)
    for channel, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 60, (32, 32, 3))
            pixels[..., channel] += 150
            path = folder / name / f"{i:03}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


TRAIN = "train --epochs 2 --batch-size 9 --learning-rate 0.01 --warmup 0 --jitter 0"
TRAIN = [*TRAIN.split(), "--set", "dim=8", "heads=2", "dim_head=4", "depth=1"]
TRAIN += ["mlp_dim=8"]


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture(scope="module")
def run(tmp_path_factory, colours):
    folder = tmp_path_factory.mktemp("runs") / "one"
    with jax.numpy_dtype_promotion("standard"):
        assert main([*TRAIN, "--data", str(colours), "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def copy(run, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    return tmp_path / "copy"


def error(capsys):
    """The one line on standard error."""
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and lines[-1] == errors[0]
    return errors[0]


def scores(capsys):
    """Images, unreadable, loss, top-1 and top-5 that `evaluate` printed."""
    images, unreadable, loss, first, fifth, _ = capsys.readouterr().out.split()[-6:]
    return int(images), int(unreadable), float(loss), first, fifth


def with_head(run, scale, bias=0.0):
    """The run, with another head."""
    path = run / "weights.safetensors"
    tensors = load_file(path)
    tensors["head.weight"] = np.sign(tensors["head.weight"]) * np.float32(scale)
    tensors["head.bias"] = np.full_like(tensors["head.bias"], bias)
    save_file(tensors, path)
    return run


# Evaluation and prediction tell the truth.


def test_a_head_of_zeros_knows_nothing(copy, colours, capsys):
    with_head(copy, 0)
    assert main(["evaluate", str(copy), "--data", str(colours)]) == 0
    assert scores(capsys)[3] == "50.00%"


def test_ties_are_not_in_the_favour_of_the_model():
    from eqx_vit.cli.reports import score

    logits = np.zeros((7, 7))
    assert score(logits, np.arange(7)).rank.tolist() == [0] + 6 * [6]
    logits = np.array([[3.0, 2, 2, 2, 1, 0]])
    assert score(logits, np.array([3])).rank.tolist() == [3]


@pytest.mark.parametrize("command", ["evaluate", "predict", "explain", "features"])
def test_outputs_that_are_nan_name_the_images(copy, colours, tmp_path, command, capsys):
    if command == "features":  # which do not pass the head
        tensors = load_file(copy / "weights.safetensors")
        tensors["norm.weight"] = np.full_like(tensors["norm.weight"], 3e38)
        save_file(tensors, copy / "weights.safetensors")
    else:
        with_head(copy, 3e38)
    data = ["--data", str(colours)] if command == "evaluate" else [str(colours)]
    if command == "explain":
        data = [str(colours / "alpha" / "000.png"), "--out", str(tmp_path / "e.png")]
    if command == "features":
        data += ["--out", str(tmp_path / "f.npz")]
    assert main([command, str(copy), *data]) == 2
    message = error(capsys)
    assert "NaN or infinite" in message and ".png" in message
    assert not (tmp_path / "e.png").exists() and not (tmp_path / "f.npz").exists()


def test_classes_are_matched_by_name(run, tmp_path, capsys):
    other = write_colours(tmp_path / "other", ("alpha", "beta"), 4)
    rows = [f"other/{c}/{i:03}.png,{c}" for c in ("beta", "alpha") for i in range(4)]
    (tmp_path / "a.csv").write_text("path,label\n" + "\n".join(rows))
    for data in (other, tmp_path / "a.csv", other / "beta" / ".."):
        assert main(["evaluate", str(run), "--data", str(data)]) == 0
        images, _, _, first, _ = scores(capsys)
        assert (images, first) == (8, "100.00%")


def test_some_of_the_classes(run, tmp_path, capsys):
    other = write_colours(tmp_path / "other", ("alpha", "beta"), 4)
    shutil.rmtree(other / "alpha")
    assert main(["evaluate", str(run), "--data", str(other)]) == 0
    assert scores(capsys)[::3] == (4, "100.00%")


def test_a_report_names_the_classes_of_the_data(run, tmp_path, capsys):
    other = write_colours(tmp_path / "other", ("alpha", "beta"), 4)
    shutil.rmtree(other / "alpha")
    assert main(["evaluate", str(run), "--data", str(other), "--json"]) == 0
    measures = json.loads(capsys.readouterr().out)
    assert [row["class"] for row in measures["classes"]] == ["beta"]
    assert measures["macro_recall"] == measures["macro_precision"] == 1


def test_unknown_classes_are_listed(run, tmp_path, capsys):
    renamed = write_colours(tmp_path / "renamed", ("zebra", "beta"), 2)
    assert main(["evaluate", str(run), "--data", str(renamed)]) == 2
    assert "`zebra`" in error(capsys)


def test_all_images_or_those_held_out(run, colours, capsys):
    assert main(["evaluate", str(run), "--data", str(colours)]) == 0
    text = capsys.readouterr()
    assert "20 images" in text.out and "all images" in text.out
    assert "warning: the run was trained on most of" in text.err
    assert main(["evaluate", str(run)]) == 0
    text = capsys.readouterr().out
    assert "2 images" in text and "10% held out" in text


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file of a published model of ImageNet, whose answer is the class 3."""
    model, state = eqx_vit.create_model("vit_tiny_patch16_224", key=jr.key(0))
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    eqx_vit.save_weights(model, path, state)
    tensors = load_file(path)
    tensors["head.weight"] *= 0
    tensors["head.bias"][3] = 1
    save_file(tensors, path)
    return path


OTHER_NAMES = ["0003", "n01491361", "tiger shark"]


@pytest.mark.parametrize(
    "label", ["3", *(pytest.param(x, marks=pytest.mark.slow) for x in OTHER_NAMES)]
)
def test_imagenet_labels_of_any_kind(published, tmp_path, label, capsys):
    assert imagenet()[3].wordnet == "n01491361"
    write_colours(tmp_path, ("alpha", "beta"), 2)
    (tmp_path / "a.csv").write_text(
        f"path,label\nalpha/000.png,{label}\nalpha/001.png,{label}\n"
    )
    command = ["evaluate", "vit_tiny_patch16_224", "--weights", str(published)]
    assert main([*command, "--data", str(tmp_path / "a.csv")]) == 0
    assert scores(capsys)[3] == "100.00%"


def test_only_the_classes_of_a_subset_compete(published, tmp_path, capsys):
    kept = np.array(imagenet_subset("imagenet_a"))
    best = kept[load_file(published)["head.bias"][kept].argmax()]
    assert best != 3 and 6 in kept
    names = [imagenet()[i].wordnet for i in (best, 6)]
    write_colours(tmp_path, names, 2)
    command = ["evaluate", "vit_tiny_patch16_224", "--weights", str(published)]
    command += ["--data", str(tmp_path)]
    assert main([*command, "--subset", "imagenet_a"]) == 0
    assert scores(capsys)[3] == "50.00%"
    (tmp_path / names[1]).rename(tmp_path / "n01440764")
    assert main([*command, "--subset", "imagenet_a"]) == 2
    assert "1 class that ImageNet-A does not have: `n01440764`" in error(capsys)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("vit_base_patch16_clip_224.openai", "an embedding of 512 numbers"),
        ("vit_base_patch14_dinov2", "has no head"),
    ],
)
def test_what_is_no_set_of_classes(name, reason, published, colours, capsys):
    image = str(colours / "alpha" / "000.png")
    assert main(["predict", name, image]) == 2
    assert reason in error(capsys)


def test_names_are_printed_as_they_are(run, colours, tmp_path, capsys):
    folder = tmp_path / ("long " * 30)
    folder.mkdir()
    names = [
        "IMG 7 [final].png",
        "run:100:final :cat:.png",
        "[red]a[red].png",
        "[bold].png",
        "line\nbreak.png",
    ]
    for name in names:
        shutil.copy(colours / "alpha" / "000.png", folder / name)
    assert main(["predict", str(run), str(folder)]) == 0
    out = capsys.readouterr().out
    for name in names:
        shown = str(folder / name).replace("\n", "\\n")
        assert any(line.startswith(f"{shown} ") for line in out.splitlines())


def test_a_folder_where_a_file_belongs(run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["predict", str(run), str(tmp_path / "empty")]) == 2
    assert "folder without images" in error(capsys)
    assert main(["explain", str(run), str(tmp_path)]) == 2
    assert "is a folder" in error(capsys)


# A run is a name, and its files are weights.


def answers(model, state, channels=3, side=28):
    images = jr.normal(jr.key(1), (2, side, side, channels))
    return np.asarray(eqx_vit.predict(model, images, state))


def test_a_run_is_a_model(run, tmp_path):
    expected = answers(*Run.open(run).load_model())
    model, state = eqx_vit.create_model(str(run), key=jr.key(0))
    assert np.array_equal(answers(model, state), expected)
    weights = run / "weights.safetensors"
    model, state = eqx_vit.create_model(str(weights), key=jr.key(0))
    assert np.array_equal(answers(model, state), expected)
    model, state = eqx_vit.create_model(str(run), num_classes=5, key=jr.key(0))
    assert answers(model, state).shape == (2, 5)


@pytest.mark.slow
def test_a_run_goes_on_as_another(run, colours, tmp_path, capsys):
    other = write_colours(tmp_path / "other", ("beta", "alpha"), 10)
    command = ["train", "--model", str(run), "--epochs", "1", "--batch-size", "9"]
    command += ["--learning-rate", "0", "--data"]
    assert main([*command, str(colours), "--out", str(tmp_path / "same")]) == 0
    assert "fresh head" not in capsys.readouterr().out
    old, new = (Run.open(path).load_model()[0] for path in (run, tmp_path / "same"))
    assert np.array_equal(old.head.weight, new.head.weight)
    config = Run.open(tmp_path / "same").config
    assert config["mean"] == Run.open(run).config["mean"]
    # Of other classes the head is not theirs.
    (other / "alpha").rename(other / "gamma")
    assert main([*command, str(other), "--out", str(tmp_path / "new")]) == 0
    assert "a fresh head is trained" in capsys.readouterr().out
    new, _ = Run.open(tmp_path / "new").load_model()
    assert not np.array_equal(old.head.weight, new.head.weight)
    assert np.array_equal(old.norm.weight, new.norm.weight)


def test_a_run_of_another_function_is_refused(run):
    with pytest.raises(ValueError, match="holds a ViT .*`dim=8`.* give the run folder"):
        eqx_vit.create_model("ViT", weights=str(run), key=jr.key(0))


@pytest.mark.slow
def test_the_test_images_of_a_run_are_those_of_its_training(colours, tmp_path, capsys):
    shutil.copytree(colours, tmp_path / "data")
    out = tmp_path / "run"
    assert main([*TRAIN, "--data", str(tmp_path / "data"), "--out", str(out)]) == 0
    (tmp_path / "data" / "alpha" / "000.png").unlink()
    capsys.readouterr()
    assert main(["evaluate", str(out)]) == 2
    assert "`alpha` has" in error(capsys)


@pytest.mark.slow
def test_a_run_that_saved_nothing_gives_its_folder_to_the_next(
    colours, tmp_path, capsys
):
    out = tmp_path / "run"
    command = [*TRAIN, "--data", str(colours), "--out", str(out), "--clip", "0"]
    assert main([*command, "--learning-rate", "1e30", "--batch-size", "3"]) == 2
    assert out.exists() and "nan" in error(capsys)
    assert main(command) == 0


# Resuming.


def resumed(folder, *options):
    return main(["train", "--resume", str(folder), *options])


@pytest.mark.slow
def test_a_run_is_extended(copy, capsys):
    assert resumed(copy, "--epochs", "3") == 0
    assert [row["epoch"] for row in Run.open(copy).metrics()] == ["1", "2", "3"]
    assert resumed(copy, "--epochs", "2") == 2
    assert "extended, not shortened" in error(capsys)


@pytest.mark.parametrize(
    "options, name",
    [
        (("--learning-rate", "1"), "`--learning-rate`"),
        (("--batch-size", "9"), "`--batch-size`"),
        (("--epochs", "3", "--seed", "0"), "`--seed`"),
        (("--set", "depth=2"), "`--set`"),
        (("--model", "CaiT"), "`--model`"),
    ],
)
def test_what_cannot_be_changed_is_named(copy, options, name, capsys):
    before = (copy / "config.json").read_bytes()
    assert resumed(copy, *options) == 2
    assert name in error(capsys) and (copy / "config.json").read_bytes() == before


CHANGES = {
    "the class `zebra` is new": lambda f: shutil.copytree(f / "beta", f / "zebra"),
    "the class `beta` is gone": lambda f: (f / "beta").rename(f / "zebra"),
    "images to train on instead of": lambda f: (f / "beta" / "000.png").unlink(),
    "has other images to": lambda f: (f / "beta" / "000.png").rename(
        f / "beta" / "999.png"
    ),
}


@pytest.mark.parametrize("message", CHANGES)
def test_other_data_is_said(copy, colours, tmp_path, message, capsys):
    moved = tmp_path / "moved"
    shutil.copytree(colours, moved)
    CHANGES[message](moved)
    before = (copy / "weights.safetensors").read_bytes()
    assert resumed(copy, "--epochs", "3", "--data", str(moved)) == 2
    assert message in error(capsys)
    assert (copy / "weights.safetensors").read_bytes() == before


@pytest.mark.slow
def test_data_may_move(copy, colours, tmp_path):
    shutil.copytree(colours, tmp_path / "moved")
    assert resumed(copy, "--epochs", "3", "--data", str(tmp_path / "moved")) == 0


@pytest.mark.slow
def test_fewer_devices_will_do(copy, capsys):
    config = json.loads((copy / "config.json").read_text())
    config["options"] |= {"data_parallel": 3, "fsdp": 1}
    (copy / "config.json").write_text(json.dumps(config))
    assert resumed(copy, "--epochs", "3") == 0
    text = capsys.readouterr().out
    assert "made on 3 devices and goes on on 1" in text and "may differ" in text


# Starting.


@pytest.mark.parametrize(
    "options, message",
    [
        (("--model", "vit_tiny_patch16_224", "--weights", "no.pth"), "no.pth"),
        (("--teacher", "vit_tiny_patch16_224"), "`alpha`"),
        (("--data-parallel", "64"), "64"),
    ],
)
def test_a_failed_start_leaves_nothing(colours, tmp_path, options, message, capsys):
    out = tmp_path / "runs" / "one"
    if "--teacher" in options:
        options = (*options, "--teacher-weights", str(_tiny(tmp_path)))
    assert main([*TRAIN, "--data", str(colours), "--out", str(out), *options]) == 2
    assert message in error(capsys) and not out.exists()


def _tiny(folder):
    model, state = eqx_vit.create_model("vit_tiny_patch16_224", key=jr.key(0))
    eqx_vit.save_weights(model, folder / "tiny.safetensors", state)
    return folder / "tiny.safetensors"


@pytest.mark.slow
def test_a_batch_that_nobody_typed_is_made_smaller(colours, tmp_path, capsys):
    command = [*TRAIN, "--data", str(colours), "--out", str(tmp_path / "run")]
    del command[command.index("--batch-size") : command.index("--batch-size") + 2]
    command[command.index("--epochs") + 1] = "1"
    assert main(command) == 0
    assert "Batches of 16 images" in capsys.readouterr().out
    assert Run.open(tmp_path / "run").recipe.batch_size == 16


@pytest.mark.slow
def test_a_log_has_a_line_an_epoch(colours, tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*TRAIN, "--data", str(colours), "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert len(epochs) == 2 and all("test accuracy" in line for line in epochs)


@pytest.mark.slow
def test_a_run_within_its_data_is_no_class(tmp_path, monkeypatch, capsys):
    write_colours(tmp_path / "data")
    monkeypatch.chdir(tmp_path / "data")
    for name in ("data", "data-2"):
        assert main([*TRAIN, "--data", "."]) == 0
        assert Run.open(Path("runs") / name).config["classes"] == ["alpha", "beta"]
    assert sorted(os.listdir()) == ["alpha", "beta", "runs"]


def test_a_teacher_that_knows_more_in_another_order(run, colours, tmp_path):
    from eqx_vit.cli.runs._fit import _Teacher

    other = json.loads((run / "config.json").read_text())
    turned = tmp_path / "turned"
    shutil.copytree(run, turned)
    other["classes"] = ["beta", "alpha"]
    (turned / "config.json").write_text(json.dumps(other))
    images = np.zeros((1, 28, 28, 3), np.float32)
    student = Run.open(run)
    straight, reversed_ = (
        np.asarray(_Teacher(student, str(name))(jax.numpy.asarray(images)))
        for name in (run, turned)
    )
    assert np.array_equal(straight, reversed_[:, ::-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r[1]", "a*b", "a:b"])
def test_a_run_folder_of_any_name_is_resumed(colours, tmp_path, name):
    out = tmp_path / name
    assert main([*TRAIN, "--data", str(colours), "--out", str(out)]) == 0
    assert resumed(out, "--epochs", "3") == 0


@pytest.mark.slow
def test_batches_of_one(colours, tmp_path):
    command = [*TRAIN, "--data", str(colours), "--out", str(tmp_path / "run")]
    command += ["--batch-size", "1", "--epochs", "1"]
    assert main(command) == 0


@pytest.mark.slow
def test_two_trainings_in_one_folder(copy, capsys):
    with Run.open(copy).locked():
        assert resumed(copy, "--epochs", "3") == 2
    assert "Another process trains in" in error(capsys)
    assert resumed(copy, "--epochs", "3") == 0


DAMAGE = {
    "classes": ["alpha", 3],
    "mean": "grey",
    "std": [0.0, 1.0, 1.0],
    "crop": None,
    "model.channels": 2,
    "model.image_size": [28],
    "model.num_classes": "2",
    "options": [],
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_field_is_named(copy, colours, name, capsys):
    config = json.loads((copy / "config.json").read_text())
    *owner, last = name.split(".")
    (config[owner[0]] if owner else config)[last] = DAMAGE[name]
    (copy / "config.json").write_text(json.dumps(config))
    image = str(colours / "alpha" / "000.png")
    for command in (["predict", str(copy), image], ["train", "--resume", str(copy)]):
        assert main(command) == 2
        assert f"`{name}`" in error(capsys)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("\n1,", "\none,", "in line 2, `epoch` is 'one'"),
        ("test_loss", "loss", "in line 2, `test_loss` is 'None'"),
        ("\n2,", "\n2\0,", "in line 3|NUL"),
        ("\n1,", "\n1.5,", "in line 2, `epoch` is '1.5'"),
        ("epoch", "epoche", "in line 2, `epoch` is 'None'"),
    ],
)
def test_damaged_metrics_are_named(copy, old, new, message, capsys):
    path = copy / "metrics.csv"
    text = path.read_text().replace("\r\n", "\n")
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert main(["train", "--resume", str(copy), "--epochs", "3"]) == 2
    said = error(capsys)
    assert f"{path}` is damaged" in said and re.search(message, said)
    assert path.exists()  # and nothing is deleted


WORKERS = """
import sys
from eqx_vit.cli import main
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


def children(pid):
    """The processes under another one, by Linux's table."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def shared_memory(pid):
    """The files of shared memory that a process has open."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    names = [line.split(maxsplit=5)[-1] for line in lines]
    return {name for name in names if name.startswith("/dev/shm/psm_")}


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["parent", "worker"])
def test_no_process_outlives_a_kill(colours, tmp_path, killed):
    command = [*TRAIN, "--data", str(colours), "--out", str(tmp_path / "run")]
    command += ["--epochs", "9999", "--workers", "2"]
    script = tmp_path / "train.py"
    script.write_text(WORKERS)
    with (tmp_path / "errors").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, str(script), *command], stderr=errors, stdout=errors
        )
    metrics, deadline = tmp_path / "run" / "metrics.csv", time.monotonic() + 400
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    loaders = [
        pid
        for pid in children(process.pid)
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert metrics.exists() and len(loaders) >= 2
    memory = set().union(*map(shared_memory, [process.pid, *loaders]))
    os.kill(process.pid if killed == "parent" else min(loaders), signal.SIGKILL)
    process.wait(timeout=60)
    while any(Path(f"/proc/{pid}").exists() for pid in loaders):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    if killed == "worker":
        said = (tmp_path / "errors").read_text()
        assert process.returncode == 2 and "error: A process that loads images" in said
    while any(map(os.path.exists, memory)):
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
def test_states_that_nobody_has_looked_at_are_not_saved(colours, tmp_path, capsys):
    out = tmp_path / "run"
    command = [*TRAIN, "--data", str(colours), "--out", str(out), "--epochs", "9"]
    command += ["--save-every", "1", "--watch", "1000", "--learning-rate", "1e30"]
    command += ["--batch-size", "3"]
    assert main([*command, "--clip", "0"]) == 2
    message = error(capsys)
    broken = int(re.search(r"step (\d+)", message)[1])  # pyright: ignore
    saved = [int(path.name) for path in (out / "checkpoints").glob("[0-9]*")]
    # The state that gave the loss is that after so many steps.
    assert saved and max(saved) < broken


@pytest.mark.slow
def test_the_losses_of_an_epoch_survive_a_stop(colours, tmp_path, monkeypatch):
    """A run that is stopped in an epoch has the row of one that is not."""
    from eqx_vit.cli.runs import _fit

    command = [*TRAIN, "--data", str(colours), "--save-every", "1", "--batch-size", "4"]
    command += ["--erasing", "0.9"]
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    train, steps = _fit._Training._train, []

    def interrupted(self):
        steps.append(self.step)
        if len(steps) == 4:
            raise KeyboardInterrupt
        train(self)

    with monkeypatch.context() as patch:
        patch.setattr(_fit._Training, "_train", interrupted)
        assert main([*command, "--out", str(tmp_path / "cut")]) == 130
    assert resumed(tmp_path / "cut") == 0
    rows = [Run.open(tmp_path / name).metrics() for name in ("whole", "cut")]
    for name in ("train_loss", "test_loss"):
        assert [row[name] for row in rows[0]] == [row[name] for row in rows[1]]
