import contextlib
import json

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from eqx_vit.layers import Linear, LoRALinear
from eqx_vit.training import lora_patterns, parameter_groups, per_layer, with_lora_keys
from safetensors.numpy import load_file, save_file

from .helpers import by_path, copied, equal, few, images_for, models, with_trained


def is_linear(x):
    return isinstance(x, Linear)


def linears(model):
    """The linear layers of a model, by path."""
    leaves = jax.tree_util.tree_leaves_with_path(model, is_leaf=is_linear)
    spell = lambda path: jax.tree_util.keystr(path, simple=True, separator=".")
    return {spell(path): layer for path, layer in leaves if is_linear(layer)}


def adapted(name, where=None, **settings):
    """A model with random adapters, and its state."""
    model, state = eqx.nn.make_with_state(models[name])(key=jr.key(0))
    model = eqx_vit.lora(model, 2, where, key=jr.key(1), **settings)
    return with_trained(model, jr.key(2)), state


@pytest.fixture
def vit():
    return models["ViT"](dropout=0.0, emb_dropout=0.0, key=jr.key(0))


IMAGE = images_for("ViT")[0]


def logits(model, **options):
    return eqx.filter_jit(model)(IMAGE, **options)


def test_the_model_is_unchanged_at_first(vit):
    assert np.array_equal(logits(eqx_vit.lora(vit, key=jr.key(1))), logits(vit))


def test_the_adapter_adds_its_product():
    layer = LoRALinear(
        Linear(3, 4, key=jr.key(0)), jnp.ones((2, 3)), jnp.ones((4, 2)), scale=0.5
    )
    x = jnp.array([1.0, 2.0, 3.0])
    plain = Linear(3, 4, key=jr.key(0))
    assert np.allclose(layer(x), plain(x) + 6)
    assert np.allclose(layer.merged()(x), layer(x))
    assert np.allclose(
        jnp.concatenate([part(x) for part in layer.split(2)]), layer(x), atol=1e-6
    )
    affine = layer.then_affine(jnp.full(4, 2.0), jnp.ones(4))
    assert np.allclose(affine(x), 2 * layer(x) + 1, atol=1e-5)


@pytest.mark.parametrize("settings, scale", [({}, 1), (dict(alpha=4), 2)])
@pytest.mark.parametrize("stabilised", [False, True])
def test_scale(vit, settings, scale, stabilised):
    model = eqx_vit.lora(vit, 2, rank_stabilised=stabilised, key=jr.key(1), **settings)
    scale = scale * 2**0.5 if stabilised else scale
    found = model.transformer.blocks.attention.qkv.scale
    assert found == pytest.approx(scale)


def test_factors_are_drawn_as_peft_draws_them(vit):
    layer = eqx_vit.lora(vit, 8, key=jr.key(1)).transformer.blocks.attention.qkv
    assert layer.down.shape == (2, 8, 16) and layer.up.shape == (2, 48, 8)
    assert 0.24 < abs(layer.down).max() <= 0.25 and not layer.up.any()
    assert not np.array_equal(*layer.down)


# Inside attention, but not to or from queries, keys and values.
OTHERS = ("mix", "position_bias", "reduction", "feed_forward")


@pytest.mark.parametrize("name", few(models))
def test_projections_of_attention_are_adapted_by_default(name):
    make = eqx.nn.make_with_state(models[name])
    layers = linears(eqx_vit.lora(make(key=jr.key(0))[0], 1, key=jr.key(1)))
    found = {path for path, layer in layers.items() if isinstance(layer, LoRALinear)}
    inside = {path for path in layers if "attention" in path}
    assert found == {p for p in inside if not any(other in p for other in OTHERS)}


@pytest.mark.parametrize("name", few(models))
def test_adapters_and_heads_are_trained(name):
    make = eqx.nn.make_with_state(models[name])
    model = eqx_vit.lora(make(key=jr.key(0))[0], 1, key=jr.key(1))
    groups = parameter_groups(model, lora_patterns(model))
    trained = {p.split("[")[0] for g, ps in groups.items() if g.trained for p in ps}
    layers = linears(model)
    factors = {
        f"{path}.{factor}"
        for path, layer in layers.items()
        if isinstance(layer, LoRALinear)
        for factor in ("down", "up")
    }
    heads = {path for path in layers if "head" in path}
    heads = {f"{path}.{kind}" for path in heads for kind in ("weight", "bias")}
    assert trained == factors | heads


@pytest.mark.parametrize("name", few(models, {*models} - {"ViT", "LeViT"}))
def test_merged_models_compute_the_same(name):
    where = ["*", "!*head*", "!*position_bias*"]
    if name == "CrossFormer":
        where = ["*attention.qkv", "*expand"]
    elif not any("position_bias" in p for p in linears(models[name](key=jr.key(0)))):
        where = where[:2]
    model, state = adapted(name, where)
    images = images_for(name, 2)
    found = eqx_vit.predict(eqx_vit.merge_lora(model), images, state)
    np.testing.assert_allclose(
        eqx_vit.predict(model, images, state), found, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", few(models, {*models} - {"ViT"}))
def test_steps_change_nothing_else(name):
    model, state = adapted(name, dropout=0.1)
    patterns = lora_patterns(model)
    optimizer = eqx_vit.freeze(optax.adamw(0.1), model, patterns)
    opt_state = jax.jit(optimizer.init)(eqx.filter(model, eqx.is_inexact_array))
    new, state, opt_state = copied((model, state, opt_state))
    images = images_for(name, 2)
    for i in range(2):
        with jax.numpy_dtype_promotion("standard"):
            new, state, opt_state, _ = eqx_vit.train_step(
                new, state, opt_state, images, jnp.arange(2), optimizer, key=jr.key(i)
            )
    old, new = by_path(model), by_path(new)
    arrays = [path for path in old if eqx.is_inexact_array(old[path])]
    changed = {path for path in arrays if not np.array_equal(old[path], new[path])}
    groups = parameter_groups(model, patterns)
    trained = {p.split("[")[0] for g, ps in groups.items() if g.trained for p in ps}
    assert changed == trained


@pytest.mark.slow
def test_a_mesh_changes_nothing():
    """The keys of adapters are there in addition to what the mesh has shares of."""
    model, state = adapted("ViT", dropout=0.1)
    optimizer = eqx_vit.freeze(optax.sgd(0.1), model, lora_patterns(model))
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    images = images_for("ViT", 2)
    losses = []
    for mesh in (contextlib.nullcontext(), jax.set_mesh(eqx_vit.make_mesh())):
        a, b, c = copied((model, state, opt_state))
        with mesh:
            loss = eqx_vit.train_step(
                a, b, c, images, jnp.arange(2), optimizer, key=jr.key(0)
            )[-1]
        losses.append(float(loss))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_adapters_alone_are_averaged(vit):
    model = eqx_vit.lora(vit, 2, key=jr.key(1))
    average = eqx_vit.moving_average(optax.sgd(1.0), 0.9)
    optimizer = eqx_vit.freeze(average, model, lora_patterns(model))
    parameters = eqx.filter(model, eqx.is_inexact_array)
    ones = jax.tree.map(jnp.ones_like, parameters)
    with jax.numpy_dtype_promotion("standard"):
        opt_state = optimizer.init(parameters)
        _, opt_state = optimizer.update(ones, opt_state, parameters)
    found = eqx_vit.averaged_model(model, opt_state)
    old, new = by_path(model.transformer), by_path(found.transformer)
    where = "blocks.attention.qkv"
    assert np.allclose(new[f"{where}.up"], old[f"{where}.up"] - 0.9)
    assert np.array_equal(new[f"{where}.weight"], old[f"{where}.weight"])


def test_merging_gives_the_plain_model(vit):
    merged = eqx_vit.merge_lora(eqx_vit.lora(vit, key=jr.key(1)))
    assert equal(merged, vit)


def test_batch_normalisation_is_fused():
    model, state = adapted("LeViT")
    image = images_for("LeViT", 1)
    fused = eqx_vit.fuse_batch_norm(model, state)
    np.testing.assert_allclose(
        eqx_vit.predict(fused, image),
        eqx_vit.predict(model, image, state),
        rtol=1e-4,
        atol=1e-5,
    )


def test_optimisers_see_the_factors_of_one_layer():
    model, _ = adapted("ParallelViT")
    parameters = eqx.filter(model, eqx.is_inexact_array)
    optimizer = per_layer(optax.scale_by_trust_ratio())
    ones = jax.tree.map(jnp.ones_like, parameters)
    update = jax.jit(lambda p: optimizer.update(ones, optimizer.init(p), p)[0])
    updates = update(parameters)
    for factor in ("down", "up"):
        where = f"transformer.blocks.attentions.layer.qkv.{factor}"
        norms = [
            jnp.linalg.norm(by_path(tree)[where], axis=(-2, -1))
            for tree in (updates, parameters)
        ]
        assert np.allclose(*norms, rtol=1e-5)


def test_adapters_decay(vit):
    mask = by_path(eqx_vit.decay_mask(eqx_vit.lora(vit, key=jr.key(1))))
    assert mask["transformer.blocks.attention.qkv.down"]
    assert mask["transformer.blocks.attention.qkv.up"]


def test_dropout_of_each_block_and_layer(vit):
    model = eqx_vit.lora(vit, dropout=0.5, key=jr.key(1))
    attention = with_lora_keys(model, jr.key(2)).transformer.blocks.attention
    keys = jnp.concatenate([attention.qkv.key, attention.output.key])
    assert len({tuple(data) for data in jr.key_data(keys).tolist()}) == 4


def test_dropout_drops(vit):
    model = with_trained(eqx_vit.lora(vit, dropout=0.5, key=jr.key(1)), jr.key(2))
    found = [logits(with_lora_keys(model, jr.key(i))) for i in (0, 0, 1)]
    assert np.array_equal(found[0], found[1])
    assert not np.allclose(found[0], found[2])
    inference = eqx.nn.inference_mode(model)
    assert np.allclose(logits(inference), logits(eqx_vit.merge_lora(model)), atol=1e-5)
    with pytest.raises(RuntimeError, match="key"):
        logits(model)


def test_without_dropout_no_key_is_given(vit):
    model = eqx_vit.lora(vit, key=jr.key(1))
    assert with_lora_keys(model, jr.key(2)) is model


WRONG = {
    "where": (dict(where=["*kqv"]), "`where` has '\\*kqv', which is the path of no"),
    "a string": (dict(where="*"), "is one string; give a list"),
    "rank": (dict(rank=0), "`rank=0`"),
    "rank, dim": (dict(rank=17), "`rank=17` is larger than a side of .*is 16."),
    "alpha": (dict(alpha=0.0), "`alpha=0.0` must be above 0"),
    "dropout": (dict(dropout=1.0), "`dropout=1.0` must be a rate"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments(vit, wrong):
    arguments, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message):
        eqx_vit.lora(vit, **arguments, key=jr.key(1))


def test_a_layer_has_one_adapter(vit):
    model = eqx_vit.lora(vit, where=["*qkv"], key=jr.key(1))
    with pytest.raises(ValueError, match="qkv', which has an adapter already"):
        eqx_vit.lora(model, key=jr.key(1))
    model = eqx_vit.lora(model, where=["*attention*", "!*qkv"], key=jr.key(1))
    assert isinstance(model.transformer.blocks.attention.output, LoRALinear)


def test_patterns_need_adapters(vit):
    with pytest.raises(ValueError, match="no adapters"):
        lora_patterns(vit)


def test_weights_are_saved_without_adapters(vit, tmp_path):
    model = eqx_vit.lora(vit, key=jr.key(1))
    for save in (eqx_vit.save_weights, eqx_vit.save_pretrained):
        with pytest.raises(ValueError, match="save_adapter.*merge_lora"):
            save(model, tmp_path / "model.safetensors")
    eqx_vit.save_weights(eqx_vit.merge_lora(model), tmp_path / "model.safetensors")


def without_adapters(model):
    is_adapted = lambda x: isinstance(x, LoRALinear)
    base = lambda x: x.base() if is_adapted(x) else x
    return jax.tree.map(base, model, is_leaf=is_adapted)


def factors(folder):
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    "name, names", [*((name, None) for name in models), ("T2TViT", "eqx_vit")]
)
def test_saved_adapters_are_loaded(name, names, tmp_path):
    model, _ = adapted(name, alpha=3, dropout=0.1)
    eqx_vit.save_adapter(model, tmp_path, names=names)
    again = eqx_vit.load_adapter(without_adapters(model), tmp_path)
    assert equal(again, model)


@pytest.mark.parametrize("name", ["ViT", "CaiT", "PiT", "CvT", "RegionViT"])
def test_saved_factors_are_the_change_of_published_weights(name, tmp_path):
    model, state = adapted(name)
    merged, plain = eqx_vit.merge_lora(model), without_adapters(model)
    eqx_vit.save_adapter(model, tmp_path)
    saved = []
    for i, each in enumerate((merged, plain)):
        eqx_vit.save_weights(each, tmp_path / f"{i}.safetensors", state)
        saved.append(load_file(tmp_path / f"{i}.safetensors"))
    after, before = saved
    tensors = factors(tmp_path)
    for weight in before:
        module = f"base_model.model.{weight.removesuffix('.weight')}"
        change = np.zeros_like(before[weight])
        if f"{module}.lora_B.weight" in tensors:
            up, down = (tensors[f"{module}.lora_{kind}.weight"] for kind in "BA")
            change = up @ down
        np.testing.assert_allclose(after[weight], before[weight] + change, atol=1e-6)


def test_parts_of_one_layer_are_joined(tmp_path):
    """Queries and values alone, with factors of their own."""
    model, _ = adapted("ViT", ["*qkv"])
    eqx_vit.save_adapter(model, tmp_path, names="transformers")
    draw = np.random.default_rng(0).normal
    tensors = {
        name: draw(size=tensor.shape).astype(np.float32)
        for name, tensor in factors(tmp_path).items()
        if "k_proj" not in name
    }
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    qkv = eqx_vit.load_adapter(without_adapters(model), tmp_path).transformer.blocks
    qkv = qkv.attention.qkv
    change = np.split(qkv.matrix() - qkv.weight, 3, axis=1)
    assert qkv.down.shape == (2, 4, 16)
    for i, kind in ((0, "q_proj"), (2, "v_proj")):
        prefix = f"base_model.model.vit.layers.1.attention.{kind}"
        up, down = (tensors[f"{prefix}.lora_{factor}.weight"] for factor in "BA")
        np.testing.assert_allclose(change[i][1], up @ down, atol=1e-5)
    assert not change[1].any()


def test_names_of_transformers_4(tmp_path):
    model, _ = adapted("ViT", ["*qkv", "*expand"])
    eqx_vit.save_adapter(model, tmp_path, names="transformers")
    renames = {".layers.": ".encoder.layer.", ".mlp.fc1.": ".intermediate.dense."}
    for kind in ("query", "key", "value"):
        renames[f".attention.{kind[0]}_proj."] = f".attention.attention.{kind}."
    tensors = factors(tmp_path)
    for live, old in renames.items():
        tensors = {name.replace(live, old): t for name, t in tensors.items()}
    assert "base_model.model.vit.encoder.layer.1.intermediate.dense" in str(tensors)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    assert equal(eqx_vit.load_adapter(without_adapters(model), tmp_path), model)


def test_ranks_of_layers(tmp_path):
    model, _ = adapted("ViT", ["*qkv"])
    model = eqx_vit.lora(model, 3, ["*expand"], alpha=4, key=jr.key(3))
    eqx_vit.save_adapter(model, tmp_path, base="timm/vit")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["r"] == 2 and config["base_model_name_or_path"] == "timm/vit"
    assert config["rank_pattern"] == {f"blocks.{i}.mlp.fc1": 3 for i in range(2)}
    assert config["alpha_pattern"] == {f"blocks.{i}.mlp.fc1": 4 for i in range(2)}
    assert equal(eqx_vit.load_adapter(without_adapters(model), tmp_path), model)


@pytest.fixture
def saved(tmp_path):
    """A model without its adapter, and the folder of the adapter."""
    model, _ = adapted("ViT")
    eqx_vit.save_adapter(model, tmp_path)
    return without_adapters(model), tmp_path


SETTINGS = {
    "peft_type": ("LOHA", "`peft_type='LOHA'`; only 'LORA' can be loaded"),
    "use_dora": (True, "`use_dora=True`; only a plain LoRA"),
    "bias": ("all", "`bias='all'`"),
    "init_lora_weights": ("pissa", "`init_lora_weights='pissa'`"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_other_adapters_are_refused(saved, name):
    model, folder = saved
    value, message = SETTINGS[name]
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(ValueError, match=message):
        eqx_vit.load_adapter(model, folder)


QKV = "base_model.model.blocks.0.attn.qkv"
CHANGES = {
    "a module of another model": (
        {"base_model.model.neck.lora_A.weight": np.ones((2, 3))},
        r"not a linear layer of the model: neck.lora_A.weight \(2, 3\)",
    ),
    "one factor": ({f"{QKV}.lora_B.weight": None}, "missing: .*0.attn.qkv.lora_B"),
    "another size": (
        {f"{QKV}.lora_A.weight": np.ones((2, 9))},
        r"of shape \(2, 9\) instead of \(2, 16\): blocks.0.attn.qkv.lora_A.weight",
    ),
    "NaN": ({f"{QKV}.lora_A.weight": np.full((2, 16), np.nan)}, "not finite: blocks.0"),
    "other classes": (
        {"base_model.model.head.bias": np.ones(5)},
        r"of shape \(5,\) instead of \(10,\): head.bias .*reset_head",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_files_that_do_not_fit_are_refused(saved, change):
    model, folder = saved
    changes, message = CHANGES[change]
    tensors = factors(folder) | changes
    tensors = {n: t.astype(np.float32) for n, t in tensors.items() if t is not None}
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=message):
        eqx_vit.load_adapter(model, folder)


def test_a_model_without_adapters_has_none_to_save(vit, tmp_path):
    with pytest.raises(ValueError, match="`model` has no adapters"):
        eqx_vit.save_adapter(vit, tmp_path)
    with pytest.raises(ValueError, match="`model` has adapters"):
        eqx_vit.load_adapter(eqx_vit.lora(vit, key=jr.key(0)), tmp_path)


def test_names_without_a_place(tmp_path):
    model, _ = adapted("CrossViT")
    with pytest.raises(ValueError, match="`names='timm'`"):
        eqx_vit.save_adapter(model, tmp_path, names="timm")
