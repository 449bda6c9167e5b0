"""The zoo without a network: records, names, files, adaptation."""

import dataclasses
import logging
import shutil
from typing import Any

import equinox as eqx
import eqx_vit
import huggingface_hub.constants
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from eqx_vit.cli import main
from eqx_vit.data import imagenet_classes
from eqx_vit.layers import Buffer
from eqx_vit.pretrained import fetch
from eqx_vit.pretrained.files import read_file
from matplotlib import cbook
from PIL import Image

from .helpers import assert_close, count, equal, models


KEY = jr.key(0)
ANY_SIZE = "CvT CrossFormer RegionViT ScalableViT TwinsSVT DINOv3".split()
CLASSES = sorted({record.model.__name__ for record in eqx_vit.zoo.values()})


@pytest.mark.parametrize("model", CLASSES)
def test_published_sizes(model):
    """Every variant has the published number of parameters, of which there is one for
    every variant of ImageNet-1k that has weights."""
    counts = {}
    for name, record in eqx_vit.zoo.items():
        variant = name.partition(".")[0], record.num_classes
        if record.model.__name__ != model:
            continue
        if variant not in counts:
            make = eqx.nn.make_with_state(record.model)
            counts[variant] = count(
                eqx.filter_eval_shape(make, **record.arguments(), key=KEY)[0]
            )
        if record.parameters is not None:
            assert round(counts[variant] / 1e6, 2) == record.parameters, name
    assert counts


def test_every_class_has_checkpoints_but_one_that_nobody_published():
    assert set(models) - set(CLASSES) == {"PatchMergerViT", "Eighteenth"}


def test_records():
    for name, record in eqx_vit.zoo.items():
        assert record.name == name and 0 < record.crop <= 1
        assert record.top1 is None or 40 < record.top1 < 90
        if record.source is None or record.source.startswith("https://"):
            assert record.file is None
        else:
            assert record.source.count("/") == 1
            assert record.file in ("model.safetensors", "pytorch_model.bin")
    table = str(eqx_vit.zoo).splitlines()
    assert len(table) == 1 + len(eqx_vit.zoo)
    assert "levit_256.fb_dist_in1k" in eqx_vit.zoo._repr_markdown_()


def test_names():
    assert len(eqx_vit.list_models("cait_*")) == 10
    assert len(eqx_vit.list_models("crossvit_*")) == 11
    assert eqx_vit.list_models("deit3_small_patch16_384") == [
        "deit3_small_patch16_384.fb_in1k",
        "deit3_small_patch16_384.fb_in22k_ft_in1k",
    ]
    assert eqx_vit.zoo["cait_s24_224"].name == "cait_s24_224.fb_dist_in1k"
    assert len(set(imagenet_classes())) == 1000
    with pytest.raises(ValueError, match="'levit_265'.*'levit_256'"):
        eqx_vit.create_model("levit_265", key=KEY)
    with pytest.raises(KeyError, match="levit_256"):
        eqx_vit.zoo["levit_265"]


def make(name="test_vit", **settings):
    return eqx_vit.create_model(name, **settings, key=KEY)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    model, state = make()
    eqx_vit.save_weights(model, path, state)
    return path


def test_fresh():
    model, _ = eqx.filter_eval_shape(
        make, "crossvit_9_240", num_classes=3, image_size=480, channels=1
    )
    assert model.small_head.weight.shape[0] == 3
    assert model.large_embedding.image_size == (448, 448)
    model, _ = make(settings=dict(stochastic_depth=0.5))
    assert model.transformer.drop_rates[-1] == 0.5
    with pytest.raises(ValueError, match="`image_size=225`.* is 224"):
        eqx.filter_eval_shape(make, "twins_svt_small", image_size=225)


def test_adaptation_is_said(weights, caplog):
    published, _ = make(weights=weights)
    assert not caplog.messages
    with caplog.at_level(logging.WARNING, "eqx_vit"):
        model, _ = make(weights=weights, num_classes=7, image_size=96, channels=4)
    assert [message.split(": ")[1] for message in caplog.messages] == [
        "its first layer takes 4 channels instead of 3.",
        "it takes images of 96 x 96 pixels instead of 160 x 160.",
        "a fresh head for 7 classes instead of that for 1000.",
    ]
    assert eqx.filter_eval_shape(model, jnp.zeros((96, 96, 4))).shape == (7,)
    assert equal(model.transformer, published.transformer)


def test_channels_of_equal_content_change_nothing(weights):
    """A grey image as one channel is the same image as three equal channels."""
    grey = jr.normal(KEY, (160, 160, 1))
    images = {c: jnp.repeat(grey, c, -1) for c in (1, 3, 6)}
    embedded = [
        make(weights=weights, channels=c)[0].patch_embedding(image)
        for c, image in images.items()
    ]
    assert np.allclose(embedded[0], embedded[1], atol=1e-5)
    assert np.allclose(embedded[2], embedded[1], atol=1e-5)


def test_wishes_are_checked_before_anything_is_loaded():
    with pytest.raises(ValueError, match="`image_size=161`.* is 160"):
        make(weights="absent.safetensors", image_size=161)
    with pytest.raises(ValueError, match="`num_classes=-1`"):
        make(weights="absent.safetensors", num_classes=-1)
    with pytest.raises(FileNotFoundError, match="absent.safetensors"):
        make(weights="absent.safetensors")


def _tensors(weights):
    return dict(read_file(weights))


FLAWS = {
    "wrong size": (lambda t: t | {"head.bias": t["head.bias"][:9]}, "head.bias"),
    "not a number": (lambda t: t | {"norm.bias": t["norm.bias"] * np.nan}, "norm.bias"),
    "renamed": (lambda t: t | {"normal": t.pop("norm.bias")}, "unexpected: normal"),
    "other architecture": (lambda t: {"conv1.weight": t["norm.bias"]}, "conv1.weight"),
    "empty": (lambda t: {}, "no tensors"),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flawed_file_is_named_with_its_tensors(flaw, weights, tmp_path):
    from safetensors.numpy import save_file

    spoil, part = FLAWS[flaw]
    path = tmp_path / "flawed.safetensors"
    save_file(spoil(_tensors(weights)), path)
    with pytest.raises(ValueError, match=r"flawed\.safetensors") as error:
        make(weights=path)
    assert part in str(error.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
def test_a_truncated_or_empty_file_is_named(suffix, weights, tmp_path):
    for size in (0, 1000):
        path = tmp_path / f"cut{suffix}"
        path.write_bytes(weights.read_bytes()[:size])
        with pytest.raises(ValueError, match=f"cut{suffix}'` cannot be read"):
            make(weights=path)


def test_the_cache_of_the_hub(weights, tmp_path, monkeypatch):
    """Offline, a file that is in the cache is found there, and no other."""
    cache = tmp_path / "models--timm--test_vit.r160_in1k"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("abc")
    (cache / "snapshots" / "abc").mkdir(parents=True)
    weights_there = cache / "snapshots" / "abc" / "model.safetensors"
    weights_there.write_bytes(weights.read_bytes())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    model, _ = make(pretrained=True)
    assert equal(model, make(weights=weights)[0])
    with pytest.raises(ConnectionError, match="test_vit2.*could not.*`weights=PATH`"):
        make("test_vit2", pretrained=True)


def test_an_address(tmp_path, monkeypatch):
    """A file that was downloaded from an address is not downloaded again."""
    import pooch

    monkeypatch.setattr(pooch, "os_cache", lambda _: tmp_path)
    record = eqx_vit.zoo["t2t_vit_7"]
    there = tmp_path / "71.7_T2T_ViT_7.pth.tar"
    there.write_text("weights")
    assert fetch(record) == there
    nowhere = dataclasses.replace(record, source="https://127.0.0.1:1/a.pth")
    with pytest.raises(ConnectionError, match="could not be downloaded"):
        fetch(nowhere)
    assert list(tmp_path.iterdir()) == [there]
    with pytest.raises(ValueError, match="browser, from https://github.com/cheerss"):
        make("crossformer_tiny", pretrained=True)
    with pytest.raises(ValueError, match="no published weights"):
        make("vit_small_patch16_18x2_224", pretrained=True)


def test_biases_of_levit_are_resized_as_signed_distances():
    model, _ = eqx.nn.make_with_state(models["LeViT"])(key=jr.key(0))
    where = lambda model: model.stages[0].blocks.attention
    attention = where(model)
    height, width = attention.size
    biases = jr.normal(jr.key(1), attention.biases.shape)
    attention = eqx_vit.layers.replaced(attention, biases=biases)
    new = where(eqx_vit.resize(eqx.tree_at(where, model, attention), 128))
    table = biases.reshape(-1, height, width)[0, :, :, None]
    rows, columns = (abs(np.arange(1 - side, side)) for side in (height, width))
    signed = table[rows[:, None], columns]
    size = tuple(2 * side - 1 for side in new.size)
    wanted = eqx_vit.layers.resize_bicubic(signed, size)[size[0] // 2 :, size[1] // 2 :]
    assert_close(new.biases.reshape(-1, *new.size)[0], wanted[..., 0])


def test_preprocess():
    record = eqx_vit.zoo["vit_tiny_patch16_384"]  # crop 1, mean and deviation 1/2
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (384, 500, 3)).astype(np.uint8)
    centre = image[:, 58:442] / 255 * 2 - 1
    for spelling in (image, image / 255, Image.fromarray(image), jnp.asarray(image)):
        ours = eqx_vit.preprocess(record, spelling)
        np.testing.assert_allclose(ours, centre, atol=1e-6)
    grey = eqx_vit.preprocess(record, image[..., 0])
    assert np.array_equal(grey[..., 0], grey[..., 2])
    for bad in (image[..., :2], image[None], image > 7, image * 2.0, -(image / 255)):
        with pytest.raises(ValueError, match="`image`"):
            eqx_vit.preprocess(record, bad)


def abstract(model, **settings):
    make = eqx.nn.make_with_state(models[model])
    return eqx.filter_eval_shape(make, **settings, key=KEY)


@pytest.mark.parametrize("model", models)
def test_reset_head(model):
    old, state = abstract(model)
    side = 64 if model == "LeViT" else 32
    image = jax.ShapeDtypeStruct((side, side, 3), jnp.float32)

    def shape(model):
        lifted = eqx.nn.Sequential([eqx.nn.inference_mode(model)])
        return eqx.filter_eval_shape(lifted, image, state)[0].shape

    new = eqx_vit.reset_head(old, 7, key=KEY)
    assert shape(new) == (7,)
    leaves = jax.tree_util.tree_leaves_with_path(new)
    for (path, leaf), before in zip(leaves, jax.tree.leaves(old), strict=True):
        assert "head" in path[0].name or leaf is before
    features = eqx_vit.reset_head(old, 0, key=KEY)
    assert count(features) == count(abstract(model, num_classes=0)[0])
    if model == "LeViT":
        with pytest.raises(ValueError, match="statistics"):
            eqx_vit.reset_head(features, 7, key=KEY)
    else:
        assert shape(eqx_vit.reset_head(features, 7, key=KEY)) == (7,)


def test_reset_head_of_two_heads():
    old = eqx.filter_eval_shape(models["ViT"], distilled=True, key=KEY)
    new = eqx_vit.reset_head(old, 7, key=KEY)
    assert new.head.weight.shape == new.distillation_head.weight.shape == (7, 16)
    assert not np.array_equal(new.head.weight, new.distillation_head.weight)


@pytest.mark.parametrize("model", models)
def test_resize(model):
    """A resized model is built as one of that size, and flat tables stay flat."""

    def flat(leaf):
        inexact = getattr(leaf, "dtype", None) == jnp.float32
        return jnp.full(leaf.shape, 3.0) if inexact else leaf

    old = jax.tree.map(flat, abstract(model)[0])
    if model == "T2TViT":
        table = Buffer(jnp.full(old.position_embedding.bits.shape, 3.0))
        old = eqx.tree_at(lambda model: model.position_embedding, old, table)
    bad = 1 if model in ("PiT", "T2TViT") else 33
    with pytest.raises(ValueError, match=f"`image_size={bad}`"):
        eqx_vit.resize(old, bad)
    if model in ANY_SIZE:
        multiple = getattr(old, "image_multiple", 8)
        assert eqx_vit.resize(old, (2 * multiple, 96)) is old
        return
    image_size = (96, 64) if model == "LeViT" else (64, 32)
    new = eqx_vit.resize(old, image_size)
    built, _ = abstract(model, image_size=image_size)
    assert jax.tree.structure(new) == jax.tree.structure(built)
    for ours, theirs in zip(jax.tree.leaves(new), jax.tree.leaves(built)):
        if hasattr(theirs, "shape"):
            assert ours.shape == theirs.shape
        if eqx.is_inexact_array(ours):
            assert np.allclose(ours, 3, atol=1e-5)
    if model == "T2TViT":
        assert np.allclose(new.position_embedding.value, 3, atol=1e-5)


def test_no_head_and_no_position_is_known_of_other_models():
    linear = eqx.nn.Linear(2, 2, key=KEY)
    with pytest.raises(ValueError, match="`Linear`"):
        eqx_vit.reset_head(linear, 2, key=KEY)
    with pytest.raises(ValueError, match="`Linear`"):
        eqx_vit.resize(linear, 2)


def test_predict(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # for a short name
    photograph, picture = "photograph.jpg", "classes.png"
    shutil.copy(
        str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)), photograph
    )
    with jax.numpy_dtype_promotion("standard"):
        command = ["predict", "test_vit", photograph, "--out", picture]
        assert main([*command, "--weights", str(weights)]) == 0
        lines = capsys.readouterr().out.splitlines()[1:-1]
        model, state = make(weights=weights)
        image = eqx_vit.preprocess(eqx_vit.zoo["test_vit"], Image.open(photograph))
        logits = eqx_vit.predict(model, image[None], state)[0]
    best = np.argsort(-np.asarray(logits))[:5]
    assert len(lines) == 5
    for line, i in zip(lines, best):
        assert imagenet_classes()[i] in line
    assert np.asarray(Image.open(picture).convert("L")).std() > 10
    for name, reason in (
        ("test_vot", "'test_vit'"),
        ("vit_base_patch14_dinov2", "no "),
    ):
        assert main(["predict", name, photograph]) == 2
        assert reason in capsys.readouterr().err


# Files of one's own: what was asked for is loaded whole.


def saved(tmp_path, **settings):
    """A file of a fine-tune, and the model."""
    model, state = make(**settings)
    path = tmp_path / "mine.safetensors"
    eqx_vit.save_weights(model, path, state)
    return path, model


OWN = [
    dict(num_classes=5),
    dict(num_classes=0),
    dict(image_size=96),
    dict(channels=1),
    dict(num_classes=5, image_size=(96, 64), channels=1),
]


@pytest.mark.parametrize("wishes", OWN, ids=lambda w: "-".join(w))
def test_a_file_of_what_was_asked_for_is_loaded_whole(wishes, tmp_path, caplog):
    path, model = saved(tmp_path, **wishes)
    with caplog.at_level(logging.WARNING, "eqx_vit"):
        loaded, _ = eqx_vit.create_model(
            "test_vit", weights=path, **wishes, key=jr.key(7)
        )
    assert equal(loaded, model) and not caplog.messages


def test_what_is_not_in_a_file_of_ones_own_is_adapted(tmp_path, caplog):
    path, model = saved(tmp_path, num_classes=5)
    with caplog.at_level(logging.WARNING, "eqx_vit"):
        loaded, _ = make(weights=path, num_classes=5, image_size=96)
    assert len(caplog.messages) == 1 and "96 x 96" in caplog.messages[0]
    assert equal(loaded.head, model.head)
    headless, model = saved(tmp_path, num_classes=0)
    loaded, _ = make(weights=headless, num_classes=5)
    assert loaded.head.weight.shape[0] == 5 and equal(loaded.norm, model.norm)


def test_a_table_of_as_many_positions_is_of_the_published_size(weights, caplog):
    """160 x 160 pixels make as many patches as 80 x 320."""
    with caplog.at_level(logging.WARNING, "eqx_vit"):
        loaded, _ = make(weights=weights, image_size=(80, 320))
    assert "80 x 320" in caplog.messages[0]
    assert equal(loaded, eqx_vit.resize(make(weights=weights)[0], (80, 320)))


def test_the_number_of_classes_that_a_file_has_is_said(tmp_path):
    path, _ = saved(tmp_path, num_classes=5)
    everything: list[dict[str, Any]] = [{}, dict(num_classes=7)]
    for wishes in everything:
        with pytest.raises(ValueError, match=r"head\.weight.*\n.*`num_classes=5`"):
            make(weights=path, **wishes)
    path, _ = saved(tmp_path, num_classes=0)
    with pytest.raises(ValueError, match="`num_classes=0` loads it so"):
        make(weights=path)


@pytest.mark.parametrize("name", ["num_classes", "image_size", "channels", "key"])
def test_settings_hold_nothing_that_has_an_argument(name):
    with pytest.raises(ValueError, match=f"`settings` has `{name}`.* argument of its"):
        make("test_vit", settings={name: 5})
    with pytest.raises(ValueError, match="no setting `depht`.*`depth`"):
        make("test_vit", settings=dict(depht=3))


def test_a_fine_tune_predicts_from_a_shell(tmp_path, capsys):
    path, _ = saved(tmp_path, num_classes=3)
    Image.new("RGB", (30, 30), (9, 9, 200)).save(tmp_path / "blue.png")
    with jax.numpy_dtype_promotion("standard"):
        command = ["predict", "test_vit", str(tmp_path / "blue.png")]
        assert main([*command, "--weights", str(path)]) == 0
    assert capsys.readouterr().out.count("class ") == 3 + 1
