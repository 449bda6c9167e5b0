"""An architecture of somebody else's is as good as the package's own. (Its other tests
are those of every model, see `helpers.models`.)"""

import importlib
import pkgutil
import sys

import equinox as eqx
import eqx_vit
import jax
import jax.random as jr
import numpy as np
import pytest
from eqx_vit.cli import main
from eqx_vit.families import families, family_of
from eqx_vit.interpret.plot import explain
from eqx_vit.pretrained import Architecture
from eqx_vit.pretrained.architecture import _check_same

from .eighteenth import Eighteenth
from .helpers import images_for, randomised


class Child(eqx_vit.ViT):
    """Not registered itself."""


PATH = "tests.eighteenth:Eighteenth"


def test_weights_by_its_own_names(tmp_path):
    model = randomised(Eighteenth(num_classes=10, key=jr.key(0)), jr.key(1))
    eqx_vit.save_weights(model, tmp_path / "model.safetensors")
    other = Eighteenth(num_classes=10, key=jr.key(2))
    loaded, _ = eqx_vit.load_weights(other, tmp_path / "model.safetensors")
    assert eqx.tree_equal(loaded, model)


def test_it_is_explained():
    model = Eighteenth(num_classes=10, key=jr.key(0))
    image = images_for("Eighteenth", 1)[0]
    assert eqx_vit.rollout(model, image).shape == (4, 4)
    pixels = np.zeros((32, 32, 3))
    figure = explain(model, image, pixels=pixels, label=1)
    assert len(figure.axes) == 6  # with the colour bar


@pytest.mark.slow
def test_it_trains_from_a_shell(tmp_path, capsys):
    options = ["--epochs", "1", "--out", str(tmp_path / "run")]
    with jax.numpy_dtype_promotion("standard"):  # Optax needs it
        assert main(["train", "--model", PATH, *options]) == 0
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert "top-1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("tests.nowhere:Eighteenth", "cannot be imported"),
        ("tests.eighteenth:Nobody", "cannot be imported"),
        ("collections:Counter", "`Counter`, which is not registered"),
    ],
)
def test_a_path_to_nothing_is_refused(path, message, tmp_path, capsys):
    assert main(["train", "--model", path, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_name_is_registered_once():
    other = type("ViT", (eqx.Module,), {"__module__": __name__})
    with pytest.raises(ValueError, match="'ViT'"):
        eqx_vit.register(eqx_vit.Family(model=other, tiny={}))
    assert families()["ViT"].model is eqx_vit.ViT


def test_a_subclass_is_known_by_its_parent():
    assert family_of(Child) is families()["ViT"]
    # Only itself is trained by its path.
    with pytest.raises(ValueError, match="only its parent `ViT` is"):
        Architecture.named("tests.test_families:Child")


def test_a_published_size_is_not_replaced():
    published = families()["PiT"].variants
    with pytest.raises(ValueError, match="a published size of PiT"):
        eqx_vit.register(eqx_vit.Family(model=Child, tiny={}, variants=published))
    assert "Child" not in families()


def test_stars_import_the_public_names():
    names = {}
    exec("from eqx_vit import *", names)
    assert names["ViT"] is eqx_vit.ViT and "__version__" in dir(eqx_vit)


def test_no_public_name_hides_a_module():
    for found in pkgutil.walk_packages(eqx_vit.__path__, "eqx_vit."):
        module = importlib.import_module(found.name)
        package, _, name = found.name.rpartition(".")
        assert getattr(sys.modules[package], name) is module


def test_a_size_that_a_run_sets_is_no_difference():
    plain = Architecture.of("CrossViT", 10, None, 1, {})
    sized = Architecture.of("CrossViT", 10, None, 1, {"lg_image_size": 28})
    for wanted, run in ((sized, sized), (plain, sized), (sized, plain)):
        _check_same(wanted, run, "runs/digits")
    with pytest.raises(ValueError, match="depth=2"):
        _check_same(plain.changed(None, None, None, {"depth": 1}), plain, "runs/digits")
