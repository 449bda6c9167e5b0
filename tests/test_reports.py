"""Reports, against numbers counted by hand."""

import csv
import json
import re

import numpy as np
import pytest
from eqx_vit.cli.reports import (
    calibration_error,
    class_measures,
    ClassEvaluation,
    joined,
    matrix_of,
    page,
    Report,
    score,
    Table,
    top,
    write_report,
)
from eqx_vit.data import ArrayImages


CLASSES = ("cat", "dog", "emu", "fox")
# Of 3 cats one is taken for a dog, of 2 dogs one for an emu; there is no emu or fox.
LABELS = np.array([0, 0, 0, 1, 1])
GUESSES = np.array([0, 0, 1, 1, 2])
LOGITS = np.log(np.full((5, 4), 0.1) + 0.6 * np.eye(4)[GUESSES])
SCORES = score(LOGITS, LABELS)
MEASURES = class_measures(SCORES, CLASSES)
ROWS = {row["class"]: row for row in MEASURES["classes"]}


def test_precision_recall_and_f1_of_a_class():
    cat, dog = ROWS["cat"], ROWS["dog"]
    assert (cat["precision"], cat["recall"]) == (1, pytest.approx(2 / 3))
    assert (dog["precision"], dog["recall"], dog["f1"]) == (0.5, 0.5, 0.5)
    assert (cat["images"], cat["predicted"]) == (3, 2)


def test_a_class_without_images_has_no_recall():
    assert ROWS["emu"]["recall"] is None and ROWS["emu"]["precision"] == 0
    assert "fox" not in ROWS


def test_means_are_over_the_classes_that_have_images():
    assert MEASURES["macro_precision"] == pytest.approx((1 + 0.5) / 2)
    assert MEASURES["macro_recall"] == pytest.approx((2 / 3 + 0.5) / 2)
    assert MEASURES["macro_f1"] == pytest.approx((0.8 + 0.5) / 2)


def test_loss_and_the_most_probable_classes():
    assert MEASURES["loss"] == pytest.approx(-(3 * np.log(0.7) + 2 * np.log(0.1)) / 5)
    # (Of equal probabilities, those of other classes are ahead: three of them.)
    assert [top(SCORES, most) for most in (1, 3, 4)] == [0.6, 0.6, 1]


def test_the_calibration_error():
    probabilities = np.array([[0.91, 0.09], [0.9, 0.1], [0.6, 0.4], [0.58, 0.42]])
    scores = score(np.log(probabilities), np.array([0, 1, 0, 1]))
    # Bins of 1 / 15: 0.9 and 0.91 share one, with an accuracy of 1 / 2, and 0.58 and
    # 0.6 are on two sides of 9 / 15.
    gaps = [2 * abs(0.5 - 0.905), abs(1 - 0.6), abs(0 - 0.58)]
    assert calibration_error(scores) == pytest.approx(sum(gaps) / 4)


def test_certainty_is_in_the_last_bin():
    assert calibration_error(score(np.array([[0.0, -800]]), np.array([0]))) == 0


def test_confusions_are_counted():
    assert MEASURES["confusions"] == [
        {"class": "cat", "predicted": "dog", "images": 1},
        {"class": "dog", "predicted": "emu", "images": 1},
    ]
    used, matrix = matrix_of(SCORES)
    assert used.tolist() == [0, 1, 2]
    assert matrix.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 0]]


def test_a_small_matrix_has_the_classes_most_often_confused():
    used, matrix = matrix_of(SCORES, 1)
    assert used.tolist() == [1] and matrix.tolist() == [[1]]


def test_batches_are_joined():
    parts = [score(LOGITS[i:], LABELS[i:], np.arange(i, 5)) for i in (0, 3)]
    assert joined(parts).place.tolist() == [0, 1, 2, 3, 4, 3, 4]
    with pytest.raises(ValueError, match="None of the images"):
        joined([])


PIXELS = np.zeros((5, 8, 9, 3), np.uint8)
EVALUATION = ClassEvaluation(
    SCORES, CLASSES, ArrayImages(PIXELS, LABELS, CLASSES), {"model": "<one>"}
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("report")
    write_report(EVALUATION.report("<b>two</b>"), path)
    return path


def test_files_of_a_report(folder):
    names = "classes.csv confusion.csv predictions.csv confusion.png worst.png"
    names = {*names.split(), "report.html", "report.json"}
    assert {path.name for path in folder.iterdir()} == names
    measures = json.loads((folder / "report.json").read_text())
    assert measures["macro_f1"] == MEASURES["macro_f1"]
    assert (measures["model"], measures["images"]) == ("<one>", 5)


def test_tables_have_a_row_for_every_image_and_class(folder):
    tables = {}
    for name in ("predictions", "classes", "confusion"):
        with (folder / f"{name}.csv").open(newline="") as file:
            tables[name] = list(csv.DictReader(file))
    assert [row["predicted"] for row in tables["predictions"]][-1] == "emu"
    assert [row["recall"] for row in tables["classes"]][-1] == ""
    assert tables["confusion"][0] == {
        "class": "cat",
        "cat": "2",
        "dog": "1",
        "emu": "0",
    }


def test_a_page_needs_nothing_else(folder):
    text = (folder / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="(.{5})', text)
    assert len(sources) == 3 and set(sources) == {"data:"}
    assert "url(" not in text and "@import" not in text


def test_names_are_not_markup():
    table = Table("", "<i>", ("a",), [["<script>"]])
    text = page(Report("<b>", {}, {"<u>": "&"}, [table]))
    assert not re.search("<(script|b|i|u)>", text)
    assert "&lt;script&gt;" in text and "<dd>&amp;</dd>" in text
