import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

import equinox as eqx
import eqx_vit.__main__
import jax
import jax.random as jr
import numpy as np
import pytest
from eqx_vit import predict, save_weights, zoo
from eqx_vit.cli import main, parser
from eqx_vit.cli.runs import Architecture, Run
from eqx_vit.data import digits, read_digit
from eqx_vit.families import families
from PIL import Image

from .helpers import assert_close, count


SMALL = "train --set dim=8 heads=2 dim_head=4 depth=1 mlp_dim=8 patch_size=14".split()
PICTURES = ("curves.png", "predictions.png")


@pytest.fixture(scope="module", autouse=True)
def _promotion():
    with jax.numpy_dtype_promotion("standard"):  # Optax needs it
        yield


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "one"
    command = [*SMALL, "--epochs", "2", "--precision", "bfloat16"]
    command += ["--batch-size", "200"]
    with jax.numpy_dtype_promotion("standard"):
        assert main([*command, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "digit.png"
    image = 255 * (1 - digits().test_images[0, ..., 0])
    Image.fromarray(image.astype(np.uint8)).resize((112, 112)).save(path)
    return path


def test_run_folder(run):
    names = {"config.json", "weights.safetensors", "best.safetensors", "metrics.csv"}
    names |= set(PICTURES)
    names |= {path.name for path in run.glob("events.out.tfevents.*")}
    names |= {"checkpoints", "report.html", "run.toml"}
    assert set(os.listdir(run)) == names and len(names) == 10
    config = json.loads((run / "config.json").read_text())
    assert config["model"]["settings"]["dim"] == 8
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])
    for name in PICTURES:
        pixels = np.asarray(Image.open(run / name).convert("L"))
        assert pixels.shape[1] > 1000 and pixels.std() > 10


def test_predict(run, picture, capsys):
    assert main(["predict", str(run), str(picture), "--top", "10"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    shares = [float(line.split()[-1].rstrip("%")) for line in lines]
    assert len(shares) == 10 and abs(sum(shares) - 100) < 1
    assert shares == sorted(shares, reverse=True)
    model, state = Run.open(run).load_model()
    pixels = np.round(255 * read_digit(picture)).astype(np.uint8)
    image = Run.open(run).centre(pixels)
    best = predict(model, image[None], state)[0].argmax()
    assert lines[0].split()[-2] == str(best)


def test_predict_names_what_it_cannot_read(run, picture, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture.read_bytes()[:50])
    assert main(["predict", str(run), str(broken), str(picture)]) == 2
    out, err = capsys.readouterr()
    assert "broken.png" in err and "digit.png" in out


def test_dark_ink_is_inverted(picture):
    image = read_digit(picture)
    assert np.abs(image - digits().test_images[0]).mean() < 0.05


@pytest.mark.parametrize("seconds", [1.0, 1.7, 2.5])
def test_ctrl_c_while_importing(seconds, tmp_path):
    command = [sys.executable, "-m", "eqx_vit", "train", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 130)
    # (Before it runs anything of ours, Python prints one.)
    assert b"Traceback" not in errors or b"__main__.py" not in errors


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_what_needs_no_jax(option):
    code = "import sys; from eqx_vit.__main__ import main; sys.argv[1:] = [%r]\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    code += "sys.exit('jax' in sys.modules or 'equinox' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code % option]).returncode == 0


def test_an_interrupt_is_130(monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("eqx_vit.cli._models.run", interrupted)
    assert main(["models"]) == 130


STOPS = [
    pytest.param(signal.SIGTERM, 0, marks=pytest.mark.slow),
    (signal.SIGINT, 130),
]


@pytest.mark.slow
@pytest.mark.parametrize("number, status", STOPS)
def test_a_signal_saves_and_stops(tmp_path, monkeypatch, picture, number, status):
    write_metrics = Run.write_metrics

    def interrupted(self, rows):
        write_metrics(self, rows)
        signal.raise_signal(number)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Run, "write_metrics", interrupted)
        command = [*SMALL, "--epochs", "2", "--batch-size", "500"]
        assert main([*command, "--out", str(folder)]) == status
    assert len((folder / "metrics.csv").read_text().splitlines()) == 2
    assert all((folder / name).exists() for name in PICTURES)
    assert main(["predict", str(folder), str(picture)]) == 0
    assert main(["train", "--resume", str(folder)]) == 0
    rows = Run.open(folder).metrics()
    assert [row["step"] for row in rows] == ["8", "16"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--batch-size", "5000"], "between 1 and the 4000 training images"),
        (["--epochs", "0"], "nearest legal value is 1"),
        (["--set", "heads=0"], "nearest legal value is 1"),
        (["--set", "deep=3"], "nearest is `depth`"),
        (["--model", "Vit"], "ViT"),
        (["--recipe", "deit_smal"], "nearest recipe is 'deit_small'"),
        (["--crop", "0"], "in (0, 1]"),
        (["--data", "nowhere/at/all"], "no folder or file `nowhere/at/all`"),
    ],
)
def test_wrong_options(arguments, message, tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*SMALL, *arguments, "--out", str(out)]) == 2
    assert message in error(capsys)
    assert not out.exists()


def test_a_run_is_not_overwritten(run, capsys):
    before = sorted(os.listdir(run))
    assert main([*SMALL, "--out", str(run)]) == 2
    assert "not empty" in error(capsys)
    assert sorted(os.listdir(run)) == before


def printed(capsys):
    return capsys.readouterr().out


def error(capsys):
    """The one line on standard error."""
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and lines[-1] == errors[0]
    return errors[0]


def test_predict_without_a_run(tmp_path, picture, capsys):
    assert main(["predict", str(tmp_path), str(picture)]) == 2
    assert "not a run folder" in error(capsys)


def test_evaluate(run, capsys):
    assert main(["evaluate", str(run), "--batch-size", "300"]) == 0
    images, unreadable, loss, first, fifth, _ = printed(capsys).split()[-6:]
    last = Run.open(run).metrics()[-1]
    assert (images, unreadable) == ("1000", "0")
    assert first == f"{float(last['test_accuracy']):.2%}"
    assert abs(float(loss) - float(last["test_loss"])) < 1e-3
    assert float(fifth.rstrip("%")) > float(first.rstrip("%"))


def test_evaluate_prints_one_object(run, tmp_path, capsys):
    out = tmp_path / "new" / "report"
    assert main(["evaluate", str(run), "--json", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    measures = json.loads(printed)
    accuracy = float(Run.open(run).metrics()[-1]["test_accuracy"])
    assert measures["top1"] == pytest.approx(accuracy, abs=1e-6)
    assert [row["class"] for row in measures["classes"]] == list("0123456789")
    assert measures == json.loads((out / "report.json").read_text())


def test_the_report_of_a_run(run):
    text = (run / "report.html").read_text()
    accuracy = float(Run.open(run).metrics()[-1]["test_accuracy"])
    assert f"<dt>top-1</dt><dd>{accuracy:.2%}</dd>" in text
    assert "<td>learning_rate</td>" in text and text.count("data:image/png") == 3


def test_a_report_that_fails_is_a_warning(run, monkeypatch, capsys):
    def full(*arguments):
        raise OSError("the disk is full")

    monkeypatch.setattr("eqx_vit.cli.reports._run.write_page", full)
    monkeypatch.setattr("eqx_vit.cli._train.fit", lambda *_, **__: None)
    assert main(["train", "--resume", str(run)]) == 0
    assert "could not be written: the disk is full" in capsys.readouterr().err


@pytest.fixture(scope="module")
def many(picture, tmp_path_factory):
    """A folder with 150 images, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("many")
    for i in range(150):
        (folder / f"{i:03}.png").write_bytes(picture.read_bytes())
    (folder / "070.png").write_bytes(b"broken")
    return folder


def test_predict_prints_json_lines(run, many, capsys):
    assert main(["predict", str(run), str(many), "--format", "json", "--top", "2"]) == 2
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 149 and rows[-1]["image"] == str(many / "149.png")
    first, second = (c["probability"] for c in rows[-1]["classes"])
    assert first > second > 0 and err.count("warning: cannot read") == 1


def test_predict_prints_csv(run, many, capsys):
    assert main(["predict", str(run), str(many), "--format", "csv", "--top", "3"]) == 2
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert len(rows) == 3 * 149 and {*rows[0]} == {"image", "class", "probability"}


def test_a_folder_is_one_program(run, many, monkeypatch, capsys):
    shapes = []

    def noted(model, images, state):
        shapes.append(images.shape)
        return predict(model, images, state)

    monkeypatch.setattr("eqx_vit.cli._load.predict", noted)
    assert main(["predict", str(run), str(many)]) == 2
    assert shapes == 3 * [(64, 28, 28, 1)]
    assert main(["predict", str(run), str(many / "000.png")]) == 0
    assert shapes[3:] == [(1, 28, 28, 1)]


def test_only_some_images_are_drawn(run, many, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("eqx_vit.cli._predict.MOST_DRAWN", 2)
    out = tmp_path / "classes.png"
    assert main(["predict", str(run), str(many), "--out", str(out)]) == 2
    assert "(the first 2 of 149 images)" in capsys.readouterr().out
    assert Image.open(out).height < 1000


def test_nothing_that_can_be_read(run, many, capsys):
    assert main(["predict", str(run), str(many / "070.png")]) == 2
    err = capsys.readouterr().err
    assert "070.png" in err and "None of the images can be read" in err


def test_features_of_images_without_classes(run, many, tmp_path, capsys):
    out = tmp_path / "features.npz"
    command = ["features", str(run), str(many), "--out", str(out)]
    assert main(command) == 0
    with np.load(out) as file:
        assert {*file} == {"features", "names"} and file["features"].shape == (149, 8)
        assert file["names"][-1] == str(many / "149.png")
    assert main([*command, "--neighbours", "3"]) == 2
    assert "`--neighbours` goes with images that have classes" in error(capsys)


def test_evaluate_a_published_model(tmp_path, capsys):
    arguments = ["evaluate", "levit_128s", "--weights", "none.pth"]
    assert main(arguments) == 2 and "none.pth" in error(capsys)
    arguments = ["evaluate", "vit_tiny_patch16_22"]
    assert main(arguments) == 2 and "vit_tiny_patch16_224" in error(capsys)


def test_summary(run, capsys):
    assert main(["summary", str(run)]) == 0
    lines = printed(capsys).splitlines()
    model, _ = Run.open(run).load_model()
    assert lines[1].split()[:3] == ["model", "ViT", "10"]
    assert f"{count(model):,}" in lines[1]
    assert main(["summary", "vit_tiny_patch16_224", "--depth", "1"]) == 0
    lines = printed(capsys).splitlines()
    # 1.26 G multiplications and additions of each product, as timm counts.
    assert "5,717,416" in lines[1] and 2.4 < float(lines[1].split()[-1]) < 2.6
    assert all(len(line) - len(line.lstrip()) <= 2 for line in lines)


def test_models(capsys):
    assert main(["models", "cait_xxs*"]) == 0
    rows = [row for row in printed(capsys).splitlines() if "cait" in row]
    assert len(rows) > 2 and all("cait_xxs" in row for row in rows)
    assert main(["models", "none*"]) == 2 and "No name matches" in error(capsys)


def test_augment(tmp_path, capsys):
    out = tmp_path / "grid.png"
    arguments = ["augment", "--out", str(out), "--rows", "3", "--columns", "4"]
    arguments += ["--recipe", "deit_small", "--model", "SimpleViT"]
    assert main(arguments) == 0 and str(out) in printed(capsys)
    pixels = np.asarray(Image.open(out).convert("L"))
    assert min(pixels.shape) > 200 and pixels.std() > 10


def test_explain(run, picture, tmp_path, capsys):
    out = tmp_path / "explained.png"
    command = ["explain", str(run), str(picture), "--out", str(out)]
    assert main(command) == 0 and str(out) in printed(capsys)
    pixels = np.asarray(Image.open(out).convert("L"))
    assert pixels.shape[1] > 1000 and pixels.std() > 10
    assert main([*command, "--label", "10"]) == 2
    assert "`--label 10`" in error(capsys)


def test_export(run, tmp_path, capsys):
    out = tmp_path / "model.jax"
    assert main(["export", str(run), "--out", str(out)]) == 0
    assert "float32[batch,28,28,1] -> float32[batch,10]" in printed(capsys)
    images = np.zeros((2, 28, 28, 1), np.float32)
    assert jax.export.deserialize(out.read_bytes()).call(images).shape == (2, 10)
    command = ["export", str(run), "--out", str(tmp_path / "model.onnx")]
    assert main([*command, "--platforms", "cpu"]) == 2
    assert "`--platforms`" in error(capsys)


def test_features(run, folder, tmp_path, capsys):
    out = tmp_path / "features.npz"
    assert main(["features", str(run), str(folder), "--out", str(out)]) == 0
    text, errors = capsys.readouterr()
    assert "nearest neighbours: " in text and "linear probe: " in text
    assert errors.count("cannot read") == 1
    with np.load(out) as file:
        assert file["train_features"].shape == (9, 8)
        assert file["test_labels"].tolist() == [0, 1]
        assert file["classes"].tolist() == ["cat", "dog"]


@pytest.fixture
def folder(tmp_path):
    """Two classes of coloured images, of which one cannot be read."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{i}.png")
    (tmp_path / "images" / "dog" / "3.png").write_bytes(b"broken")
    return tmp_path / "images"


@pytest.mark.slow
def test_fine_tuning_the_head_of_a_published_model(folder, tmp_path, capsys):
    make: Any = eqx.nn.make_with_state(zoo["vit_tiny_patch16_224"].model)
    arguments = zoo["vit_tiny_patch16_224"].arguments()
    file, out = tmp_path / "published.safetensors", tmp_path / "run"
    published, state = make(**arguments, key=jr.key(0))
    save_weights(published, file, state, names="timm")
    command = ["train", "--model", "vit_tiny_patch16_224", "--weights", str(file)]
    command += ["--image-size", "32", "--data", str(folder), "--out", str(out)]
    command += ["--recipe", "finetune", "--epochs", "1", "--batch-size", "5"]
    assert main([*command, "--warmup", "0", "--freeze", "*", "!head*"]) == 0
    text = capsys.readouterr().err
    assert text.count("cannot read") == 1 and "3.png" in text
    tuned, _ = Run.open(out).load_model()
    assert tuned.head.weight.shape == (2, 192)
    blocks = (tuned.transformer.blocks, published.transformer.blocks)
    assert eqx.tree_equal(*blocks)
    assert Run.open(out).metrics()[-1]["unreadable"] == "1"


@pytest.mark.slow
def test_a_run_teaches_another(run, tmp_path):
    command = [
        *SMALL,
        "distilled=True",
        "pool='cls'",
        "--teacher",
        str(run),
        "--epochs",
        "1",
    ]
    command += ["--mixup", "0.8", "--cutmix", "1", "--out", str(tmp_path / "run")]
    assert main([*command, "--batch-size", "500", "--distillation", "soft"]) == 0
    assert len(Run.open(tmp_path / "run").metrics()) == 1


@pytest.mark.parametrize("name", families())
def test_the_tiny_size_of(name):
    model, _ = Architecture.of(name, 10, None, 1, {}).shapes()
    assert 10_000 < count(model) < 500_000


def test_help_explains_every_option(capsys):
    (commands,) = (a.choices for a in parser()._actions if isinstance(a.choices, dict))
    for name, command in commands.items():
        assert all(action.help for action in command._actions), name
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert "show this help" in capsys.readouterr().out


def test_what_is_missing_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "eqx_vit.cli", None)
    assert eqx_vit.__main__.main() == 2
    assert "install -e '.[train]'" in capsys.readouterr().err


def test_digits():
    data = digits()
    assert data.train_images.shape == (4000, 28, 28, 1)
    assert data.test_images.shape == (1000, 28, 28, 1)
    assert np.bincount(data.test_labels).min() > 80
    seen = {image.tobytes() for image in data.train_images}
    assert not any(image.tobytes() in seen for image in data.test_images)


@pytest.fixture(scope="session")
def default_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("default")
    command = [sys.executable, "-m", "eqx_vit", "train"]
    subprocess.run(command, cwd=folder, check=True, timeout=300)
    return folder / "runs" / "digits"


@pytest.mark.slow
def test_the_default_run_learns_the_digits(default_run):
    with (default_run / "metrics.csv").open() as file:
        *_, last = csv.DictReader(file)
    assert float(last["test_accuracy"]) >= 0.95
    # What it has learnt serves other classifiers.
    command = [sys.executable, "-m", "eqx_vit", "features", default_run, "digits"]
    text = subprocess.check_output(command, cwd=default_run.parent.parent, text=True)
    accuracies = re.findall(r"(?:neighbours|probe): ([\d.]+)%", text)
    assert len(accuracies) == 2 and min(map(float, accuracies)) > 90


@pytest.mark.slow
def test_the_report_of_the_default_run_in_a_browser(default_run):
    pytest.importorskip("playwright")
    from .browser import browsing, faults, serving

    with serving(str(default_run)) as address, browsing() as page:
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        assert list(faults(page, address, "report.html")) == []
        assert {url for url in asked if not url.startswith("data:")} == {
            f"{address}report.html"
        }
        assert page.locator("img").count() == 3
        page.get_by_role("heading", name="Recipe").click()
        assert page.get_by_role("cell", name="learning_rate", exact=True).is_visible()


@pytest.mark.slow
def test_patience_ends_a_training_and_keeps_the_best(tmp_path, capsys):
    out = tmp_path / "run"
    command = [*SMALL, "--epochs", "9", "--batch-size", "1000", "--patience", "1"]
    assert main([*command, "--learning-rate", "0", "--out", str(out)]) == 0
    assert "No better test accuracy for 1 epochs" in capsys.readouterr().out
    with (out / "metrics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
    weights, best = out / "weights.safetensors", out / "best.safetensors"
    assert weights.read_bytes() == best.read_bytes()
    # (Weights of another accuracy stand in for those of a later epoch.)
    Run.open(out).save_model(*Run.open(out).architecture.fresh(jr.key(1)))
    capsys.readouterr()
    printed = []
    for option in ([], ["--best"]):
        assert main(["evaluate", str(out), *option]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] != printed[1]


@pytest.mark.slow
def test_an_image_that_is_not_square(tmp_path, capsys):
    sizes = ["--image-size", "28", "56"]
    assert main([*SMALL, *sizes, "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    assert Run.open(tmp_path / "run").architecture.image_size == (28, 56)
    assert main(["summary", "vit_tiny_patch16_224", "--image-size", "32", "64"]) == 0
    capsys.readouterr()
    assert main(["summary", "vit_tiny_patch16_224", "--image-size", "1", "2", "3"]) == 2
    assert "it must be one, the side of a square, or two" in capsys.readouterr().err


def test_best_goes_with_a_run(picture, capsys):
    assert main(["predict", "vit_tiny_patch16_224", str(picture), "--best"]) == 2
    assert "`--best` goes with a run folder" in capsys.readouterr().err


@pytest.mark.slow
def test_adapters_are_trained_and_saved(tmp_path, capsys):
    out = tmp_path / "run"
    command = [*SMALL, "--lora", "2", "--epochs", "1", "--batch-size", "500"]
    assert main([*command, "--out", str(out)]) == 0
    trained, _ = Run.open(out).load_model()
    fresh, _ = Run.open(out).architecture.make(jr.split(jr.key(0))[0])
    assert np.array_equal(
        trained.patch_embedding.linear.weight, fresh.patch_embedding.linear.weight
    )
    assert not np.array_equal(
        trained.transformer.blocks.attention.qkv.weight,
        fresh.transformer.blocks.attention.qkv.weight,
    )
    merged = eqx_vit.merge_lora(eqx_vit.load_adapter(fresh, out / "adapter"))
    image = jr.normal(jr.key(1), (28, 28, 1))
    assert_close(merged(image), trained(image))
    assert main([*command, "--rank", "2"]) == 2
    assert main([*SMALL, "--lora", "99", "--out", str(tmp_path / "other")]) == 2
    assert "`rank=99` is larger than a side" in capsys.readouterr().err
