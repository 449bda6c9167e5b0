import logging
import os
import pickle
import zipfile

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from eqx_vit.families import families
from eqx_vit.layers import BatchNorm, Buffer
from eqx_vit.pretrained.names import flatten, unflatten
from eqx_vit.pretrained.weights import formats_of
from safetensors.numpy import load_file

from .helpers import equal, models


_KNOWN = {name: family.formats for name, family in families().items()}
_KNOWN |= {kind.__name__: f for x in families().values() for kind, f in x.parts.items()}
FORMATS = {name: {f.name: f for f in formats} for name, formats in _KNOWN.items()}
SUFFIXES = {f.name: f.suffix for formats in _KNOWN.values() for f in formats}
SUFFIXES["eqx_vit"] = ".safetensors"


def made(name, seed=0, **settings):
    """A model and its state with random numbers everywhere, running statistics too."""
    rng = np.random.default_rng(seed)
    make = eqx.nn.make_with_state(models[name])
    abstract = eqx.filter_eval_shape(make, **settings, key=jr.key(0))

    def fill(leaf):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        if leaf.dtype == jnp.uint32:  # a `Buffer`
            return Buffer(jnp.asarray(rng.random(leaf.shape, np.float32))).bits
        return jnp.asarray(rng.random(leaf.shape, np.float32))

    return jax.tree.map(fill, abstract)


# What a model must be for some names.
SETTINGS = {
    ("ViT", "big_vision"): {"embed_prefix": False},
    ("CrossViT", "timm"): {"cross_attn_depth": 1},
    ("CvT", "transformers"): {"activation": eqx_vit.layers.gelu},
    ("ParallelViT", "vit_pytorch"): {"layer_scale": None},
    ("DINOv3", "transformers"): {"num_classes": 0},
}


def settings_for(names, model="ViT"):
    return SETTINGS.get((model, names), {})


# One temperature for all heads, which the parity tests load and save.
UNFIT = {("SmallDatasetViT", "vit_pytorch")}


@pytest.mark.parametrize("model", models)
def test_round_trip(model, tmp_path):
    for names in (*FORMATS[model], "eqx_vit"):
        settings = settings_for(names, model)
        if (model, names) in UNFIT:
            continue
        saved, state = made(model, **settings)
        path = tmp_path / f"model{SUFFIXES[names]}"
        eqx_vit.save_weights(saved, path, state, names=names)
        other, other_state = made(model, 7, **settings)
        loaded = eqx_vit.load_weights(other, path, other_state)
        assert equal(loaded, (saved, state))
        assert os.listdir(tmp_path) == [path.name]
        path.unlink()


@pytest.mark.parametrize("name", ["ViT", "DeepViT"])
def test_loads_into_an_abstract_model(name, tmp_path):
    saved, saved_state = made(name)
    eqx_vit.save_weights(saved, tmp_path / "model.safetensors", saved_state)
    make = eqx.nn.make_with_state(models[name])
    model, state = eqx.filter_eval_shape(make, key=jr.key(0))
    loaded = eqx_vit.load_weights(model, tmp_path / "model.safetensors", state)
    assert equal(loaded, (saved, saved_state))


def published(tmp_path, names, **settings):
    model, state = made("ViT", **settings)
    path = tmp_path / f"model{SUFFIXES[names]}"
    eqx_vit.save_weights(model, path, state, names=names)
    load = np.load if path.suffix == ".npz" else load_file
    return model, dict(load(path).items())


NUMBERS = {"Attention_1": "Attention_0", "LayerNorm_2": "LayerNorm_1"}


def renumbered(tensors):
    for old, new in (NUMBERS | {"MlpBlock_3": "MlpBlock_0"}).items():
        tensors = {name.replace(old, new): t for name, t in tensors.items()}
    return tensors


def scanned(tensors):
    block = "Transformer/encoderblock"
    rest = {n: t for n, t in tensors.items() if not n.startswith(f"{block}_")}
    tails = {n.removeprefix(f"{block}_0/") for n in tensors if f"{block}_0/" in n}
    return rest | {
        f"{block}/{tail}": np.stack([tensors[f"{block}_{i}/{tail}"] for i in range(2)])
        for tail in tails
    }


def prefixed(prefix):
    return lambda tensors: (
        {f"{prefix}{n}": t for n, t in tensors.items()}
        | {"opt/state/step": np.zeros(())}
    )


SPELLINGS = {
    "new numbers": ("vision_transformer", renumbered),
    "opt/target": ("vision_transformer", prefixed("opt/target/")),
    "params": ("big_vision", prefixed("params/")),
    "params/img": ("big_vision", prefixed("params/img/")),
    "scan": ("big_vision", scanned),
    "training state": ("timm", lambda t: {"epoch": 3, "state_dict": t, "model": {}}),
    "data parallel": ("timm", lambda t: {f"module.{n}": x for n, x in t.items()}),
    "float16": ("timm", lambda t: {n: x.astype(np.float16) for n, x in t.items()}),
    "jax arrays": ("timm", lambda t: {n: jnp.asarray(x) for n, x in t.items()}),
    "mask token": ("timm", lambda t: t | {"mask_token": np.zeros((1, 16))}),
    "I-JEPA": ("timm", lambda t: {"encoder": {f"module.{n}": x for n, x in t.items()}}),
    "counters": ("timm", lambda t: t | {"norm.num_batches_tracked": np.zeros(())}),
}


@pytest.mark.parametrize("names, spell", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_spellings(names, spell, tmp_path):
    settings = settings_for(names)
    saved, tensors = published(tmp_path, names, **settings)
    model, state = made("ViT", 7, **settings)
    loaded, _ = eqx_vit.load_weights(model, spell(tensors), state)
    close = jax.tree.map(
        lambda a, b: bool(np.allclose(a, b, atol=1e-3)),
        eqx.filter(loaded, eqx.is_array),
        eqx.filter(saved, eqx.is_array),
    )
    assert all(jax.tree.leaves(close))


def test_spelling_of_deit3(tmp_path):
    saved, tensors = published(tmp_path, "timm", layer_scale=0.1)
    for i in (1, 2):
        tensors = {
            n.replace(f"ls{i}.gamma", f"gamma_{i}"): t for n, t in tensors.items()
        }
    assert "blocks.0.gamma_1" in tensors
    model, state = made("ViT", 7, layer_scale=0.1)
    loaded, _ = eqx_vit.load_weights(model, tensors, state)
    assert equal(loaded, saved)


def test_all_problems_are_listed_and_the_model_is_untouched(tmp_path):
    _, tensors = published(tmp_path, "timm")
    del tensors["norm.bias"]
    tensors["blocks.2.norm1.weight"] = np.zeros(16, np.float32)
    tensors["head.weight"] = np.zeros((7, 16), np.float32)
    tensors["cls_token"] = np.full((1, 1, 16), np.nan, np.float32)
    model, state = made("ViT")
    before = jax.tree.map(lambda x: x, model)
    with pytest.raises(ValueError) as error:
        eqx_vit.load_weights(model, tensors, state)
    for part in (
        "timm's names",
        "missing: norm.bias (16,)",
        "unexpected: blocks.2.norm1.weight (16,)",
        "of shape (7, 16) instead of (10, 16): head.weight",
        "not finite: cls_token (1, 1, 16)",
    ):
        assert part in str(error.value)
    assert equal(before, model)


def test_names_without_a_place(tmp_path):
    model, state = made("ViT", qkv_bias=True, layer_scale=0.1)
    with pytest.raises(ValueError, match="attention.qkv.bias") as error:
        eqx_vit.save_weights(
            model, tmp_path / "model.safetensors", state, names="vit_pytorch"
        )
    assert "layer_scale1.weight" in str(error.value)
    with pytest.raises(ValueError, match="embed_prefix=False"):
        eqx_vit.save_weights(model, tmp_path / "m.npz", state, names="big_vision")
    _, tensors = published(tmp_path, "vit_pytorch")
    with pytest.raises(ValueError, match="`transformer.blocks.attention.qkv.bias`"):
        eqx_vit.load_weights(model, tensors, state)


def test_a_table_that_is_not_the_fixed_one(tmp_path):
    model, state = made("SimpleViT")
    path = tmp_path / "model.safetensors"
    eqx_vit.save_weights(model, path, state, names="timm")
    tensors = load_file(path)
    tensors["pos_embed"] = tensors["pos_embed"][:, ::-1]
    with pytest.raises(ValueError, match="not the fixed table.*: pos_embed"):
        eqx_vit.load_weights(model, tensors, state)


def test_files_that_are_no_weights(tmp_path):
    model, state = made("ViT")
    good = tmp_path / "good.safetensors"
    eqx_vit.save_weights(model, good, state)
    for suffix in (".safetensors", ".npz", ".pth", ".tar"):
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes(good.read_bytes()[:1000])
        with pytest.raises(ValueError, match=f"cut{suffix}'` cannot be read"):
            eqx_vit.load_weights(model, cut, state)
    with pytest.raises(FileNotFoundError, match="absent.npz"):
        eqx_vit.load_weights(model, tmp_path / "absent.npz", state)
    for action in (eqx_vit.load_weights, eqx_vit.save_weights):
        with pytest.raises(ValueError, match="model.h5"):
            action(model, tmp_path / "model.h5", state)
    with pytest.raises(ValueError, match="none of the names of timm.*conv1.weight"):
        eqx_vit.load_weights(model, {"conv1.weight": np.zeros(3)}, state)
    with pytest.raises(ValueError, match="`names='tim'`.*'timm'"):
        eqx_vit.save_weights(model, good, state, names="tim")
    with pytest.raises(ValueError, match="Linear"):
        eqx_vit.load_weights(eqx.nn.Linear(2, 2, key=jr.key(0)), {})


def test_running_statistics_need_their_state(tmp_path):
    model, _ = made("DeepViT")
    with pytest.raises(ValueError, match="`state=None`.*DeepViT"):
        eqx_vit.save_weights(model, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="`state=None`.*DeepViT"):
        eqx_vit.load_weights(model, {})


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    path.write_text("old")

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    with pytest.raises(OSError, match="disk full"):
        eqx_vit.save_weights(made("ViT")[0], path)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["model.npz"]


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_of_a_file_is_run(zipped, tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "model.pth"
    data = pickle.dumps({"head.weight": Attack(trace), "other": print, "args": [1]})
    if zipped:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("archive/data.pkl", data)
    else:
        path.write_bytes(data)
    with pytest.raises(ValueError, match="model.pth"):
        eqx_vit.load_weights(made("ViT")[0], path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Attack(trace)))
    assert trace.exists()  # the attack is one


def test_state_by_path():
    norm, state = eqx.nn.make_with_state(BatchNorm)(3)
    arrays = flatten(norm, state)
    assert set(arrays) == {"weight", "bias", "running_mean", "running_var"}
    norm, new = unflatten(norm, state, {name: 2 + a for name, a in arrays.items()})
    assert np.array_equal(norm.weight, jnp.full(3, 3.0))
    assert np.array_equal(new.get(norm.running_mean), jnp.full(3, 2.0))
    assert np.array_equal(state.get(norm.running_mean), jnp.zeros(3))


# What training scripts put around the tensors.


def average(t):
    """Tensors that are not those of the model in training."""
    return {n: x + 1 for n, x in t.items()}


def under(prefix, t):
    return {f"{prefix}{n}": x for n, x in t.items()}


COUNT = np.array(7)
WRAPPERS = {
    "torch.compile": lambda t: under("_orig_mod.", t),
    "compiled and parallel": lambda t: under("module._orig_mod.", t),
    "a field": lambda t: under("model.", t),
    "any field": lambda t: under("net.backbone.", t),
    "any key": lambda t: {"weights": t, "epoch": 3},
    "keys in keys": lambda t: {"ckpt": {"model_state": under("module.", t)}, "lr": 0.1},
    "lightning": lambda t: {"state_dict": under("model.", t), "hparams": {"a": 1}},
    "swa": lambda t: under("module.", t) | {"n_averaged": COUNT},
    "integer keys": lambda t: {"state_dict": t, 0: {"a": 1}},
    "an optimiser beside": lambda t: {
        "model": t,
        "optimizer": {"state": {0: {"exp_avg": np.zeros(3)}}},
    },
    # The average is loaded.
    "timm's average": lambda t: {"state_dict": average(t), "state_dict_ema": t},
    "an average beside": lambda t: {"model": average(t), "ema": under("module.", t)},
    "averages by prefix": lambda t: (
        under("online_model.", average(t))
        | under("ema_model.", t)
        | {"initted": np.array([True]), "step": COUNT}
    ),
    "a student": lambda t: {"student": average(t), "teacher": t},
    "I-JEPA's encoders": lambda t: {"encoder": t, "target_encoder": average(t)},
}


def load(source):
    model, state = made("ViT")
    return eqx_vit.load_weights(model, source, state)


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    return published(tmp_path_factory.mktemp("weights"), "timm")


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_are_taken_off_and_said(wrapper, tensors, caplog):
    saved, plain = tensors
    model, state = made("ViT", 7)
    with caplog.at_level(logging.WARNING, "eqx_vit"):
        loaded, _ = eqx_vit.load_weights(model, WRAPPERS[wrapper](plain), state)
    assert equal(loaded, saved)
    assert len(caplog.messages) == 1 and "took" in caplog.messages[0]


AMBIGUOUS = {
    "two models": lambda t: {"generator": t, "critic": average(t)},
    "two averages": lambda t: {"ema": t, "swa": average(t)},
    "two prefixes": lambda t: under("first.", t) | under("second.", average(t)),
}


@pytest.mark.parametrize("wrapper", AMBIGUOUS)
def test_what_stays_ambiguous_is_refused(wrapper, tensors):
    with pytest.raises(ValueError, match="several sets of weights"):
        load(AMBIGUOUS[wrapper](tensors[1]))


def test_tensors_beside_a_prefix_are_not_lost(tensors):
    wrapped = under("model.", tensors[1]) | {"decoder.norm.weight": np.zeros(16)}
    with pytest.raises(ValueError, match="unexpected: decoder.norm.weight"):
        load(wrapped)


@pytest.mark.parametrize("kind", [np.int32, np.complex64, np.bool_, "S4"])
def test_weights_are_floats(kind, tensors):
    wrong = tensors[1] | {"norm.bias": np.zeros(16, kind)}
    with pytest.raises(ValueError, match="norm.bias"):
        load(wrong)


def test_a_temperature_of_16_bits_is_taken_to_the_exponent_in_32():
    model, state = made("SmallDatasetViT")
    tensors = {}
    for name, place in formats_of(model)[1].names(model).items():
        array = flatten(model, state)[name]
        if "scale" not in name:
            tensors |= place.publish(np.asarray(array))
    exponent = np.float16(-2.079)
    tensors |= {f"transformer.layers.{i}.0.temperature": exponent for i in range(2)}
    loaded, _ = eqx_vit.load_weights(model, tensors, state)
    scale = loaded.transformer.blocks.attention.scale
    assert np.array_equal(scale, np.full_like(scale, np.exp(np.float32(exponent))))


def test_a_model_that_no_published_code_computes(tmp_path):
    model, state = made("CrossViT")  # of two cross-attentions
    once, _ = made("CrossViT", cross_attn_depth=1)
    with pytest.raises(ValueError, match="`cross_attn_depth=2` timm's CrossViT"):
        eqx_vit.save_weights(model, "never.safetensors", state, names="timm")
    path = tmp_path / "own.safetensors"
    eqx_vit.save_weights(model, path, state)
    other, other_state = made("CrossViT", 7)
    assert equal(eqx_vit.load_weights(other, path, other_state), (model, state))
    names, theirs = formats_of(model)[0].names(once), {}
    for path, array in flatten(once, None).items():
        theirs |= names[path].publish(array)
    with pytest.raises(ValueError, match="sees the class token alone"):
        eqx_vit.load_weights(model, theirs, state)
    with pytest.raises(ValueError, match="`quick_gelu`; build it with `activation="):
        cvt, cvt_state = made("CvT")
        eqx_vit.save_weights(cvt, "never.safetensors", cvt_state, names="transformers")
