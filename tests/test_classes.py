"""Classes are matched by name."""

import numpy as np
import pytest
from eqx_vit.data import (
    ArrayImages,
    imagenet,
    imagenet_aliases,
    imagenet_classes,
    match_classes,
    sorted_classes,
    with_classes,
)


def matched(names, *known):
    return match_classes(names, *known).tolist()


def test_names_in_any_order_and_some_of_them():
    known = ("alpha", "beta", "gamma")
    assert matched(("gamma", "alpha"), known) == [2, 0]
    assert matched(("Gamma", "ALPHA"), known) == [2, 0]
    assert matched(("polar_bear", "tabby  cat"), ("tabby cat", "Polar Bear")) == [1, 0]


def test_what_is_unknown_is_listed_with_the_nearest():
    with pytest.raises(ValueError, match="2 classes.*`zebra`, `beto` .nearest: `beta`"):
        matched(("zebra", "alpha", "beto"), ("alpha", "beta"))


def test_two_names_of_one_class_are_refused():
    with pytest.raises(ValueError, match="`cat` and `Cat`, which are one class"):
        matched(("cat", "Cat"), ("dog", "cat"))
    # Where the capitals tell them apart, they are two.
    assert matched(("cat", "Cat"), ("Cat", "cat")) == [1, 0]


def test_a_name_that_could_be_two_is_not_guessed():
    with pytest.raises(ValueError, match="`CAT`"):
        matched(("CAT",), ("Cat", "cat"))


IMAGENET = imagenet_classes(), imagenet_aliases()


def test_imagenet_by_any_of_its_names():
    assert len(IMAGENET[0]) == len(set(IMAGENET[0])) == 1000
    wordnet = [cls.wordnet for cls in imagenet()]
    assert wordnet == sorted(wordnet)
    for names in (
        IMAGENET[0],
        wordnet,
        [str(i) for i in range(1000)],
        [f"{i:04}" for i in range(1000)],
    ):
        assert matched(names, *IMAGENET) == list(range(1000))
    assert matched(("tench, Tinca tinca", "goldfish"), *IMAGENET) == [0, 1]
    # "crane" is a bird and a machine.
    assert matched(("n03126707", "crane (bird)"), *IMAGENET) == [517, 134]
    with pytest.raises(ValueError, match="`crane`"):
        matched(("crane",), *IMAGENET)
    with pytest.raises(ValueError, match="`1000`.*by WordNet id or by index from 0"):
        matched([str(i) for i in range(1, 1001)], *IMAGENET)


def test_whole_numbers_are_sorted_as_numbers():
    names = [str(i) for i in range(1000)]
    assert sorted_classes(sorted(names)) == names
    assert sorted_classes({"b", "10", "9"}) == ["10", "9", "b"]


def test_labels_follow_their_names():
    images = ArrayImages(
        np.zeros((4, 1, 1, 1), np.uint8), np.array([0, 1, 1, 0]), ("cat", "dog")
    )
    found = with_classes(images, ("dog", "bird", "cat"))
    assert found.labels.tolist() == [2, 0, 0, 2]
    assert found.classes == ("dog", "bird", "cat")
    assert images.labels.tolist() == [0, 1, 1, 0]
