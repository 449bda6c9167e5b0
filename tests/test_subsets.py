"""Label sets of published models, and data sets with some classes of ImageNet-1k."""

from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
from eqx_vit import zoo
from eqx_vit.cli._load import Outputs
from eqx_vit.cli._subset import on_subset, SUBSETS
from eqx_vit.cli.runs import Loaded
from eqx_vit.data import (
    ArrayImages,
    classes_of,
    ImageFiles,
    imagenet,
    imagenet_aliases,
    imagenet_classes,
    imagenet_places,
    imagenet_real,
    imagenet_subset,
    match_classes,
)
from eqx_vit.training.step import predict


SIZES = {
    "ImageNet-1k": 1000,
    "ImageNet-12k": 11821,
    "ImageNet-21k": 21843,
    "ImageNet-21k-P": 11221,
    "ImageNet-22k": 21841,
    "ImageNet-22k-1k-first": 21842,
}


@pytest.mark.parametrize("label_set", SIZES)
def test_every_class_has_a_name_of_its_own(label_set):
    names = imagenet_classes(label_set)
    assert len(names) == len(set(names)) == SIZES[label_set]
    wordnet = [cls.wordnet for cls in imagenet(label_set)]
    found = match_classes(wordnet, names, imagenet_aliases(label_set))
    assert found.tolist() == list(range(len(names)))


def test_an_unknown_label_set_is_refused():
    with pytest.raises(ValueError, match="ImageNet-2k.*must be one of 'ImageNet-1k'"):
        imagenet("ImageNet-2k")


def test_a_name_that_two_classes_share_is_not_guessed():
    assert sum("queen" == c.synonyms for c in imagenet("ImageNet-21k")) > 1
    assert "queen" not in imagenet_aliases("ImageNet-21k")


def test_every_record_of_a_label_set_knows_its_classes():
    for record in zoo.values():
        if (record.label_set or "").startswith("ImageNet"):
            names, aliases = classes_of(record, record.num_classes)
            assert len(names) == record.num_classes and "class 0" not in names
            assert len(aliases) > len(names)


def test_where_the_classes_of_imagenet_are():
    order = list(range(1000))
    wordnet = [cls.wordnet for cls in imagenet()]
    assert imagenet_places(wordnet) == tuple(order)
    assert imagenet_places(wordnet[::-1]) == tuple(order[::-1])
    # "crane" is a bird and a machine.
    first = [cls.synonyms.split(", ")[0] for cls in imagenet()]
    assert first[134] == first[517] and imagenet_places(first) == tuple(order)
    assert imagenet_places([f"class {i}" for i in order]) is None
    assert imagenet_places(wordnet[:10]) is None


def loaded(logits, classes=imagenet_classes(), kind="class"):
    """A model whose logits are given, at the place that the image holds."""
    model = eqx.nn.Lambda(
        lambda image: jax.numpy.asarray(logits)[image.astype(int)[0, 0, 0]]
    )
    aliases = imagenet_aliases() if len(classes) == 1000 else {}
    state: eqx.nn.State = eqx.nn.State(model)
    return Loaded(model, state, tuple(classes), aliases, None, kind)  # pyright: ignore


def arrays(*classes):
    pixels = np.zeros((len(classes), 1, 1, 1), np.uint8)
    return ArrayImages(pixels, np.arange(len(classes), dtype=np.int32), classes)


def test_only_the_classes_of_the_subset_compete():
    logits = np.arange(1000.0)[None].repeat(2, 0)
    names = [cls.wordnet for cls in imagenet()]
    model = loaded(logits[:, ::-1], names[::-1])
    task = on_subset("imagenet_r", model, arrays("n01443537", "2"), "`data`")
    images = np.zeros((1, 1, 1, 1), np.float32)
    (row,) = np.asarray(predict(task.loaded.model, images, model.state))
    assert row.tolist() == list(imagenet_subset("imagenet_r"))
    assert task.loaded.classes[:2] == ("goldfish", "great white shark")
    assert task.images.labels.tolist() == [0, 1]


def test_folders_of_imagenet_v2_are_indices():
    task = on_subset("imagenet_v2", loaded(np.eye(1000)), arrays("10", "9"), "`data`")
    assert task.images.labels.tolist() == [10, 9]


def files(*numbers):
    paths = [Path(f"a/ILSVRC2012_val_{number:08}.JPEG") for number in numbers]
    return ImageFiles(paths, np.zeros(len(paths), np.int32), ("a",))


def test_any_of_the_labels_is_right():
    real = imagenet_real()
    assert (real[0], real[1]) == ((), (970, 795))
    task = on_subset("imagenet_real", loaded(np.eye(1000)), files(1, 2, 3), "`data`")
    assert [task.images.name(i)[-6:] for i in range(2)] == ["2.JPEG", "3.JPEG"]
    rows = np.zeros((2, 1000))
    rows[0, 795] = rows[1, 5] = 1
    found = task.labelled(Outputs(rows, task.images.labels, np.arange(2)))
    assert found.labels.tolist() == [795, 230]


@pytest.mark.parametrize(
    "subset, classes, message",
    [
        ("imagenet_a", ("n01440764",), "`data` has 1 class.*ImageNet-A.*`n01440764`"),
        ("imagenet_v2", ("1000",), "`1000`"),
        ("imagenet_real", ("n01440764",), "`image 0` must be named.*ILSVRC2012_val"),
    ],
)
def test_images_that_are_not_of_the_subset(subset, classes, message):
    with pytest.raises(ValueError, match=message):
        on_subset(subset, loaded(np.eye(1000)), arrays(*classes), "`data`")


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize(
    "classes, kind", [(["a", "b"], "class"), (imagenet_classes(), "classes")]
)
def test_a_model_of_other_classes_is_refused(subset, classes, kind):
    with pytest.raises(ValueError, match=f"`--subset {subset}` needs a model of"):
        on_subset(subset, loaded(np.eye(1000), classes, kind), files(2), "`data`")
