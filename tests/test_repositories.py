"""Repositories of the hub and folders: their files, their labels, their errors."""

import dataclasses
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import equinox as eqx
import eqx_vit
import huggingface_hub.constants
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import safetensors.numpy
from eqx_vit.cli import main
from eqx_vit.pretrained import repository
from PIL import Image

from .helpers import assert_close
from .hub import Hub, serving


CLASSES = ("cat", "dog", "emu")
NAME = "hf-hub:user/pets"


VIT = partial(
    eqx_vit.ViT,
    image_size=32,
    patch_size=8,
    num_classes=3,
    dim=32,
    depth=2,
    heads=2,
    dim_head=16,
    mlp_dim=80,
    qkv_bias=True,
)


@pytest.fixture(scope="module")
def model():
    return VIT(key=jr.key(0))


RECORD = dataclasses.replace(
    eqx_vit.zoo["vit_tiny_patch16_224"], image_size=(32, 32), crop=1.0
)


@pytest.fixture(scope="module")
def folders(model, tmp_path_factory):
    """By the library that opens it."""
    folders = {}
    for format in ("timm", "transformers"):
        folders[format] = tmp_path_factory.mktemp(format)
        eqx_vit.save_pretrained(
            model, folders[format], format=format, classes=CLASSES, record=RECORD
        )
    return folders


@pytest.fixture(params=["timm", "transformers"])
def either(request, folders):
    return folders[request.param]


@pytest.fixture
def folder(folders):
    return folders["timm"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub()
    constants = huggingface_hub.constants
    with serving(hub) as address:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE
        template = template.replace(constants.ENDPOINT, address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        repository._record_of_hub.cache_clear()
        yield hub


@pytest.fixture
def photograph(tmp_path):
    path = tmp_path / "photograph.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def logits(model, record, path):
    image = eqx_vit.preprocess(record, Image.open(path))
    return eqx_vit.predict(model, image[None])[0]


def test_a_folder_is_a_model(model, either, photograph):
    record = eqx_vit.record(str(either))
    assert record.classes == CLASSES and record.image_size == (32, 32)
    assert record.mean == (0.5, 0.5, 0.5)
    for name in (str(either), f"local-dir:{either}"):
        again, _ = eqx_vit.create_model(name, key=jr.key(1))
        wanted = logits(model, RECORD, photograph)
        assert_close(logits(again, record, photograph), wanted)


def test_a_repository_is_a_model(hub, model, either, photograph):
    hub.add("user/pets", either)
    again, _ = eqx_vit.create_model(NAME, key=jr.key(1))
    record = eqx_vit.record(NAME)
    assert record.classes == CLASSES and record.revision == hub.COMMIT
    wanted = logits(model, RECORD, photograph)
    assert_close(logits(again, record, photograph), wanted)


def test_the_second_time_it_comes_from_the_cache(hub, folder, monkeypatch):
    hub.add("user/pets", folder)
    eqx_vit.create_model(NAME, key=jr.key(0))
    repository._record_of_hub.cache_clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    eqx_vit.create_model(NAME, key=jr.key(0))
    assert not hub.requests


def test_the_shell_prints_the_labels_of_the_repository(hub, folder, photograph, capsys):
    hub.add("user/pets", folder)
    assert main(["predict", NAME, str(photograph), "--top", "3"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in CLASSES)


@pytest.mark.slow
def test_it_goes_through_the_address_in_the_environment(hub, model, photograph):
    folder = photograph.with_name("folder")
    eqx_vit.save_pretrained(model, folder, classes=CLASSES, record=RECORD)
    hub.add("user/pets", folder)
    environment = os.environ | dict(
        HF_ENDPOINT=hub.address,
        HF_HUB_CACHE=str(photograph.with_name("other")),
        HF_HUB_DISABLE_XET="1",
    )
    command = [sys.executable, "-m", "eqx_vit", "predict", NAME, str(photograph)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "emu" in done.stdout, done.stderr


def test_a_broken_download_is_resumed(hub, model, folder):
    hub.add("user/pets", folder)
    hub.truncated["model.safetensors"] = 1
    again, _ = eqx_vit.create_model(NAME, key=jr.key(1))
    assert jnp.array_equal(again.head.weight, model.head.weight)


@pytest.mark.parametrize(
    "name, spoil, error, message",
    [
        ("hf-hub:user/nothing", None, ValueError, "no repository `user/nothing`"),
        (
            NAME,
            lambda hub: hub.gated.add("user/pets"),
            PermissionError,
            "hf auth login",
        ),
        (f"{NAME}@v2", None, ValueError, "no revision `v2`"),
        (
            NAME,
            lambda hub: hub.repositories["user/pets"].pop("model.safetensors"),
            ValueError,
            "no weights",
        ),
        (
            NAME,
            lambda hub: hub.repositories["user/pets"].pop("config.json"),
            ValueError,
            "no `config.json`",
        ),
        (
            NAME,
            lambda hub: hub.truncated.update({"model.safetensors": 100}),
            ConnectionError,
            "could not be downloaded|did not give",
        ),
    ],
)
def test_the_hub_says_no(hub, folder, name, spoil, error, message, tmp_path):
    hub.add("user/pets", folder)
    if spoil is not None:
        spoil(hub)
    with pytest.raises(error, match=message):
        eqx_vit.create_model(name, key=jr.key(0))
    assert not list((tmp_path / "cache").rglob("snapshots/*/model.safetensors"))


def test_without_a_connection(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="check the connection"):
        eqx_vit.create_model("hf-hub:user/other", key=jr.key(0))


def changed(folder, tmp_path, **changes):
    """The path of a copy of a folder with another `config.json`."""
    config = json.loads((folder / "config.json").read_text()) | changes
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    config = {name: value for name, value in config.items() if value is not None}
    (copy / "config.json").write_text(json.dumps(config))
    return str(copy)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(architecture="resnet50"), "`resnet50` of timm"),
        (dict(architecture=None, model_type="beit"), "`beit` of transformers"),
        (
            dict(architecture=None, model_type="my_vit", auto_map={}),
            "needs code of its own",
        ),
        (dict(architecture="vit_base_patch16_224", model_args=dict(x=1)), "`x=1`"),
        (dict(label_names=["a"], id2label={"0": "a"}), "names 1 classes|of shape"),
        (dict(architecture=None, model_type="vit", hidden_size=48), "of shape"),
        (
            dict(num_classes=-1, id2label=None, hidden_act="?"),
            "num_classes=-1|`hidden_act",
        ),
        (dict(architecture=None, model_type="vit", patch_size=[8]), "is damaged"),
    ],
)
def test_configurations_that_cannot_be_right(either, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        eqx_vit.create_model(changed(either, tmp_path, **changes), key=jr.key(0))


@pytest.mark.parametrize(
    "pixels, message",
    [
        (dict(interpolation="random"), "interpolation='random'"),
        (dict(std=[0, 0, 0]), "must be above 0"),
        (dict(crop_mode="border"), "crop_mode='border'"),
    ],
)
def test_images_that_cannot_be_prepared(folder, tmp_path, pixels, message):
    config = json.loads((folder / "config.json").read_text())
    pretrained = config["pretrained_cfg"] | pixels
    with pytest.raises(ValueError, match=message):
        eqx_vit.record(changed(folder, tmp_path, pretrained_cfg=pretrained))


@pytest.mark.parametrize(
    "config, message",
    [
        (dict(image_processor_type="NewImageProcessor", size=32), "say its `resample`"),
        (dict(image_processor_type="Siglip2ImageProcessor"), "aspect ratio"),
        (dict(image_processor_type="ViTImageProcessor", do_resize=False), "do_resize"),
        (
            dict(image_processor_type="CLIPImageProcessor", do_center_crop=False),
            "are not cut",
        ),
    ],
)
def test_processors_that_are_not_ours(folders, tmp_path, config, message):
    path = changed(folders["transformers"], tmp_path)
    (Path(path) / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        eqx_vit.record(path)


def test_files_that_lie_elsewhere(hub, folder, tmp_path):
    """The file of weights that a config names is one of its repository."""
    config = json.loads((folder / "config.json").read_text())
    pretrained = config["pretrained_cfg"] | dict(hf_hub_filename="../../x.safetensors")
    hub.add("user/pets", Path(changed(folder, tmp_path, pretrained_cfg=pretrained)))
    with pytest.raises(ValueError, match="is not in it"):
        eqx_vit.create_model(NAME, key=jr.key(0))


def test_what_is_changed_is_read_again(folder, tmp_path):
    path = changed(folder, tmp_path)
    assert eqx_vit.record(path).classes == CLASSES
    config = json.loads((folder / "config.json").read_text())
    text = json.dumps(config | dict(label_names=["a", "b", "c"]))
    (Path(path) / "config.json").write_text(text)
    assert eqx_vit.record(path).classes == ("a", "b", "c")


def test_published_names_come_before_folders(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    eqx_vit.save_pretrained(model, "vit_tiny_patch16_224")
    assert eqx_vit.record("vit_tiny_patch16_224").num_classes == 1000
    assert eqx_vit.record("local-dir:vit_tiny_patch16_224").num_classes == 3


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_shards_of_16_bits(model, folder, tmp_path, dtype):
    copy = Path(changed(folder, tmp_path))
    tensors = safetensors.numpy.load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names, places = sorted(tensors), {}
    for i, part in enumerate((names[::2], names[1::2])):
        shard = f"model-{i + 1:05}-of-00002.safetensors"
        places |= dict.fromkeys(part, shard)
        halves = {name: tensors[name].astype(dtype) for name in part}
        safetensors.numpy.save_file(halves, copy / shard)
    index = copy / "model.safetensors.index.json"
    index.write_text(json.dumps(dict(weight_map=places)))
    again, _ = eqx_vit.create_model(str(copy), key=jr.key(1))
    np.testing.assert_allclose(again.head.weight, model.head.weight, atol=2e-3)

    (copy / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002"):
        eqx_vit.create_model(str(copy), key=jr.key(1))


def test_other_classes_and_sizes_are_adapted(folder, caplog):
    model, _ = eqx_vit.create_model(
        str(folder), num_classes=7, image_size=48, key=jr.key(0)
    )
    assert model(jnp.zeros((48, 48, 3)), key=jr.key(0)).shape == (7,)
    assert "48 x 48" in caplog.text and "a fresh head for 7" in caplog.text


def test_up_and_down_again(hub, model, monkeypatch):
    monkeypatch.setattr(
        "huggingface_hub.hf_api.get_token", lambda: "hf_x", raising=False
    )
    monkeypatch.setenv("HF_TOKEN", "hf_" + 30 * "a")
    eqx_vit.push_to_hub(
        model, "user/mine", classes=CLASSES, record=RECORD, card="On pets."
    )
    card = hub.repositories["user/mine"]["README.md"].decode()
    assert "On pets." in card and "license: apache-2.0" in card
    again, _ = eqx_vit.create_model("hf-hub:user/mine", key=jr.key(1))
    assert jnp.array_equal(again.head.weight, model.head.weight)


def test_uploading_without_a_login(hub, model, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(PermissionError, match="hf auth login"):
        eqx_vit.push_to_hub(model, "user/mine")


@pytest.mark.parametrize(
    "changes, format, message",
    [
        (dict(classes=("a",)), "timm", "1 names, and the model 3"),
        (dict(classes=("a", "a", "b")), "timm", "twice"),
        (dict(), "onnx", "'timm', 'transformers'"),
    ],
)
def test_what_cannot_be_saved(model, tmp_path, changes, format, message):
    with pytest.raises(ValueError, match=message):
        eqx_vit.save_pretrained(model, tmp_path / "new", format=format, **changes)
    assert not (tmp_path / "new").exists()


def test_no_folder_of_a_run_is_overwritten(model, tmp_path, monkeypatch):
    monkeypatch.setattr("eqx_vit.pretrained.publish.run_config", lambda folder: {})
    with pytest.raises(ValueError, match="folder of a run"):
        eqx_vit.save_pretrained(model, tmp_path)


@pytest.mark.parametrize(
    "format, settings, message",
    [
        ("timm", dict(distilled=True, norm_after_pool=True), "norm_after_pool"),
        ("timm", dict(gated=True), "LayerScale"),
        ("timm", dict(activation=jnp.tanh), "no activation `tanh`"),
        ("timm", dict(norm_eps=1e-3), "norm_eps=0.001"),
        ("transformers", dict(distilled=True, register_tokens=1), "register tokens"),
        ("transformers", dict(pool="mean"), "`pool='cls'`"),
        ("transformers", dict(gated=True), "`gated`"),
        ("transformers", dict(head_bias=False), "head without a bias"),
    ],
)
def test_vits_that_the_others_cannot_build(tmp_path, format, settings, message):
    with pytest.raises(ValueError, match=message):
        eqx_vit.save_pretrained(
            VIT(**settings, key=jr.key(0)), tmp_path / "new", format=format
        )
    assert not (tmp_path / "new").exists()


def test_models_that_the_others_do_not_have(tmp_path):
    model = eqx.filter_eval_shape(eqx_vit.RegionViT, key=jr.key(0))
    for format in ("timm", "transformers"):
        with pytest.raises(ValueError, match=f"{format} .*RegionViT"):
            eqx_vit.save_pretrained(model, tmp_path / "new", format=format)


@pytest.mark.slow
def test_a_run_begins_with_a_repository(hub, folder, tmp_path):
    hub.add("user/pets", folder)
    run = tmp_path / "run"
    arguments = ["train", "--model", NAME, "--data", "digits", "--epochs", "1"]
    with jax.numpy_dtype_promotion("standard"):  # Optax needs it
        assert main([*arguments, "--out", str(run), "--batch-size", "512"]) == 0
    config = json.loads((run / "config.json").read_text())
    assert config["loaded"]["revision"] == hub.COMMIT
    assert len(config["loaded"]["sha256"]) == 64
    hub.repositories.clear()  # the run stands alone
    model, _ = eqx_vit.create_model(str(run), key=jr.key(0))
    assert model.head.weight.shape == (10, 32)
