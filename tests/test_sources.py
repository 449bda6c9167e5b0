"""Sources of images: columns and configurations, tables of metadata, tar files, NumPy
files, sources with random access."""

import io
import json
import multiprocessing
import pickle
import shutil
import sys
import tarfile
import types
from typing import Any

import datasets
import jax
import numpy as np
import pytest
from eqx_vit.cli import main
from eqx_vit.cli.runs import Run
from eqx_vit.data import (
    ArrayImages,
    evaluation_split,
    Images,
    open_data,
    open_part,
    open_parts,
    ShardImages,
    Splits,
)
from PIL import Image
from safetensors.numpy import load_file


def pixels_of(grey, side=8):
    return np.full((side, side, 3), grey, np.uint8)


def png(grey, side=8):
    file = io.BytesIO()
    Image.fromarray(pixels_of(grey, side)).save(file, "PNG")
    return file.getvalue()


def refused(source, *parts, **arguments):
    """The error for a source names all of its parts."""
    with pytest.raises(ValueError) as raised:
        open_data(source, **arguments)
    message = str(raised.value)
    assert all(part in message for part in parts), message


# Data sets of Hugging Face.


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """A data set on disk with two columns of class labels, as CIFAR-100 has."""
    folder = tmp_path_factory.mktemp("hub") / "cifar"
    features = datasets.Features(
        img=datasets.Image(),
        other=datasets.Image(),
        fine_label=datasets.ClassLabel(names=["cat", "dog", "oak", "elm"]),
        coarse_label=datasets.ClassLabel(names=["animal", "tree"]),
        number=datasets.Value("int64"),
        text=datasets.Value("string"),
        area=datasets.Value("float32"),
        several=datasets.List(datasets.ClassLabel(names=["a", "b"])),
    )

    def split(count):
        fine = [i % 4 for i in range(count)]
        return datasets.Dataset.from_dict(
            {
                "img": [Image.fromarray(pixels_of(60 * label)) for label in fine],
                "other": [Image.fromarray(pixels_of(255))] * count,
                "fine_label": fine,
                "coarse_label": [label // 2 for label in fine],
                "number": [10 - label for label in fine],
                "text": ["wxyz"[label] for label in fine],
                "area": [0.5] * count,
                "several": [[0, 1]] * count,
            },
            features,
        )

    splits: Any = {"train": split(24), "test": split(8), "extra": split(4)}
    datasets.DatasetDict(splits).save_to_disk(str(folder))
    return folder


FINE: Any = {"image_column": "img", "label_column": "fine_label"}


def test_columns_of_several_are_listed(cifar):
    refused(cifar, "img, other", "`--image-column img`", "`image_column='img'`")
    message = "fine_label, coarse_label"
    refused(cifar, message, "`--label-column fine_label`", image_column="img")


def test_a_column_is_chosen(cifar):
    fine = open_data(cifar, **FINE)
    coarse = open_data(cifar, image_column="img", label_column="coarse_label")
    assert fine.train.classes == ("cat", "dog", "oak", "elm")
    assert coarse.train.classes == ("animal", "tree")
    assert fine.test.read(1)[0, 0, 0] == 60 and coarse.test.read(7)[0, 0, 0] == 180


@pytest.mark.parametrize(
    ("column", "classes"),
    [("number", ("7", "8", "9", "10")), ("text", ("w", "x", "y", "z"))],
)
def test_numbers_and_text_are_labels(cifar, column, classes):
    train = open_data(cifar, image_column="img", label_column=column).train
    assert train.classes == classes
    named = [classes[label] for label in train.labels[:4]]
    assert named == [*(["10", "9", "8", "7"] if column == "number" else "wxyz")]


@pytest.mark.parametrize(
    ("field", "column", "parts"),
    [
        ("label_column", "other", ["`other`", "Image", "`--label-column`"]),
        ("label_column", "none", ["--label-column none", "`fine_label`"]),
        ("image_column", "text", ["--image-column text", "type image", "`img`"]),
    ],
)
def test_a_column_of_another_kind_is_refused(cifar, field, column, parts):
    refused(cifar, *parts, **{**FINE, field: column})


def test_any_split_is_evaluated_by_its_name(cifar):
    part = open_part(cifar, "extra", **FINE)
    assert part.name == "extra" and len(part.images) == 4
    assert set(open_parts(cifar, **FINE)) == {"train", "test"}
    with pytest.raises(ValueError, match="no split `more`; it has .*`extra`"):
        open_part(cifar, "more", **FINE)


def test_a_column_called_label_is_found(cifar, tmp_path):
    data: Any = datasets.load_from_disk(str(cifar))
    data = data["train"].select_columns(["img", "text", "number"])
    data.rename_column("text", "label").save_to_disk(str(tmp_path / "one"))
    assert open_data(tmp_path / "one").train.classes == ("w", "x", "y", "z")


def test_a_configuration_is_chosen(tmp_path, monkeypatch):
    load, names = datasets.load_dataset, datasets.get_dataset_config_names
    lines = []
    for name in ("small", "large"):
        table = datasets.Dataset.from_dict(
            {"image": [{"bytes": png(9)}] * 4, "label": list(name[:4])}
        )
        table = table.cast_column("image", datasets.Image())
        table.to_parquet(str(tmp_path / name / "train.parquet"))
        lines += [f"- config_name: {name}", f"  data_files: {name}/*.parquet"]
    readme = ["---", "configs:", *lines, "---"]
    (tmp_path / "README.md").write_text("\n".join(readme))
    # (A stand-in for the Hub: the library reads the same layout from a folder.)
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda _, name: load(str(tmp_path), name, cache_dir=str(tmp_path / "cache")),
    )
    monkeypatch.setattr(
        datasets, "get_dataset_config_names", lambda _: names(str(tmp_path))
    )
    images = open_part("user/data", config="large").images
    assert images.classes == ("a", "g", "l", "r")
    refused("user/data", "`small`, `large`", "`--data-config small`")
    refused("user/data", "`small`, `large` and no `tiny`", config="tiny")


# Metadata.


def write_metadata(folder, rows, kind="csv"):
    """A folder of the images of rows of names and labels, and its metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, (name, _) in enumerate(rows):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(place))
    if kind == "csv":
        lines = ["file_name,label", *(f"{name},{label}" for name, label in rows)]
    else:
        lines = [json.dumps({"file_name": n, "label": label}) for n, label in rows]
    (folder / f"metadata.{kind}").write_text("\n".join(lines) + "\n")


ROWS = [("0.png", "cat"), ("a/1.png", "dog"), ("2.png", "cat"), ("3.png", "dog")]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_folder_with_metadata(tmp_path, kind):
    write_metadata(tmp_path, ROWS, kind)
    images = open_part(tmp_path).images
    assert images.classes == ("cat", "dog") and images.labels.tolist() == [0, 1, 0, 1]
    assert images.key(1) == "a/1.png" and images.read(1)[0, 0, 0] == 1


def test_every_split_has_its_metadata(tmp_path):
    write_metadata(tmp_path / "train", ROWS)
    write_metadata(tmp_path / "validation", ROWS[1:3], "jsonl")
    train, test = open_data(tmp_path)
    assert (len(train), len(test)) == (4, 2) and test.labels.tolist() == [1, 0]
    shutil.rmtree(tmp_path / "validation")
    write_metadata(tmp_path / "test", ROWS)
    (tmp_path / "test" / "metadata.csv").unlink()
    refused(tmp_path, "`train/metadata.csv`", "folder `test`", "add it there")


def test_one_file_of_metadata_for_all_splits(tmp_path):
    splits = ("train", "val")
    rows = [(f"{split}/{name}", label) for split in splits for name, label in ROWS]
    write_metadata(tmp_path, rows)
    assert {name: len(part) for name, part in open_parts(tmp_path).items()} == {
        "train": 4,
        "val": 4,
    }


def test_metadata_by_other_columns(tmp_path):
    write_metadata(tmp_path, [(name, i % 3) for i, (name, _) in enumerate(ROWS)])
    path = tmp_path / "metadata.csv"
    path.write_text(path.read_text().replace("file_name,label", "picture,kind"))
    refused(tmp_path, "metadata.csv", "`file_name`", "picture, kind", "--label-column")
    images = open_part(tmp_path, image_column="picture", label_column="kind").images
    assert images.classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("kind", "text", "parts"),
    [
        ("csv", "file_name,label\nno.png,cat\n", ["line 2", "`no.png`", "add it"]),
        ("csv", "file_name,label\n0.png,a\n0.png,b\n", ["line 3", "line 2", "`0.png`"]),
        ("csv", "file_name,label\n", ["no rows"]),
        (
            "jsonl",
            '{"file_name": "0.png"}\n',
            ["line 1", "`label`", "file_name"],
        ),
        (
            "jsonl",
            '{"file_name": "0.png", "label": [1]}',
            ["line 1", "[1]", "one"],
        ),
        (
            "jsonl",
            '{"file_name": "0.png", "label": 0.5}',
            ["line 1", "0.5", "one"],
        ),
        ("jsonl", '{"file_name": 3, "label": 5}', ["line 1", "`file_name` must be"]),
        ("jsonl", "\n[]\n", ["line 2", "JSON object"]),
        ("jsonl", "{\n", ["line 1", "not JSON"]),
    ],
)
def test_flawed_metadata_is_named_with_its_line(tmp_path, kind, text, parts):
    write_metadata(tmp_path, ROWS, kind)
    (tmp_path / f"metadata.{kind}").write_text(text)
    refused(tmp_path, f"metadata.{kind}", *parts)


def test_two_files_of_metadata(tmp_path):
    write_metadata(tmp_path, ROWS)
    write_metadata(tmp_path, ROWS, "jsonl")
    refused(tmp_path, "`metadata.csv`", "`metadata.jsonl`", "Remove")


# Tar files.


def write_shard(path, files):
    """A tar file of names and bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def samples(count, label=lambda i: str(i % 3), start=0):
    for i in range(start, start + count):
        yield f"in/{i:04d}.png", png(40 * (i % 3))
        yield f"in/{i:04d}.cls", label(i).encode()


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards"
    for i in range(2):
        write_shard(folder / f"train-000{i}.tar", samples(9, start=9 * i))
    write_shard(folder / "val-0000.tar", samples(6))
    return folder


def test_shards(shards):
    train, test = open_data(shards)
    assert isinstance(train, ShardImages) and train.classes == ("0", "1", "2")
    assert (len(train), len(test)) == (18, 6)
    assert all(train.read(i)[0, 0, 0] == 40 * train.labels[i] for i in range(18))
    assert "in/0010" in train.name(10) and "train-0001.tar" in train.name(10)


def test_shards_by_a_pattern(shards):
    for pattern in ("{train,val}-*.tar", "*.tar", "{train-{0000..0001},val-0000}.tar"):
        splits = open_data(f"{shards}/{pattern}")
        assert tuple(map(len, splits)) == (18, 6)
    held_out = open_data(f"{shards}/train-{{0000..0001}}.tar").test
    assert len(held_out) == 3
    assert len(open_part(f"{shards}/train-0001.tar").images) == 9
    refused(f"{shards}/train-{{0000..0003}}.tar", "no file", "train-0002.tar")
    refused(f"{shards}/train-{{0001..0000}}.tar", "no files", "from the lower number")


def test_shards_in_folders_of_splits(shards, tmp_path):
    for name, split in (("train-0000", "train"), ("val-0000", "val")):
        (tmp_path / "in" / split).mkdir(parents=True)
        shutil.copy(shards / f"{name}.tar", tmp_path / "in" / split / "0.tar")
    for source in (tmp_path / "in", f"{tmp_path}/in/*/0.tar"):
        assert set(open_parts(source)) == {"train", "val"}


def test_the_classes_of_shards_have_names(shards):
    (shards / "classes.txt").write_text("cat\ndog\noak\nelm\n")
    train, test = open_data(shards)
    assert train.classes == ("cat", "dog", "oak", "elm")
    assert test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    (shards / "classes.txt").write_text("cat\ndog\n")
    refused(shards, "sample `in/0002`", "label `2`", "from 0 to 1")
    (shards / "labels.txt").write_text("cat\ndog\n")
    refused(shards, "classes.txt", "labels.txt", "keep one")


def test_labels_in_other_files_of_a_sample(tmp_path):
    def sample(i):
        name = f"{i}"
        yield f"{name}.png", png(i)
        yield f"{name}.small.png", png(200 + i)
        yield f"{name}.txt", b"cat" if i % 2 else b"dog"
        yield f"{name}.json", json.dumps({"label": i % 3, "kind": "ab"[i % 2]}).encode()

    path = write_shard(
        tmp_path / "a.tar", (file for i in range(6) for file in sample(i))
    )
    assert open_part(path).images.classes == ("0", "1", "2")
    assert open_part(path, label_column="kind").images.classes == ("a", "b")
    part = open_part(path, label_column="txt", image_column="small.png").images
    assert part.classes == ("cat", "dog") and part.read(3)[0, 0, 0] == 203
    refused(path, "field `none`", "`label`, `kind`", label_column="none")
    refused(path, "--image-column jpg", "`png`, `small.png`", image_column="jpg")


def test_processes_read_shards(shards):
    train = open_data(shards).train
    again = pickle.loads(pickle.dumps(train.subset(np.array([4, 2]))))
    assert [again.read(i)[0, 0, 0] for i in range(2)] == [40, 80]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        read = pool.map(train.read, range(18))
    assert [image[0, 0, 0] for image in read] == (40 * train.labels).tolist()


def test_an_archive_beside_classes_is_left_out(shards, tmp_path):
    for name in ("cat", "dog"):
        (shards / name).mkdir()
        (shards / name / "0.png").write_bytes(png(0))
    assert open_part(shards).images.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        ([("0.png", b""), ("0.png", b"")], ["`0.png` twice"]),
        ([("0.png", b"")], ["sample `0`", "must have a label", "`cls`"]),
        ([("0.cls", b"1")], ["sample `0`", "must have one image", "`cls`"]),
        ([("0.png", b""), ("0.jpg", b"")], ["one image", "`--image-column png`"]),
        ([("0.png", b""), ("0.json", b"{")], ["`0`", "`json` is damaged"]),
        ([("0.png", b""), ("0.cls", b"")], ["sample `0`", "label ''"]),
        ([], ["no samples"]),
    ],
)
def test_a_flawed_sample_is_named(tmp_path, files, parts):
    refused(write_shard(tmp_path / "a.tar", files), "a.tar", *parts)


@pytest.mark.parametrize("kept", [100, 1900, 2560])
def test_a_broken_tar_file(shards, kept):
    whole = (shards / "train-0000.tar").read_bytes()
    (shards / "train-0000.tar").write_bytes(whole[:kept])
    refused(shards, "train-0000.tar", "complete tar file")
    (shards / "train-0000.tar").write_bytes(whole[:2048] + b"x" * 512 + whole[2560:])
    refused(shards, "train-0000.tar", "damaged at byte")


def test_compressed_shards_are_refused(shards):
    (shards / "train-0002.tar.gz").write_bytes(b"")
    refused(shards, "train-0002.tar.gz", "compressed", "unpack")


# NumPy files.


X = np.stack([np.full((8, 8), i, np.uint8) for i in range(12)])
Y = np.arange(12) % 3


def test_a_numpy_file(tmp_path):
    np.savez(tmp_path / "a.npz", images=X, labels=Y, classes=["a", "b", "c"])
    images = open_part(tmp_path / "a.npz").images
    assert images.classes == ("a", "b", "c") and images.labels.tolist() == Y.tolist()
    assert images.read(5).shape == (8, 8, 1) and images.read(5)[0, 0, 0] == 5


@pytest.mark.parametrize(
    "names", ["{}_images {}_labels", "images_{} labels_{}", "x_{} y_{}"]
)
def test_a_numpy_file_with_splits(tmp_path, names):
    arrays = {}
    for split, count in (("train", 9), ("val", 6), ("test", 3)):
        image, label = names.format(split, split).split()
        arrays |= {image: X[:count], label: Y[:count, None]}
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    parts = open_parts(tmp_path / "a.npz")
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 9,
        "val": 6,
        "test": 3,
    }
    assert evaluation_split(parts) == "val"


def test_arrays_by_other_names(tmp_path):
    np.savez(tmp_path / "a.npz", pictures=X, fine=Y, coarse=Y // 2)
    refused(tmp_path / "a.npz", "`pictures`, `fine`", "`images`", "--label-column")
    columns = dict(image_column="pictures", label_column="coarse")
    assert open_part(tmp_path / "a.npz", **columns).images.classes == ("0", "1")


@pytest.mark.parametrize(
    ("arrays", "parts"),
    [
        (dict(images=X / 255, labels=Y), ["float64", "uint8", "np.round"]),
        (dict(images=X[:, None], labels=Y), ["(12, 1, 8, 8)", "channels"]),
        (dict(images=X, labels=Y[:5]), ["(5,)", "12 images"]),
        (dict(images=X, labels=np.eye(12)), ["whole numbers", "`--label-kind"]),
        (dict(images=X, labels=Y[:, None, None]), ["(12, 1, 1)", "a row"]),
        (dict(images=X, labels=np.eye(12, dtype=int) + 1), ["must be 1 for each"]),
        (dict(images=X, labels=Y, classes=["a", "b"]), ["row 2", "from 0 to 1"]),
        (dict(images=X, labels=Y, classes=[1, 2]), ["`classes`", "int64"]),
        (dict(images=X, labels=Y.astype(object)), ["`labels`", "pickles"]),
        (dict(images=X, train_labels=Y), ["`images`, `train_labels`"]),
        (dict(images=X, image=X, labels=Y), ["`images` and `image`"]),
    ],
)
def test_a_flawed_numpy_file(tmp_path, arrays, parts):
    np.savez(tmp_path / "a.npz", **arrays)
    refused(tmp_path / "a.npz", "a.npz", *parts)


def test_a_damaged_numpy_file(tmp_path):
    np.savez(tmp_path / "a.npz", images=X, labels=Y)
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(data[:600])
    refused(tmp_path / "a.npz", "a.npz", "not a complete NumPy file")
    (tmp_path / "a.npz").write_bytes(data[:400] + b"damaged" + data[407:])
    refused(tmp_path / "a.npz", "`images`", "damaged", "Copy")


# Sources of one's own.


class Items:
    """A source as Grain's: a length, and an item for every index."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, row):
        return self.items[row]


PAIRS = Items([(pixels_of(i), "ab"[i % 2]) for i in range(8)])
MAPPINGS = Items([dict(image=png(i), label=i % 2, kind=b"x") for i in range(8)])
IN_MEMORY = ArrayImages(X[..., None], Y, ("a", "b", "c"))
SPLITS = Splits(IN_MEMORY, IN_MEMORY)
NUMBER = 3


class Labelled(Items):
    """With labels of its own."""

    labels = [0, 1] * 4
    classes = ["even", "odd"]


def function():
    return {"train": PAIRS, "test": PAIRS, "other": NUMBER}


def labelled():
    return Labelled([(pixels_of(i), None) for i in range(8)])


OWN = "tests.test_sources:"


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("PAIRS", ("a", "b")),
        ("MAPPINGS", ("0", "1")),
        ("IN_MEMORY", ("a", "b", "c")),
        ("SPLITS", ("a", "b", "c")),
        ("function", ("a", "b")),
        ("labelled", ("even", "odd")),
    ],
)
def test_a_source_by_import_path(name, classes):
    train, test = open_data(OWN + name)
    assert train.classes == classes and isinstance(test, Images)
    assert train.read(1).shape[-1] in (1, 3) and len(test) > 0


def test_items_keep_their_images():
    images = open_part(OWN + "MAPPINGS").images.subset(np.array([6, 3]))
    assert [images.read(i)[0, 0, 0] for i in range(2)] == [6, 3]
    assert images.labels.tolist() == [0, 1] and "row 6" in images.key(0)


@pytest.mark.parametrize(
    ("name", "arguments", "parts"),
    [
        ("NUMBER", {}, ["NUMBER", "int", "`__getitem__`"]),
        ("nothing", {}, ["nothing", "cannot be imported", "PYTHONPATH"]),
        ("PAIRS", dict(label_column="x"), ["--label-column x", "pairs"]),
        ("SPLITS", dict(image_column="x"), ["--image-column x", "leave it out"]),
        ("MAPPINGS", dict(label_column="x"), ["--label-column x", "`kind`"]),
        ("MAPPINGS", dict(config="x"), ["--data-config x", "leave it out"]),
    ],
)
def test_a_flawed_source_of_ones_own(name, arguments, parts):
    refused(OWN + name, *parts, **arguments)


@pytest.mark.parametrize("source", ["digits", "folder", "csv"])
def test_an_option_without_a_use_is_refused(source, tmp_path):
    write_metadata(tmp_path, [("cat/0.png", 0), ("dog/1.png", 1)])
    if source == "folder":
        (tmp_path / "metadata.csv").unlink()
    place = dict(digits="digits", folder=tmp_path, csv=tmp_path / "metadata.csv")[
        source
    ]
    refused(place, str(place), "--data-config x", "leave it out", config="x")


# TensorFlow Datasets.


class FakeFeature:
    """As much of a feature as is asked for."""

    def __init__(self, names=None):
        self.names = names


class FakeImage(FakeFeature):
    """A feature of images."""


class FakeLabel(FakeFeature):
    """A feature of class labels."""


class FakeBuilder:
    """As much of a builder of `tensorflow_datasets` as is used."""

    prepared = 0

    def __init__(self, name):
        self.info: Any = types.SimpleNamespace(
            full_name=name,
            splits={"train": None, "test": None, "extra": None},
            features=dict(
                image=FakeImage(), label=FakeLabel(["a", "b"]), other=FakeLabel(["c"])
            ),
        )

    def download_and_prepare(self):
        self.prepared += 1

    def as_data_source(self, split, decoders):
        assert self.prepared and set(decoders) == {"image"}
        return MAPPINGS


def test_a_data_set_of_tensorflow_datasets(monkeypatch):
    made = []

    def builder(name, file_format):
        assert file_format == "array_record"
        made.append(FakeBuilder(name))
        return made[-1]

    fake: Any = types.ModuleType("tensorflow_datasets")
    fake.builder = builder
    fake.decode = types.SimpleNamespace(SkipDecoding=object)
    fake.features = types.SimpleNamespace(Image=FakeImage, ClassLabel=FakeLabel)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
    train, test = open_data("tfds:tiny", config="big", label_column="label")
    assert made[0].info.full_name == "tiny/big" and train.classes == ("a", "b")
    assert test.read(5)[0, 0, 0] == 5 and "test of tiny/big" in test.key(5)
    assert open_part("tfds:tiny", "extra", label_column="label").name == "extra"
    refused("tfds:tiny", "`label`, `other`", "`--label-column label`")


def test_a_folder_that_tensorflow_datasets_prepared(tmp_path):
    tfds: Any = pytest.importorskip("tensorflow_datasets")

    class Tiny(tfds.core.GeneratorBasedBuilder):
        """Twelve images to train on, and four to test on."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict(
                dict(
                    image=tfds.features.Image(shape=(8, 8, 3)),
                    label=tfds.features.ClassLabel(names=["a", "b"]),
                    kind=tfds.features.Text(),
                )
            )
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, _):
            return {
                "train": self._generate_examples(12),
                "test": self._generate_examples(4),
            }

        def _generate_examples(self, count):
            for i in range(count):
                yield i, dict(image=io.BytesIO(png(i)), label=i % 2, kind="xyz"[i % 3])

    builder = Tiny(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    folder = tmp_path / "tiny" / "1.0.0"
    train, test = open_data(folder)
    assert train.classes == ("a", "b") and (len(train), len(test)) == (12, 4)
    rows = [int(images.read(3)[0, 0, 0]) % 2 for images in (train, test)]
    assert rows == [train.labels[3], test.labels[3]]
    assert open_data(folder, label_column="kind").train.classes == ("x", "y", "z")
    assert pickle.loads(pickle.dumps(test)).read(0).shape == (8, 8, 3)
    (folder / "features.json").unlink()
    refused(folder, "ArrayRecord", "`features.json`")


def test_tensorflow_datasets_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    refused("tfds:mnist", "tfds:mnist", "pip install", "array-record")


# Splits by other names.


def test_splits_of_a_data_set_are_chosen(cifar):
    splits = open_data(cifar, train_split="test", test_split="extra", **FINE)
    assert tuple(map(len, splits)) == (8, 4)
    splits = open_data(cifar, train_split="extra", **FINE)
    assert tuple(map(len, splits)) == (4, 8)
    choice = dict(train_split="test", **FINE)
    assert tuple(map(len, open_data(cifar, holdout=0.5, **choice))) == (4, 4)
    refused(cifar, "the same split `test`", test_split="test", **choice)
    refused(cifar, "no split `more`", "`extra`", test_split="more", **FINE)


@pytest.mark.parametrize("kind", ["folder", "metadata", "shards", "npz", "csv"])
def test_splits_of_every_source_are_chosen(tmp_path, kind):
    source = tmp_path / "folds"
    source.mkdir()
    arrays, lines = {}, ["path,label,split"]
    for fold in ("fold_1", "fold_2", "fold_3"):
        if kind == "folder":
            for i in range(4):
                (source / fold / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
                (source / fold / "ab"[i % 2] / f"{i}.png").write_bytes(png(i))
        write_metadata(source / fold, ROWS) if kind == "metadata" else None
        arrays |= {f"{fold}_images": X[:4], f"{fold}_labels": Y[:4]}
        lines += [f"{name},{label},{fold}" for name, label in ROWS]
        if kind == "shards":
            write_shard(source / f"{fold}-000.tar", samples(4))
    np.savez(source / "a.npz", **arrays)
    (source / "a.csv").write_text("\n".join(lines))
    place = dict(npz=source / "a.npz", csv=source / "a.csv").get(kind, source)
    train, test = open_data(place, train_split="fold_3", test_split="fold_1")
    assert len(train) == len(test) == 4
    assert open_part(place, "fold_2").name == "fold_2"


# The same data elsewhere.


def test_a_fingerprint_does_not_depend_on_the_place(shards, tmp_path):
    write_metadata(tmp_path / "metadata", ROWS)
    np.savez(tmp_path / "a.npz", images=X, labels=Y)
    for place in (shards, tmp_path / "metadata", tmp_path / "a.npz"):
        moved = tmp_path / "moved" / place.name
        moved.parent.mkdir(exist_ok=True)
        before = [images.fingerprint() for images in open_data(place)]
        shutil.move(place, moved)
        assert [images.fingerprint() for images in open_data(moved)] == before


# From a shell.


TRAIN = "train --batch-size 6 --learning-rate 0.01 --warmup 0 --jitter 0 --set dim=8"
TRAIN = [*TRAIN.split(), "heads=2", "dim_head=4", "depth=1", "mlp_dim=8"]


@pytest.fixture
def _promotion():
    with jax.numpy_dtype_promotion("standard"):  # Optax needs it
        yield


@pytest.mark.slow
def test_a_run_keeps_its_columns(cifar, tmp_path, capsys, _promotion):
    out, data = tmp_path / "run", ["--data", str(cifar)]
    assert main([*TRAIN, *data, "--epochs", "1", "--out", str(out)]) == 2
    assert "`--image-column img`" in capsys.readouterr().err
    columns = ["--image-column", "img", "--label-column", "coarse_label"]
    command = [*TRAIN, *data, *columns, "--epochs", "1", "--out", str(out)]
    assert main(command) == 0
    assert main(["train", "--resume", str(out), "--epochs", "2"]) == 0
    run = Run.open(out)
    assert run.config["classes"] == ["animal", "tree"] and len(run.metrics()) == 2
    capsys.readouterr()
    for further in ([], data, ["--split", "extra"]):
        assert main(["evaluate", str(out), *further]) == 0
    printed = capsys.readouterr().out
    assert printed.count("8 images") == 2 and printed.count("4 images") == 1
    assert main(["evaluate", str(out), *columns]) == 2
    assert "`--image-column` goes with `--data`" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_on_shards_goes_on_exactly(shards, tmp_path, monkeypatch, _promotion):
    from eqx_vit.cli.runs import _fit

    command = [*TRAIN, "--data", str(shards), "--save-every", "1", "--epochs", "2"]
    assert main([*command, "--workers", "1", "--out", str(tmp_path / "whole")]) == 0
    train, steps = _fit._Training._train, []

    def interrupted(self):
        steps.append(self.step)
        if len(steps) == 2:
            raise KeyboardInterrupt
        train(self)

    with monkeypatch.context() as patch:
        patch.setattr(_fit._Training, "_train", interrupted)
        assert main([*command, "--out", str(tmp_path / "cut")]) == 130
    assert main(["train", "--resume", str(tmp_path / "cut")]) == 0
    whole, cut = (
        load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "cut")
    )
    assert all(np.array_equal(whole[name], cut[name]) for name in whole)
