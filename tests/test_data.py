"""Loading and augmenting images."""

import csv
import gzip
import shutil
from pathlib import Path
from typing import Any

import datasets
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from eqx_vit import mixup_cutmix
from eqx_vit.data import (
    ArrayImages,
    Augmentation,
    Centre,
    Channels,
    count_channels,
    evaluation_batches as batches_of_test,
    ForDevice,
    HubImages,
    ImageFiles,
    open_data,
    open_part,
    OPERATIONS,
    pixel_statistics,
    ShardImages,
    SourceImages,
    training_batches,
)
from eqx_vit.data._loader import usual_workers
from eqx_vit.training import normalise
from PIL import Image


# 20 images, each of one grey that tells which it is.
PIXELS = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((8, 8, 1), "u1")
IMAGES = ArrayImages(PIXELS, np.arange(20) % 2, ("even", "odd"))
PLAIN = Centre((8, 8), (0.0,), (1.0,))


def plain(pixels, rng):
    return PLAIN(pixels)


def noisy(pixels, rng):
    return PLAIN(pixels) + rng.normal(size=(8, 8, 1)).astype(np.float32)


# Sources.


def write_images(folder, number=10):
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for i in range(number):
            pixels = rng.integers(0, 256, (12, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.png")


def test_a_folder(tmp_path):
    write_images(tmp_path)
    train, test = open_data(tmp_path, holdout=0.2)
    assert train.classes == test.classes == ("cat", "dog")
    assert np.bincount(train.labels).tolist() == [8, 8]
    assert np.bincount(test.labels).tolist() == [2, 2]
    names = {images.name(i) for images in (train, test) for i in range(len(images))}
    assert len(names) == 20 and train.read(0).shape == (12, 16, 3)
    assert all(
        images.classes[images.labels[0]] in images.name(0) for images in (train,)
    )
    assert open_data(tmp_path, holdout=0.2).test.name(0) == test.name(0)


def test_a_folder_with_a_split(tmp_path):
    write_images(tmp_path / "train")
    write_images(tmp_path / "val", 3)
    train, test = open_data(tmp_path)
    assert (len(train), len(test)) == (20, 6)
    write_images(tmp_path / "val" / "bird", 1)
    with pytest.raises(ValueError, match="has the classes bird, which .*train"):
        open_data(tmp_path)


def test_a_csv_file(tmp_path):
    write_images(tmp_path, 2)
    path = tmp_path / "images.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "split"])
        for split, name in enumerate(["cat/0.png", "cat/1.png", "dog/0.png"]):
            rows.writerow([name, name[:3], ("train", "test", "train")[split]])
    train, test = open_data(path)
    assert train.labels.tolist() == [0, 1] and test.labels.tolist() == [0]
    assert train.name(1).endswith("dog/0.png") and train.read(1).shape == (12, 16, 3)
    path.write_text("file,label\n0.png,cat\n")
    with pytest.raises(ValueError, match="columns `path` and `label`.*file, label"):
        open_data(path)


def test_the_files_of_mnist(tmp_path):
    for name, number in (("train", 6), ("t10k", 2)):
        images = np.arange(number * 4, dtype=np.uint8).reshape(number, 2, 2)
        labels = np.arange(number, dtype=np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim])
            head += np.array(array.shape, ">i4").tobytes()
            data = gzip.compress(head + array.tobytes())
            (tmp_path / f"{name}-{kind}-ubyte.gz").write_bytes(data)
    train, test = open_data(tmp_path)
    assert train.labels.tolist() == list(range(6)) and len(test) == 2
    assert train.read(5)[..., 0].tolist() == [[20, 21], [22, 23]]
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\1"))
    with pytest.raises(ValueError, match="not a complete IDX file"):
        open_data(tmp_path)


def test_a_data_set_of_hugging_face(tmp_path):
    pictures = [Image.fromarray(image.squeeze(-1)) for image in PIXELS]
    features = datasets.Features(
        picture=datasets.Image(), kind=datasets.ClassLabel(names=["even", "odd"])
    )
    columns = {"picture": pictures, "kind": IMAGES.labels.tolist()}
    data = datasets.Dataset.from_dict(columns, features)
    data.save_to_disk(str(tmp_path / "whole"))
    train, test = open_data(tmp_path / "whole", holdout=0.2)
    assert isinstance(train, HubImages) and train.classes == ("even", "odd")
    assert (len(train), len(test)) == (16, 4)
    assert train.read(3)[0, 0, 0] % 2 == train.labels[3]
    data.rename_column("kind", "picked").remove_columns("picture").save_to_disk(
        str(tmp_path / "without")
    )
    with pytest.raises(ValueError, match="one column of type image; it has none"):
        open_data(tmp_path / "without")


def test_what_is_no_source(tmp_path):
    (tmp_path / "one").mkdir()
    with pytest.raises(ValueError, match="two classes or more; found none"):
        open_data(tmp_path)
    with pytest.raises(ValueError, match="`holdout=1` must be between 0 and 1"):
        open_data(tmp_path, holdout=1)


def test_pixels_of_every_kind(tmp_path):
    write_images(tmp_path)
    picture = Image.open(tmp_path / "cat" / "0.png")
    for i, mode in enumerate(("L", "1", "P", "RGBA", "CMYK", "I;16")):
        picture.convert(mode).save(
            tmp_path / "dog" / f"{i}.{'tif' if mode == 'CMYK' else 'png'}"
        )
    train, test = open_data(tmp_path)
    for images in (train, test):
        for i in range(len(images)):
            pixels = images.read(i)
            assert pixels.dtype == np.uint8 and pixels.shape[-1] in (1, 3)
            for channels in (1, 3):
                shape = Channels(PLAIN, channels)(pixels).shape
                assert shape == (8, 8, channels)


# What people's folders look like.


def names_of(images):
    return [Path(images.name(i)).name for i in range(len(images))]


SPELLINGS = [("Train", "Val"), ("training_set", "Test-Set"), ("train2017", "val2017")]


@pytest.mark.parametrize("train, test", SPELLINGS)
def test_splits_in_any_spelling(tmp_path, train, test):
    write_images(tmp_path / train)
    write_images(tmp_path / test, 3)
    (tmp_path / "licence").mkdir()
    splits = open_data(tmp_path)
    assert splits.train.classes == ("cat", "dog")
    assert (len(splits.train), len(splits.test)) == (20, 6)
    assert open_part(tmp_path).name == test
    assert len(open_part(tmp_path, train).images) == 20
    with pytest.raises(ValueError, match="no split `extra`; it has `"):
        open_part(tmp_path, "extra")


def test_an_image_beside_the_classes_of_a_split(tmp_path):
    write_images(tmp_path / "train")
    write_images(tmp_path / "val")
    sheet = tmp_path / "train" / "sheet.png"
    sheet.write_bytes((tmp_path / "train" / "cat" / "0.png").read_bytes())
    with pytest.raises(ValueError, match="the image `sheet.png` beside sub-folders"):
        open_data(tmp_path)


def test_every_class_has_an_image_on_both_sides(tmp_path):
    write_images(tmp_path, 2)
    for holdout in (0.01, 0.99):
        for images in open_data(tmp_path, holdout):
            assert np.bincount(images.labels).tolist() == [1, 1]


def test_a_class_called_train_is_no_split(tmp_path):
    write_images(tmp_path)
    (tmp_path / "dog").rename(tmp_path / "train")
    assert open_data(tmp_path).train.classes == ("cat", "train")


def test_a_split_beside_classes_is_refused(tmp_path):
    write_images(tmp_path)
    write_images(tmp_path / "train")
    with pytest.raises(ValueError, match="split `train` beside .*`cat`, `dog`"):
        open_data(tmp_path)


def test_a_folder_to_test_on_alone(tmp_path):
    write_images(tmp_path / "val", 3)
    part = open_part(tmp_path)
    assert part.name == "val" and len(part.images) == 6
    with pytest.raises(ValueError, match="`val`. and none to train on"):
        open_data(tmp_path)


def test_all_images_of_a_folder_without_splits(tmp_path):
    write_images(tmp_path)
    part = open_part(tmp_path)
    assert part.name == "all" and len(part.images) == 20


def test_what_systems_and_runs_leave_is_no_data(tmp_path):
    write_images(tmp_path)
    expected = names_of(open_part(tmp_path).images)
    copy = (tmp_path / "cat" / "0.png").read_bytes()
    for place in (
        ".ipynb_checkpoints/0.png",
        "cat/.ipynb_checkpoints/0-checkpoint.png",
        "cat/._0.png",
        "__MACOSX/cat/0.png",
        "@eaDir/0.png",
        "runs/one/curves.png",
    ):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(copy)
    (tmp_path / "runs" / "one" / "checkpoints").mkdir()
    (tmp_path / "runs" / "one" / "config.json").write_text("{}")
    found = open_part(tmp_path).images
    assert found.classes == ("cat", "dog") and names_of(found) == expected


def test_links_are_followed_once(tmp_path):
    write_images(tmp_path / "there")
    (tmp_path / "here" / "cat").mkdir(parents=True)
    (tmp_path / "here" / "dog").symlink_to(tmp_path / "there" / "dog")
    (tmp_path / "here" / "cat" / "more").symlink_to(tmp_path / "there" / "cat")
    (tmp_path / "here" / "cat" / "circle").symlink_to(tmp_path / "here" / "cat")
    found = open_part(tmp_path / "here").images
    assert np.bincount(found.labels).tolist() == [10, 10]


def test_one_image_in_every_class(tmp_path):
    write_images(tmp_path, 1)
    with pytest.raises(ValueError, match="one image in every class"):
        open_data(tmp_path)


def test_grey_images_do_not_make_a_grey_model(tmp_path):
    write_images(tmp_path)
    first = tmp_path / "cat" / "0.png"
    Image.open(first).convert("L").save(first)
    assert count_channels(open_data(tmp_path).train) == 3
    assert count_channels(IMAGES) == 1


# CSV files.


def write_csv(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


ROWS = "cat/0.png,cat\ncat/1.png,cat\ndog/0.png,dog\ndog/1.png,dog\n"


def test_a_byte_order_mark_and_spaces(tmp_path):
    text = "path, label\n\n" + ROWS.replace(",", " , ")
    part = open_part(write_csv(tmp_path / "a.csv", text, "utf-8-sig"))
    assert part.images.classes == ("cat", "dog") and len(part.images) == 4


def test_numbers_as_labels_are_sorted_as_numbers(tmp_path):
    rows = "".join(f"{i}.png,{i}\n" for i in range(12))
    images = open_part(write_csv(tmp_path / "a.csv", "path,label\n" + rows)).images
    assert images.classes == tuple(map(str, range(12)))
    assert images.labels.tolist() == list(range(12))


@pytest.mark.parametrize(
    "text, encoding, message",
    [
        ("path,label\n" + ROWS + "cat/0.png\n", "utf-8", "line 6: 1 value.* 2"),
        ("path,label\n" + ROWS + "a,b,c\n", "utf-8", "line 6: 3 value.* 2"),
        ("path,label\n" + ROWS + "a, \n", "utf-8", "line 6: .*`label` is empty"),
        ("path,label\n" + ROWS + 'a,"b\n', "utf-8", "line [67]: "),
        ("path,label\nä.png,kätzchen\n", "latin-1", "not a text file in UTF-8"),
        ("path,label\n" + ROWS, "utf-16", "not a text file in UTF-8"),
        ("path,label\n" + ROWS + "\0,b\n", "utf-8", "line 6: "),
        ("path;label\n", "utf-8", "separated by commas; it has the columns path;label"),
        ("path,label\n", "utf-8", "no row"),
        ("", "utf-8", "has the columns .none"),
        ("path,label,split\na,b,later\n", "utf-8", "line 2: the split 'later'"),
    ],
)
def test_a_flawed_csv_file_is_named_with_its_line(tmp_path, text, encoding, message):
    path = write_csv(tmp_path / "flawed.csv", text, encoding)
    with pytest.raises(ValueError, match=f"flawed.csv.*{message}"):
        open_data(path)


# The same data again.


def test_a_fingerprint_tells_other_data(tmp_path):
    write_images(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    one, two = (open_part(tmp_path / name).images for name in ("one", "two"))
    assert (
        one.fingerprint()
        == two.fingerprint()
        == {name: [10, digest] for name, (_, digest) in one.fingerprint().items()}
    )
    (tmp_path / "two" / "cat" / "0.png").rename(tmp_path / "two" / "cat" / "10.png")
    other = open_part(tmp_path / "two").images.fingerprint()
    assert other["cat"] != one.fingerprint()["cat"]
    assert other["dog"] == one.fingerprint()["dog"]
    pixels = ArrayImages(PIXELS[::-1], IMAGES.labels[::-1], IMAGES.classes)
    assert pixels.fingerprint() == IMAGES.fingerprint()
    changed = ArrayImages(PIXELS + 1, IMAGES.labels, IMAGES.classes)
    assert changed.fingerprint() != IMAGES.fingerprint()


# Batches.


def test_an_epoch_is_a_shuffle_and_the_next_another():
    batches = training_batches(IMAGES, plain, 5, seed=0)
    first, second = ([next(batches) for _ in range(4)] for _ in range(2))
    orders = [np.concatenate([b["index"] for b in epoch]) for epoch in (first, second)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert (
        not np.array_equal(orders[0], orders[1])
        and sorted(orders[0]) != orders[0].tolist()
    )
    batch = first[0]
    assert batch["image"].shape == (5, 8, 8, 1) and batch["image"].dtype == np.float32
    np.testing.assert_array_equal(batch["label"], batch["index"] % 2)
    np.testing.assert_array_equal(
        np.round(255 * batch["image"][:, 0, 0, 0]), batch["index"]
    )


def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one)


def test_a_position_goes_back_to_the_same_batches():
    batches = training_batches(IMAGES, noisy, 6, seed=1)
    for _ in range(4):
        next(batches)
    position = batches.get_state()
    expected = [next(batches) for _ in range(5)]
    again = training_batches(IMAGES, noisy, 6, seed=1)
    again.set_state(position)
    assert all(same(batch, next(again)) for batch in expected)
    other = training_batches(IMAGES, noisy, 6, seed=2)
    assert not same(expected[0], next(other))


def test_hosts_divide_a_batch(monkeypatch):
    whole = training_batches(IMAGES, noisy, 6, seed=0)
    hosts = []
    for host in range(2):
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(jax, "process_index", lambda: host)
        hosts.append(training_batches(IMAGES, noisy, 6, seed=0))
    for _ in range(7):
        halves = [next(host) for host in hosts]
        joined = {n: np.concatenate([half[n] for half in halves]) for n in halves[0]}
        assert same(joined, next(whole))
    with pytest.raises(ValueError, match="among 2 hosts; the nearest legal value is 4"):
        training_batches(IMAGES, noisy, 5, seed=0)
    with pytest.raises(ValueError, match="among 2 hosts; the nearest legal value is 4"):
        batches_of_test(IMAGES, PLAIN, 5)
    with pytest.raises(ValueError, match="`batch_size=0` must be 1 or more"):
        batches_of_test(IMAGES, PLAIN, 0)
    assert len(next(batches_of_test(IMAGES, PLAIN, 5, shared=False))["index"]) == 5


FOR_DEVICE = ForDevice(Augmentation((8, 8), (0.5,), (0.2,), erasing=0.5))


@pytest.mark.slow
@pytest.mark.parametrize("transform", [noisy, FOR_DEVICE], ids=["floats", "bytes"])
def test_workers_load_the_same_batches(transform):
    alone = training_batches(IMAGES, transform, 6, seed=0)
    helped = training_batches(IMAGES, transform, 6, seed=0, workers=2)
    expected = [next(alone) for _ in range(5)]
    assert all(same(batch, next(helped)) for batch in expected[:3])
    position = helped.get_state()
    assert same(expected[3], next(helped))
    helped.set_state(position)
    assert all(same(batch, next(helped)) for batch in expected[3:])


def test_repeats():
    batches = training_batches(IMAGES, noisy, 6, seed=0, repeats=3)
    batch = next(batches)
    assert (np.bincount(batch["index"], minlength=20) % 3 == 0).all()
    images = {image.tobytes() for image in batch["image"]}
    assert len(images) == 6  # each augmented in its own way


class Broken(ArrayImages):
    def read(self, index):
        if index in (3, 4, 19):
            raise OSError("cut off")
        return super().read(index)


BROKEN = Broken(PIXELS, IMAGES.labels, IMAGES.classes)


def test_unreadable_images_are_replaced_in_training():
    batches = training_batches(BROKEN, plain, 20, seed=0)
    batch = next(batches)
    missing = batch["unreadable"] >= 0
    assert sorted(batch["unreadable"][missing]) == [3, 4, 19]
    assert sorted(batch["index"][missing]) == [0, 5, 5]
    np.testing.assert_array_equal(batch["label"], batch["index"] % 2)


def test_unreadable_images_do_not_count_in_a_test():
    batches = list(batches_of_test(BROKEN, PLAIN, 8))
    weights, unreadable, index = (
        np.concatenate([batch[name] for batch in batches])
        for name in ("weight", "unreadable", "index")
    )
    assert len(batches) == 3 and weights.sum() == 17
    assert unreadable[unreadable >= 0].tolist() == [3, 4, 19]
    expected = [i for i in range(20) if i not in (3, 4, 19)]
    assert index[weights > 0].tolist() == expected


def test_many_unreadable_images_take_no_longer():
    reads = []

    class Counted(ArrayImages):
        def read(self, index):
            reads.append(index)
            if index > 20:
                raise OSError("cut off")
            return self.pixels[0]

    images = Counted(PIXELS[:1], np.zeros(200, np.int32), ("one",))
    assert sum(b["weight"].sum() for b in batches_of_test(images, PLAIN, 8)) == 21
    assert len(reads) < 3 * len(images)


def test_pixel_statistics():
    mean, std = pixel_statistics(IMAGES, 1)
    assert np.isclose(mean[0], np.arange(20).mean() / 255)
    assert np.isclose(std[0], np.arange(20).std() / 255)
    assert len(pixel_statistics(IMAGES, 3)[0]) == 3
    even = IMAGES.subset(np.arange(0, 20, 2))
    assert pixel_statistics(IMAGES, 1, sample=10) == pixel_statistics(even, 1)


# Augmentation.


@pytest.fixture(scope="module")
def photograph():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (6, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((80, 60)))


NONE: dict[str, Any] = dict(flip=0.0, rand_augment=0.0, erasing=0.0, scale=(1.0, 1.0))


def augmented(pixels, rng, size=(32, 32), **settings):
    means, stds = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    return Augmentation(size, means, stds, **NONE | settings)(pixels, rng)


SETTINGS = [
    {},
    dict(scale=(0.08, 1.0)),
    dict(flip=1.0),
    dict(rand_augment=9.0, rand_augment_ops=8),
    dict(erasing=1.0),
    dict(jitter=12.0),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(s) or "none")
def test_augmentation(photograph, settings):
    one, same, other = (
        augmented(photograph, np.random.default_rng(seed), **settings)
        for seed in (0, 0, 1)
    )
    assert one.shape == (32, 32, 3) and one.dtype == np.float32
    assert np.isfinite(one).all() and np.array_equal(one, same)
    is_random = settings and "flip" not in settings
    assert np.array_equal(one, other) != bool(is_random)


def test_a_flip_mirrors(photograph):
    rng = np.random.default_rng(0)
    mirrored = augmented(photograph, rng, size=(60, 80), flip=1.0)
    plain = augmented(photograph, rng, size=(60, 80))
    assert np.array_equal(mirrored[:, ::-1], plain)


def test_crops_have_the_areas_and_ratios_asked_for():
    # The values of these pixels are their places.
    places = np.stack(np.broadcast_arrays(*np.ogrid[:100, :100], 0), -1).astype("u1")
    rng, shares = np.random.default_rng(0), []
    for _ in range(300):
        cropped = augmented(
            places, rng, (100, 100), scale=(0.2, 0.6), interpolation="nearest"
        )
        pixels = np.round((0.25 * cropped + 0.5) * 255)
        height, width = (np.ptp(pixels[..., i]) + 1 for i in (0, 1))
        shares.append(height * width / 10_000)
        assert 0.7 < width / height < 1.4
    assert 0.18 < min(shares) < 0.25 and 0.55 < max(shares) < 0.62


def test_a_crop_at_the_corner_of_an_image_of_the_models_size_is_made(photograph):
    for seed in range(100):  # in some of which the crop touches the lower right corner
        settings = dict(scale=(0.2, 0.9), size=(60, 80))
        cropped = augmented(photograph, np.random.default_rng(seed), **settings)
        whole = augmented(photograph, np.random.default_rng(seed), size=(60, 80))
        assert not np.array_equal(cropped, whole)


@pytest.mark.parametrize("wrapped", [lambda x: x, ForDevice, lambda x: Channels(x, 3)])
def test_large_files_are_read_at_a_fraction_of_their_size(tmp_path, wrapped):
    class Noted(Augmentation):
        def draw(self, pixels, rng):
            sizes.append(pixels.shape[:2])
            return super().draw(pixels, rng)

    sizes = []
    Image.new("RGB", (160, 120)).save(tmp_path / "0.jpg")
    images = ImageFiles([tmp_path / "0.jpg"], np.zeros(1, int), ("black",))
    for scale in ((1.0, 1.0), (0.25, 1.0), (0.08, 1.0)):
        augmentation = Noted((14, 14), 3 * (0.5,), 3 * (0.2,), scale=scale)
        next(training_batches(images, wrapped(augmentation), 1, seed=0))
    assert {*sizes} == {(30, 40), (60, 80)} and sizes[0] == (30, 40)


def test_images_of_ones_own_are_read_by_their_own_method(tmp_path):
    class Red(ImageFiles):
        def read(self, index):
            return super().read(index) + np.array([255, 0, 0], np.uint8)

    Image.new("RGB", (160, 120)).save(tmp_path / "0.jpg")
    images = Red([tmp_path / "0.jpg"], np.zeros(1, int), ("red",))
    augmentation = ForDevice(Augmentation((8, 8), 3 * (0.5,), 3 * (0.2,), **NONE))
    image = next(training_batches(images, augmentation, 1, seed=0))["image"]
    assert image[0, 4, 4].tolist() == [255, 0, 0]


def test_every_source_of_files_reads_them_at_a_fraction_of_their_size(tmp_path):
    path = tmp_path / "0.jpg"
    Image.new("RGB", (160, 120)).save(path)
    data, one = path.read_bytes(), (np.zeros(1, int), ("black",))
    place = np.array([[0, 0, len(data)]])
    for images in (
        ImageFiles([path], *one),
        ShardImages([path], ["0"], place, *one, tmp_path),
        HubImages([{"image": {"bytes": data, "path": None}}], "image", *one),
        SourceImages([(data, 0)], 0, *one, "mine"),
    ):
        assert images.read(0).shape == (120, 160, 3)
        assert images.read_at_least(0, (30, 30)).shape == (30, 40, 3)


def test_what_is_erased_is_noise(photograph):
    shares = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        erased = augmented(photograph, rng, erasing=1.0)
        shares.append((erased != augmented(photograph, rng)).all(-1).mean())
    assert 0.01 < min(shares) and max(shares) < 0.36 and np.std(shares) > 0.05


@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_are_finished_on_the_device(photograph, channels):
    mean, std = channels * (0.5,), channels * (0.25,)
    augmentation = Augmentation((32, 32), mean, std, erasing=0.5, rand_augment_std=0.0)
    on_host, rngs = Channels(augmentation, channels), np.random.default_rng
    rows = [ForDevice(augmentation)(photograph, rngs(seed)) for seed in range(16)]
    whole = np.stack([on_host(photograph, rngs(seed)) for seed in range(16)])
    images, erased = (np.stack([row[n] for row in rows]) for n in ("image", "erased"))
    assert images.dtype == np.uint8
    ours = normalise(images, mean, std, erased, key=jr.key(0))
    noise = np.zeros(ours.shape, bool)
    for inside, (top, left, height, width) in zip(noise, erased):
        inside[top : top + height, left : left + width] = True
    assert 0.02 < noise.mean() < 0.3 and (erased == 0).all(1).any()
    np.testing.assert_allclose(ours[~noise], whole[~noise], atol=1e-6)
    assert abs(ours[noise].mean()) < 0.1 and abs(ours[noise].std() - 1) < 0.1
    with pytest.raises(ValueError, match="`erased` needs a `key`"):
        normalise(images, mean, std, erased)
    with pytest.raises(ValueError, match="`std=.*` must have a number for each of the"):
        normalise(images, mean, (*std, 0.25))


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_of_rand_augment_take_grey_images_too(photograph, name):
    for image in (Image.fromarray(photograph), Image.fromarray(photograph[..., 0])):
        for level in (0.0, 0.5, 1.0):
            out = OPERATIONS[name](image, level)
            assert out.size == image.size and out.mode == image.mode


# The coefficients of Pillow's affine transformation, of an image of 40 x 25.
MATRICES = {
    "shear_x": lambda level: (1, 0.3 * level, 0, 0, 1, 0),
    "shear_y": lambda level: (1, 0, 0, 0.3 * level, 1, 0),
    "translate_x": lambda level: (1, 0, 0.45 * level * 40, 0, 1, 0),
    "translate_y": lambda level: (1, 0, 0, 0, 1, 0.45 * level * 25),
}


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("name", MATRICES)
def test_images_are_sheared_and_moved_as_by_pillow(name, mode):
    rng = np.random.default_rng(0)
    image = Image.fromarray(255 * rng.integers(0, 2, (25, 40, 3), np.uint8))
    image, grey = image.convert(mode), (128,) * len(mode)
    affine, bicubic = Image.Transform.AFFINE, Image.Resampling.BICUBIC
    for level in (-1.0, -0.37, 0.0, 0.5, 0.9):
        ours = OPERATIONS[name](image, level)
        plain = image.transform(
            image.size, affine, MATRICES[name](level), bicubic, fillcolor=grey
        )
        assert ours.mode == mode and ours.size == image.size
        apart = abs(np.asarray(ours).astype(int) - np.asarray(plain))
        assert apart.max() <= 1


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("mode", ["P", "1", "F", "RGBA"])
def test_no_other_images_are_sheared(mode, name):
    with pytest.raises(TypeError, match=f"mode {mode}; it must be L or RGB"):
        OPERATIONS[name](Image.new(mode, (8, 8)), 0.5)


def mixed(**settings):
    images = jnp.stack([jnp.full((8, 8, 1), i, jnp.float32) for i in range(4)])
    keys = jr.split(jr.key(0), 200)
    run = jax.vmap(
        lambda key: mixup_cutmix(images, jnp.arange(4), 4, **settings, key=key)
    )
    return images, *run(keys)


def test_mixup():
    _, images, labels = mixed(mixup=0.8, cutmix=0.0)
    np.testing.assert_allclose(labels.sum(-1), 1, atol=1e-6)
    # The blend of 0 and 3 tells the share that stayed.
    share = labels[:, 0, 0]
    np.testing.assert_allclose(images[:, 0, 4, 4, 0], 3 * (1 - share), atol=1e-5)
    assert jnp.ptp(images, axis=(2, 3)).max() == 0
    # Of Beta(0.8, 0.8).
    assert abs(share.mean() - 0.5) < 0.05 and abs(share.var() - 1 / 10.4) < 0.02


def test_cutmix():
    own, images, labels = mixed(mixup=0.0, cutmix=1.0)
    stayed = images == own
    assert set(np.unique(images[:, 0])) == {0, 3}
    np.testing.assert_allclose(
        stayed[:, 0, ..., 0].mean((1, 2)), labels[:, 0, 0], atol=1e-6
    )
    cut = ~stayed[:, 0, ..., 0]
    rows, columns = cut.any(2), cut.any(1)
    assert np.array_equal(cut, rows[:, :, None] & columns[:, None])  # a rectangle
    assert 0.1 < labels[:, 0, 3].mean() < 0.6


def test_no_mixing_and_both():
    own, images, labels = mixed(mixup=0.0, cutmix=0.0)
    assert np.array_equal(images, jnp.broadcast_to(own, images.shape))
    assert np.array_equal(labels[0], jnp.eye(4))
    _, images, _ = mixed(mixup=0.8, cutmix=1.0)
    is_cut = jnp.array([len(np.unique(x)) > 1 for x in np.asarray(images[:, 0])])
    assert 60 < is_cut.sum() < 140
    _, _, labels = mixed(probability=0.25)
    assert 20 < (labels[:, 0, 0] < 1).sum() < 80


def test_processes_load_beside_an_accelerator():
    assert usual_workers(1_281_167, 128, "gpu") == 16
    assert usual_workers(1_281_167, 12, "gpu") == 10
    assert usual_workers(20_000, 12, "gpu") == 4
    assert usual_workers(1_281_167, 128, "cpu") == 0
    assert usual_workers(4_000, 12, "gpu") == usual_workers(50_000, 4, "gpu") == 0
