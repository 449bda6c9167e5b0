"""The operations of RandAugment, the mixing of images and the names of classes, against
timm's."""

import random
from importlib.resources import files
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import timm.data.auto_augment as theirs
import torch
from eqx_vit import mixup_cutmix
from eqx_vit.cli._load import Outputs
from eqx_vit.cli._subset import on_subset
from eqx_vit.cli.reports._classes import score, top
from eqx_vit.cli.runs import Loaded
from eqx_vit.data import (
    ImageFiles,
    imagenet,
    imagenet_classes,
    imagenet_real,
    imagenet_subset,
    OPERATIONS,
)
from PIL import Image
from timm.data.mixup import mixup_target, rand_bbox
from timm.data.real_labels import RealLabelsImagenet

from ..helpers import assert_close


NAMES = dict(zip(OPERATIONS, theirs._RAND_INCREASING_TRANSFORMS))
ONE_SIGN = ["auto_contrast", "equalize", "invert"]
ONE_SIGN += ["posterize", "solarize", "solarize_add"]


def test_there_are_as_many_operations():
    assert len(OPERATIONS) == len(theirs._RAND_INCREASING_TRANSFORMS)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name, sign, monkeypatch):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8))
    # Theirs draws the sign: above a half it is minus.
    monkeypatch.setattr(random, "random", lambda: 0.25 if sign > 0 else 0.75)
    for level in (0.5, 3.0, 8.6, 9.9):
        hparams = dict(img_mean=(128,) * 3, interpolation=Image.Resampling.BICUBIC)
        operation = theirs.AugmentOp(NAMES[name], 1.0, level, hparams)
        operation.magnitude_std = 0
        signed = level / 10 if name in ONE_SIGN else sign * level / 10
        ours = OPERATIONS[name](image, signed)
        apart = abs(np.asarray(ours).astype(int) - np.asarray(operation(image)))
        # (A few values are rounded to the other side in float32.)
        is_float = name.startswith(("shear", "translate"))
        assert apart.max() <= is_float and (apart > 0).mean() < 0.01


def test_labels_of_mixed_images():
    # The share that stayed of ours, put into theirs.
    images = jr.normal(jr.key(0), (4, 8, 8, 3))
    labels = jnp.array([1, 0, 3, 2])
    for key in jr.split(jr.key(1), 4):
        mixed, ours = mixup_cutmix(images, labels, 4, key=key)
        share = float(ours[0, 1])
        target = mixup_target(torch.tensor(np.array(labels)).long(), 4, share)
        assert_close(ours, target.numpy())
        is_cut = bool((mixed == images).any())
        if not is_cut:
            assert_close(mixed, share * images + (1 - share) * images[::-1])


def test_the_sides_of_what_is_cut_out():
    sides = []
    for key in jr.split(jr.key(0), 300):
        mixed, labels = mixup_cutmix(
            jnp.stack([jnp.zeros((40, 40, 1)), jnp.ones((40, 40, 1))]),
            jnp.arange(2),
            2,
            mixup=0.0,
            key=key,
        )
        sides.append(float(labels[0, 1]))
    np.random.seed(0)
    shares = np.random.beta(1.0, 1.0, 300)
    boxes = [rand_bbox((1, 1, 40, 40), share) for share in shares]
    areas = [(b - a) * (d - c) / 1600 for a, b, c, d in boxes]
    assert abs(np.mean(sides) - np.mean(areas)) < 0.05
    assert abs(np.std(sides) - np.std(areas)) < 0.05


def theirs_of(name):
    return (files("timm.data") / "_info" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "label_set, name",
    [
        ("ImageNet-1k", "imagenet"),
        ("ImageNet-12k", "imagenet12k"),
        ("ImageNet-21k", "imagenet21k_goog"),
        ("ImageNet-21k-P", "imagenet21k_miil"),
        ("ImageNet-22k", "imagenet22k"),
        ("ImageNet-22k-1k-first", "imagenet22k_ms"),
    ],
)
def test_label_sets(label_set, name):
    classes = imagenet(label_set)
    assert [cls.wordnet for cls in classes] == theirs_of(f"{name}_synsets.txt").split()
    if label_set != "ImageNet-1k":  # its names are the data set's, not WordNet's
        lines = theirs_of("imagenet_synset_to_lemma.txt").splitlines()
        names = dict(line.split("\t") for line in lines)
        rest = classes[1000:]
        assert [cls.synonyms for cls in rest] == [names[c.wordnet] for c in rest]


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_r"])
def test_classes_of_a_subset(name):
    indices = theirs_of(f"{name}_indices.txt").split()
    assert list(imagenet_subset(name)) == [int(index) for index in indices]
    wordnet = [imagenet()[index].wordnet for index in imagenet_subset(name)]
    assert wordnet == theirs_of(f"{name}_synsets.txt").split()


def test_the_accuracy_of_several_labels():
    names = [f"ILSVRC2012_val_{i + 1:08}.JPEG" for i in range(50000)]
    counter = RealLabelsImagenet(names)
    logits = np.random.default_rng(0).normal(size=(300, 1000))
    for row, right in zip(logits, imagenet_real()):  # so that some are right
        row[list(right[:1])] += 2.5
    counter.add_result(torch.tensor(logits))
    empty = eqx.nn.Lambda(lambda image: image)
    loaded = Loaded(empty, eqx.nn.State(empty), imagenet_classes(), {}, None)
    images = ImageFiles([Path(n) for n in names], np.zeros(50000, np.int32), ("a",))
    task = on_subset("imagenet_real", loaded, images, "`data`")
    rows = np.array([bool(right) for right in imagenet_real()[:300]])
    kept = logits[rows]
    places = np.arange(len(kept))
    labels = task.labelled(Outputs(kept, task.images.labels[places], places)).labels
    for most in (1, 5):
        share = 100 * top(score(kept, labels), most)
        assert 1 < share < 99
        np.testing.assert_allclose(counter.get_accuracy(most), share)
