"""Labels that are any number of classes, or numbers."""

import datasets
import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from eqx_vit import Loss
from eqx_vit.cli import main
from eqx_vit.cli.metrics import best_thresholds, each, of_classes, of_numbers
from eqx_vit.cli.runs import Run
from eqx_vit.data import (
    ArrayImages,
    evaluation_batches,
    open_data,
    open_part,
    with_classes,
)
from PIL import Image

from .helpers import images_for, models
from .test_sources import png, refused


CLASSES = [["dark"], ["light", "warm"], [], ["warm"]]
ROWS = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 1]], bool)
NUMBERS = [0.25, 0.5, 0.75, 1.0]


def table(folder, header, *columns, count=12):
    """A CSV file with columns of cells, which are repeated, and its images."""
    folder.mkdir(exist_ok=True)
    lines = [f"path,{header}"]
    for i in range(count):
        (folder / f"{i}.png").write_bytes(png(5 * i))
        cells = (str(column[i % len(column)]) for column in columns)
        lines.append(",".join([f"{i}.png", *cells]))
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


def labels_of(splits):
    """The labels of the images to train and to test on, by the name of the image."""
    return {
        images.key(i): images.labels[i].tolist()
        for images in splits
        for i in range(len(images))
    }


JOINED = {s: [s.join(names) for names in CLASSES] for s in ";|+"}


@pytest.mark.parametrize("separator", [";", "|", "+"])
def test_several_classes_in_a_cell(tmp_path, separator):
    path = table(tmp_path, "label", JOINED[separator])
    chosen = separator if separator == "+" else None
    splits = open_data(path, label_kind="classes", label_separator=chosen)
    assert splits.train.classes == ("dark", "light", "warm")
    found = labels_of(splits)
    assert all(found[f"{i}.png"] == ROWS[i % 4].tolist() for i in range(12))


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_columns_of_labels(tmp_path, kind):
    path = table(tmp_path, "a,b,c", *ROWS.T.astype(int))
    splits = open_data(path, label_column=["c", "a"], label_kind=kind)
    assert splits.train.classes == ("c", "a") and splits.train.label_kind == kind
    assert labels_of(splits)["1.png"] == [1, 0]


def test_numbers_have_the_name_of_their_column(tmp_path):
    path = table(tmp_path, "age", NUMBERS)
    splits = open_data(path, label_kind="numbers", label_column="age")
    assert splits.train.classes == ("age",) and labels_of(splits)["2.png"] == [0.75]


@pytest.mark.parametrize(
    ("feature", "values", "kind"),
    [
        (
            datasets.List(datasets.ClassLabel(names=["a", "b"])),
            [[0], [0, 1]],
            "classes",
        ),
        (datasets.List(datasets.Value("string")), [["a"], ["b", "a"]], "classes"),
        (datasets.List(datasets.Value("float32")), [[0.5, 1.5]] * 2, "numbers"),
        (datasets.Value("float32"), [0.5, 1.5], "numbers"),
    ],
)
def test_the_type_of_a_column_says_the_kind(tmp_path, feature, values, kind):
    features = datasets.Features(image=datasets.Image(), label=feature)
    pictures = [Image.new("RGB", (8, 8))] * 4
    columns = {"image": pictures, "label": values * 2}
    datasets.Dataset.from_dict(columns, features).save_to_disk(str(tmp_path / "data"))
    train = open_data(tmp_path / "data").train
    assert train.label_kind == kind
    assert train.classes == {"classes": ("a", "b")}.get(
        kind, ("0", "1") if isinstance(values[0], list) else ("label",)
    )


@pytest.mark.parametrize(
    ("labels", "kind"), [(ROWS.astype(int), "classes"), (ROWS / 2, "numbers")]
)
def test_the_type_of_an_array_says_the_kind(tmp_path, labels, kind):
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 8, 8), np.uint8), labels=labels)
    images, _ = open_part(tmp_path / "a.npz")
    assert images.label_kind == kind and images.classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("header", "columns", "arguments", "parts"),
    [
        ("label", [NUMBERS], {}, ["line 2", "`0.25`"][:1]),
        ("a", [["x"]], dict(label_kind="numbers", label_column="a"), ["'x'", "finite"]),
        ("label", [["nan"]], dict(label_kind="numbers"), ["line 2", "finite number"]),
        ("label", [[""]], dict(label_kind="classes"), ["none of the 12 images"]),
        ("a,b", [[1], [2]], dict(label_kind="classes"), ["1 for each", "line 2"]),
        ("a,b", [[1], [0]], dict(), ["--label-kind classes"]),
        ("label", [["x"]], dict(label_kind="many"), ["`classes`", "--label-kind many"]),
        ("label", [["x"]], dict(label_separator="+"), ["--label-kind classes"]),
        ("label", [["x"]], dict(label_separator="", label_kind="classes"), ["empty"]),
        ("a,b", [["x"], [1]], dict(label_kind="classes"), ["'x'"]),
    ],
)
def test_wrong_labels_are_named(tmp_path, header, columns, arguments, parts):
    path = table(tmp_path, header, *columns)
    if "," in header:
        arguments = arguments | {"label_column": header.split(",")}
    if header == "label" and columns == [NUMBERS]:
        assert open_data(path).train.classes == ("0.25", "0.5", "0.75", "1.0")
        return
    refused(path, *parts, **arguments)


def test_names_that_are_digits_are_names(tmp_path):
    images, classes = np.zeros((3, 8, 8), np.uint8), ["1", "2", "3"]
    for name, labels in (("a", ["1", "3", "2"]), ("b", [1, 0, 2])):
        path = tmp_path / f"{name}.npz"
        np.savez(path, images=images, labels=labels, classes=classes)
    assert open_part(tmp_path / "a.npz").images.labels.tolist() == [0, 2, 1]
    assert open_part(tmp_path / "b.npz").images.labels.tolist() == [1, 0, 2]


@pytest.mark.parametrize("cells", [[1, 0], ["True", "False"]])
def test_one_column_is_one_class(tmp_path, cells):
    path = table(tmp_path, "red", cells)
    part = open_part(path, label_column="red", label_kind="classes")
    assert part.images.classes == ("red",)
    assert part.images.labels[:2].tolist() == [[True], [False]]


def test_several_classes_where_one_was_expected(tmp_path):
    refused(table(tmp_path, "label", ["a;b", "a", "b"]), "`a;b`", "--label-kind class")


def test_an_image_with_two_labels_is_refused(tmp_path):
    path = table(tmp_path, "label", ["a", "b"])
    path.write_text(path.read_text() + "0.png,b\n")
    refused(path, "line 14", "`0.png`", "line 2")


def test_a_class_without_images_to_train_on_is_said(tmp_path, caplog):
    rows = ["train", "train", "test"]
    path = table(tmp_path, "label,split", ["a;b", "b", "b;c"], rows)
    open_data(path, label_kind="classes")
    assert "`c`" in caplog.text and "`a`" not in caplog.text


def test_folders_have_one_class_an_image(tmp_path):
    refused(tmp_path, "--label-kind classes", label_kind="classes")


PIXELS = np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2)
MANY = ArrayImages(PIXELS, ROWS, ("dark", "light", "warm"))


def test_every_class_is_on_both_sides(tmp_path):
    path = table(tmp_path, "label", JOINED[";"], count=40)
    train, test = open_data(path, 0.2, label_kind="classes")
    assert len(test) == 8 and train.labels.any(0).all() and test.labels.any(0).all()


def test_classes_are_matched_by_name():
    found = with_classes(MANY, ("warm", "other", "Light", "dark"))
    assert found.labels.tolist()[1] == [True, False, True, False]
    assert found.labels.sum() == ROWS.sum()


def test_numbers_are_matched_by_name():
    images = ArrayImages(PIXELS, np.array([[1.5, 2]] * 4, np.float32), ("x", "y"))
    assert with_classes(images, ("y", "x")).labels[0].tolist() == [2, 1.5]
    with pytest.raises(ValueError, match="`x`, `y`.*`x`, `z`"):
        with_classes(images, ("x", "z"))


@pytest.mark.parametrize("kind", [bool, np.float32])
def test_a_fingerprint_tells_other_labels(kind):
    of = lambda labels: ArrayImages(PIXELS, labels.astype(kind), ("a", "b", "c"))
    assert of(ROWS).fingerprint() != of(ROWS[[1, 0, 2, 3]]).fingerprint()
    assert of(ROWS).fingerprint()["b"][0] == (1 if kind is bool else 4)


def test_batches_have_rows():
    batch = next(evaluation_batches(MANY, lambda pixels: pixels / 255, 4))
    assert batch["label"].dtype == np.float32
    assert np.array_equal(batch["label"], ROWS)


@pytest.fixture(autouse=True)
def _promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


# Measures, against numbers counted by hand.


def test_measures_of_classes():
    labels = np.array([[1, 0], [0, 0], [1, 0], [0, 0]], bool)
    probabilities = np.array([[0.9, 0.6], [0.8, 0], [0.7, 0], [0.1, 0]])
    found = of_classes(probabilities, labels)
    # The right ones have places 1 and 3: (1 / 1 + 2 / 3) / 2. Of 4 guesses 2 are right.
    assert found["map"] == pytest.approx(5 / 6)
    assert found["micro_f1"] == pytest.approx(2 * 2 / (4 + 2))
    assert found["macro_f1"] == pytest.approx(0.8)
    with pytest.raises(ValueError, match="None of the images"):
        of_classes(probabilities, labels & False)


def test_measures_of_every_class():
    labels = np.array([[1, 0], [0, 0], [1, 0], [0, 0]], bool)
    logits = np.array([[2.0, 1], [1, -1], [0.5, -1], [-2, -1]])
    one, other = each("classes", logits, labels, 0.5, ("a", "b"))
    assert one["images"] == 2 and one["predicted"] == 3 and one["recall"] == 1
    assert one["precision"] == pytest.approx(2 / 3)
    assert one["average_precision"] == pytest.approx(5 / 6)
    assert other["predicted"] == 1 and other["f1"] is None


def test_measures_of_every_number():
    outputs, labels = np.array([[1.0, 0], [2, 0]]), np.array([[1.0, 0], [2, 2]])
    one, other = each("numbers", outputs, labels, 0.5, ("x", "y"))
    assert (one["number"], one["r2"]) == ("x", 1) and other["absolute_error"] == 1


def test_thresholds_have_the_highest_f1():
    labels = np.array([[1, 0], [1, 0], [0, 0], [1, 0]], bool)
    probabilities = np.array([[0.3, 0.6], [0.25, 0], [0.2, 0], [0.1, 0]])
    found = best_thresholds(probabilities, labels)
    assert found.tolist() == [0.1, 0.5]


def test_measures_of_numbers():
    found = of_numbers(np.array([[1.0], [2], [5]]), np.array([[1.0], [2], [3]]))
    assert found["r2"] == pytest.approx(1 - 4 / 2)
    assert found["absolute_error"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="two images"):
        of_numbers(np.ones((1, 1)), np.ones((1, 1)))


# From the command line: every loss with every kind of labels that it goes with.


def colours(folder, kind):
    """48 images of four colours, which their labels follow."""
    folder.mkdir()
    lines = ["path,label" if kind != "numbers" else "path,red,green"]
    for i in range(48):
        red, green = i % 2, i // 2 % 2
        Image.new("RGB", (28, 28), (200 * red, 200 * green, 9)).save(
            folder / f"{i}.png"
        )
        names = [name for name, on in (("red", red), ("green", green)) if on]
        label = {
            "class": "red" if red else "other",
            "classes": ";".join(names),
            "numbers": f"{red / 2},{green / 2}",
        }[kind]
        lines.append(f"{i}.png,{label}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


def train(tmp_path, kind, *options, numbers=("red", "green")):
    path = colours(tmp_path / "data", kind)
    columns = [text for name in numbers for text in ("--label-column", name)]
    more = columns if kind == "numbers" else []
    settings = ["--set", "depth=1", "dim=16", "heads=1", "dim_head=8", "mlp_dim=16"]
    command = ["train", "--data", path, "--label-kind", kind, *more, *settings]
    command += ["--out", tmp_path / "run", "--epochs", 25, "--batch-size", 8]
    command += ["--warmup", 1, "--holdout", 0.4, "--flip", 0, *options]
    return main(list(map(str, command)))


CELLS = [
    ("class", "softmax"),
    ("class", "sigmoid"),
    ("class", "focal"),
    ("classes", "sigmoid"),
    ("classes", "focal"),
    ("numbers", "squared"),
    ("numbers", "absolute"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "loss"), CELLS)
def test_a_loss_with_the_labels_of_a_kind(tmp_path, kind, loss, capsys):
    assert train(tmp_path, kind, "--loss", loss, "--learning-rate", "0.01") == 0
    run = Run.open(tmp_path / "run")
    best = max(float(row[f"test_{run.measure}"]) for row in run.metrics())
    assert best > {"numbers": 0.5}.get(kind, 0.9)
    assert (run.folder / "predictions.png").exists()

    capsys.readouterr()
    image = str(tmp_path / "data" / "3.png")  # of both colours
    assert main(["evaluate", str(run.folder)]) == 0
    assert main(["predict", str(run.folder), image]) == 0
    out = capsys.readouterr().out
    measure = {"class": "top-1", "classes": "macro F1", "numbers": "R2"}[kind]
    assert measure in out and ("red" in out or "green" in out)
    assert (run.folder / "thresholds.json").exists() == (kind == "classes")


@pytest.mark.slow
def test_a_run_with_one_number(tmp_path, capsys):
    assert train(tmp_path, "numbers", "--epochs", "1", numbers=["green"]) == 0
    run, image = str(tmp_path / "run"), str(tmp_path / "data" / "3.png")
    assert main(["predict", run, image, "--out", str(tmp_path / "drawn.png")]) == 0
    assert main(["evaluate", run, "--out", str(tmp_path / "report")]) == 0
    assert main(["train", "--resume", run, "--epochs", "2"]) == 0
    assert "green" in capsys.readouterr().out
    assert main(["predict", run, image, "--top", "3"]) == 2
    assert "--top 3" in capsys.readouterr().err
    assert main(["train", "--teacher", run, "--out", str(tmp_path / "student")]) == 2
    assert "'numbers'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("classes", ["--loss", "softmax"], "`sigmoid`, `focal`"),
        ("numbers", ["--loss", "sigmoid"], "`squared`, `absolute`"),
        ("class", ["--loss", "squared"], "`softmax`"),
        ("numbers", ["--cutmix", "1"], "--cutmix 0"),
        ("numbers", ["--label-smoothing", "0.1"], "--label-smoothing"),
        ("numbers", ["--class-weights", "1", "2"], "class_weights"),
        ("classes", ["--teacher", "deit_tiny_distilled_patch16_224"], "teacher"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, kind, options, message, capsys):
    assert train(tmp_path, kind, *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_loss_of_numbers_says_what_the_labels_are(tmp_path, capsys):
    path = table(tmp_path, "label", ["x"])
    assert main(["train", "--data", str(path), "--loss", "absolute"]) == 2
    assert "finite number" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["sigmoid", "focal", "squared", "absolute"])
@pytest.mark.parametrize("dtype", [bool, np.int32, np.uint8])
def test_rows_of_any_type_are_labels_of_a_loss(kind, dtype):
    loss, logits = Loss(kind=kind), np.ones((4, 3), np.float32)
    wanted = loss(logits, ROWS.astype(np.float32))
    assert np.array_equal(loss(logits, ROWS.astype(dtype)), wanted)


@pytest.mark.parametrize("dtype", [bool, np.int32, np.float32])
def test_a_step_takes_rows_of_any_type(dtype):
    model, state = eqx.nn.make_with_state(models["ViT"])(num_classes=3, key=jr.key(0))
    labels = jnp.asarray(ROWS.astype(dtype))
    loss, _ = eqx_vit.evaluate(model, images_for("ViT"), labels, state, loss="sigmoid")
    assert np.isfinite(loss)
    with pytest.raises(ValueError, match="loss='sigmoid'"):
        eqx_vit.evaluate(model, images_for("ViT"), labels, state)
