"""Runs that start from a TOML file, and from what another run wrote."""

import json
import tomllib

import eqx_vit
import jax
import numpy as np
import pytest
from eqx_vit.cli import _train, main
from eqx_vit.cli.runs import Run
from PIL import Image
from safetensors.numpy import load_file


@pytest.fixture(autouse=True)
def _somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with jax.numpy_dtype_promotion("standard"):  # Optax needs it
        yield


@pytest.fixture
def images(tmp_path):
    """Two classes of noise."""
    rng = np.random.default_rng(0)
    for name in ("alpha", "beta"):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 256, (28, 28, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")


FILE = """
data = "images"
model = "ViT"
image_size = [28, 14]
set = { dim = 8, heads = 2, dim_head = 4, depth = 1, mlp_dim = 8, patch_size = [14, 7] }
holdout = 0.2
seed = 3
epochs = 1
batch_size = 5
optimizer = "sgd"
freeze = ["patch_embedding*"]
jitter = 4
"""


@pytest.fixture
def begun(images, monkeypatch):
    """The run that a file and options would begin."""

    def begin(*arguments, text=FILE):
        with open("mine.toml", "w", encoding="utf-8") as file:
            file.write(text)
        runs = []
        monkeypatch.setattr(_train, "fit", lambda run, *_, **__: runs.append(run) or 0)
        assert main(["train", *arguments]) == 0
        return runs[0]

    return begin


def test_a_file_has_the_options(begun):
    run = begun("mine.toml")
    architecture = run.architecture
    assert architecture.name == "ViT" and architecture.image_size == (28, 14)
    assert architecture.settings["patch_size"] == (14, 7)
    recipe = run.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.jitter) == (1, 5, 4.0)
    assert recipe.algorithm == "sgd" and recipe.freeze == ("patch_embedding*",)
    assert run.config["options"]["seed"] == 3


def test_options_beside_the_file_win(begun):
    options = ["--epochs", "2", "--seed", "4", "--set", "depth=2"]
    run = begun("mine.toml", *options)
    assert run.recipe.epochs == 2 and run.config["options"]["seed"] == 4
    settings = run.architecture.settings
    assert settings["depth"] == 2 and settings["dim"] == 8


def test_a_recipe_beside_the_file_replaces_its_recipe(begun, capsys):
    run = begun("mine.toml", "--recipe", "levit", "--batch-size", "5")
    assert run.recipe.algorithm == "adamw" and run.recipe.epochs == 1000
    assert run.config["options"]["seed"] == 3
    assert "`--recipe levit` replaces the recipe" in capsys.readouterr().out


def test_a_file_with_a_recipe_only(begun, capsys):
    text = 'base = "finetune"\nepochs = 3\nbatch_size = 5\n'
    first = begun("mine.toml", "--data", "images", text=text)
    second = begun("--recipe", "mine.toml", "--data", "images", text=text)
    assert first.recipe == second.recipe and first.recipe.layer_decay == 0.75
    begun(text=FILE)
    assert main(["train", "--recipe", "mine.toml"]) == 2
    assert "`eqx-vit train mine.toml`" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, parts",
    [
        ("epoch = 3", ["`epoch`", "nearest is `epochs`"]),
        ("resume = 'runs/digits'", ["`resume`"]),
        ("seed = 'many'", ['`seed = "many"`', "a whole number"]),
        ("seed = true", ["`seed = true`", "a whole number"]),
        ("seed = -1", ["`seed = -1`", "from 0"]),
        ("holdout = 2.0", ["`holdout = 2.0`", "a number from 0 to 1"]),
        ("data = ''", ['`data = ""`', "must be a name"]),
        ("data = 3", ["`data = 3`", "a text"]),
        ("pretrained = 1", ["`pretrained = 1`", "true or false"]),
        ("image_size = [1, 2, 3]", ["`image_size = [1, 2, 3]`", "height and width"]),
        ("logger = ['wand']", ["`logger = ", "'wand'", "tensorboard, wandb, mlflow"]),
        ("set = ['depth=4']", ['`set = ["depth=4"]`', "a table"]),
        ("set = { depth = 1979-05-27 }", ["`depth` must be a number"]),
        ("epochs = '3'", ["`epochs='3'`", "a whole number"]),
        ("epochs = 0", ["`epochs=0`", "nearest legal value is 1"]),
        ("loss = 'hinge'", ["`loss='hinge'`", "softmax"]),
        ("recipe = 'lewit'", ["'lewit'", "'levit'"]),
        ("base = 'levit'\nrecipe = 'levit'", ["`base` and `recipe`"]),
        ("epochs: 3", ["is not a TOML file"]),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, text, parts, capsys):
    (tmp_path / "mine.toml").write_text(text)
    assert main(["train", "mine.toml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(part in line for part in ["mine.toml", *parts]), line


@pytest.mark.parametrize(
    "name", ["", " ", "a\0b", "missing.toml", "images", "x" * 5000]
)
def test_what_is_no_file_is_named(images, name, capsys):
    assert main(["train", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "neither a TOML file" in line


def test_a_file_does_not_go_with_resume(begun, capsys):
    begun("mine.toml")
    assert main(["train", "mine.toml", "--resume", "runs/images"]) == 2
    assert "leave one of them out" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_folder_starts_its_run_again(images, tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text(FILE)
    assert main(["train", "mine.toml", "--epochs", "2", "--out", "one"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["train", str(tmp_path / "one"), "--out", "two"]) == 0
    one, two = Run.open(tmp_path / "one"), Run.open(tmp_path / "elsewhere" / "two")
    weights = [load_file(run.folder / "weights.safetensors") for run in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    assert all(
        np.array_equal(weights[0][name], weights[1][name]) for name in weights[0]
    )
    losses = [[row["test_loss"] for row in run.metrics()] for run in (one, two)]
    assert len(losses[0]) == 2 and losses[0] == losses[1]
    # An extended run is started again as it was extended.
    assert main(["train", "--resume", "two", "--epochs", "3"]) == 0
    again = tomllib.loads((two.folder / "run.toml").read_text())
    assert again["epochs"] == 3 and again["data"] == str(tmp_path / "images")
    assert json.loads((two.folder / "config.json").read_text())["recipe"]["epochs"] == 3


@pytest.mark.parametrize("columns", ['"beta"', '["beta", "alpha"]'])
def test_columns_of_labels(begun, tmp_path, columns):
    lines = [f"{i}.png,{i % 2},{i % 3 % 2}" for i in range(12)]
    (tmp_path / "t.csv").write_text("\n".join(["path,alpha,beta", *lines]))
    for i in range(12):
        Image.new("RGB", (28, 28)).save(tmp_path / f"{i}.png")
    text = FILE.replace('"images"', '"t.csv"') + f"label_column = {columns}\n"
    run = begun("mine.toml", text=text + 'label_kind = "numbers"\nloss = "squared"\n')
    assert run.config["classes"] == ("beta", "alpha")[: 2 if "[" in columns else 1]


def test_the_recipe_of_a_run(begun, tmp_path):
    run = begun("mine.toml")
    run.folder = tmp_path / "made"
    run.create()
    assert eqx_vit.recipe(run.folder) == run.recipe
    assert eqx_vit.recipe(run.folder, epochs=7).epochs == 7
    (run.folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="config.json.* has no `recipe`"):
        eqx_vit.recipe(run.folder)
