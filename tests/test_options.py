"""Every option of every command with values that nobody should type: one line on
standard error and exit status 2, or a run."""

import argparse

import huggingface_hub.constants
import jax
import numpy as np
import pytest
from eqx_vit.cli import _augment, _train, main, parser
from eqx_vit.cli.runs import Run
from PIL import Image


(_COMMANDS,) = (a.choices for a in parser()._actions if isinstance(a.choices, dict))
VALUES = ["-1", "0", "1", "1.5", "99999999999999999999", "nan", "inf", "-inf", "1e400"]
VALUES += [
    "",
    " ",
    "ü✓",
    "missing/file.xyz",
    "[/red]",
    "None",
    "a\0b",
    "--",
    "x" * 5000,
]
SETTINGS = ["depth", "heads", "dim", "patch_size", "dropout", "pool", "norm_eps", "key"]
SETTINGS += ["num_classes", "image_size", "nothing"]


def options(command):
    return [
        (action.option_strings or [action.dest])[-1]
        for action in _COMMANDS[command]._actions
        if not isinstance(action, argparse._HelpAction | argparse._StoreTrueAction)
    ]


def test_an_option_of_several_values_may_be_given_several_times():
    given = "--set depth=4 --set dim=32 heads=2 --freeze head* --freeze !head.bias"
    options = parser().parse_args(["train", *given.split(), "--logger", "wandb"])
    assert options.set == ["depth=4", "dim=32", "heads=2"]
    assert options.freeze == ["head*", "!head.bias"] and options.logger == ["wandb"]
    assert parser().parse_args(["train"]).logger == ["tensorboard"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for i in range(4):
            Image.new("L", (8, 8), 40 * i).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(autouse=True)
def _somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with jax.numpy_dtype_promotion("standard"):
        yield


def check(arguments, capsys):
    """Run a command line; return its status."""
    status = main(arguments)
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert "Traceback" not in out + err, arguments
    assert status in (0, 2) and len(errors) == (status == 2), (arguments, err)
    assert all(line.startswith("error: ") and len(line) > 20 for line in errors)
    return status


def commands(option, value, command, images):
    """Command lines with the option, that would otherwise do."""
    image = str(images / "cat" / "0.png")
    given = {
        "train": ["train", "--data", str(images)],
        "augment": ["augment", "--data", str(images), "--rows", "1", "--columns", "1"],
        "summary": ["summary", "ViT"],
        "models": ["models", "cait*"],
        "evaluate": ["evaluate", "nothing", "--data", str(images)],
        "predict": ["predict", "nothing", image],
        "explain": ["explain", "nothing", image],
        "export": ["export", "nothing"],
        "features": ["features", "nothing", str(images)],
    }[command]
    if option.startswith("-"):
        return [*given, f"{option}={value}"]
    return [command, *(value for _ in given[1:])]


@pytest.mark.slow
@pytest.mark.parametrize("command", _COMMANDS)
def test_fuzz(command, images, monkeypatch, capsys):
    # A training that begins is not what is tried here.
    monkeypatch.setattr(_train, "fit", lambda run, *_, **__: 0)
    monkeypatch.setattr(Run, "metrics", lambda self: [])
    monkeypatch.setattr(_augment, "draw_grid", lambda *_: None)
    tried = refused = 0
    for option in options(command):
        for value in VALUES:
            tried += 1
            refused += check(commands(option, value, command, images), capsys) == 2
    if command == "train":
        for name in SETTINGS:
            for value in VALUES:
                arguments = ["train", "--data", str(images), "--set", f"{name}={value}"]
                tried += 1
                refused += check(arguments, capsys) == 2
    with capsys.disabled():
        print(f"\n{command}: {tried} command lines, {refused} refused", end="")
    assert tried > 0


WRONG = [
    ("--learning-rate", "-1", "must not be below 0"),
    ("--learning-rate", "nan", "nan"),
    ("--learning-rate-batch", "-1", "nearest legal value is 1"),
    ("--jitter", "nan", "jitter"),
    ("--cutmix", "-1", "nearest legal value is 0"),
    ("--label-smoothing", "2", "label_smoothing"),
    ("--fsdp", "-1", "--fsdp"),
    ("--image-size", "0", "--image-size"),
    ("--watch", "0", "--watch"),
    ("--holdout", "1", "--holdout"),
    ("--data", "", "--data"),
    ("--workers", "-1", "--workers"),
    ("--precision", "float64", "--precision"),
    ("--epochs", "many", "--epochs"),
]


@pytest.mark.parametrize("option, value, message", WRONG)
def test_a_wrong_value_is_named(option, value, message, images, capsys):
    arguments = ["train", "--data", str(images), f"{option}={value}"]
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0]


def test_debug_shows_the_traceback(images):
    with pytest.raises(ValueError, match="learning_rate"):
        main(["train", "--data", str(images), "--learning-rate", "-1", "--debug"])


def test_a_recipe_that_is_its_own_base(tmp_path, images, capsys):
    path = tmp_path / "mine.toml"
    path.write_text(f'base = "{path}"\n')
    arguments = ["train", "--data", str(images), "--recipe", str(path)]
    assert main(arguments) == 2 and "base of itself" in capsys.readouterr().err
    for text in ("epochs = true", "freeze = 3", "flip = 'often'", "base = 3"):
        path.write_text(text)
        assert main(arguments) == 2
        assert np.unique(capsys.readouterr().err.splitlines()).size == 1
