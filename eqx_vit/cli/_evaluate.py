"""Measure the accuracy of a model on labelled images.

The model is a published one or the model of a run folder. Classes are matched by name:
the images may be of some of the model's classes, in any order. Without `--data` a run
is measured on the test images of its own data."""

import argparse
import json
from pathlib import Path

from rich.console import Console

from ..data import (
    divided,
    evaluation_split,
    Images,
    open_part,
    open_parts,
    with_classes,
)
from ._data import add_data_arguments, SELECTION, selection, splits_of
from ._load import add_batch_size, add_load_arguments, load, outputs
from ._options import path
from ._output import print_table, say, warn
from ._subset import add_subset, on_subset, Task
from .reports import evaluation, write_report
from .runs import run_named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_load_arguments(parser)
    add_data_arguments(parser)
    parser.set_defaults(data=None)
    add(
        "--split",
        metavar="NAME",
        default=None,
        help="which split of `--data` (default: its val, validation or test; all "
        "images of data without splits)",
    )
    add_subset(parser)
    add_batch_size(parser)
    add(
        "--json",
        action="store_true",
        help="print one JSON object, and nothing else, on standard output",
    )
    add(
        "--out",
        type=path,
        metavar="FOLDER",
        default=argparse.SUPPRESS,
        help="write a report to this folder: report.html, report.json, tables and "
        "pictures",
    )


def run(options: argparse.Namespace, console: Console) -> int:
    loaded = load(options)
    images, part = _images(options)
    if images.label_kind != loaded.label_kind:
        raise ValueError(
            f"The images have labels of the kind {images.label_kind!r}, and the model "
            f"is for {loaded.label_kind!r}; `--label-kind` says how labels are read."
        )
    what = f"`{options.data or part}`"
    if options.subset is None:
        images = with_classes(images, loaded.classes, loaded.aliases, what=what)
        task = Task(loaded, images)
    else:
        task = on_subset(options.subset, loaded, images, what)
    loaded, images = task.loaded, task.images
    if not options.json:
        say(console, f"{len(images)} images ({part})")
    if "out" in options:
        options.out.mkdir(parents=True, exist_ok=True)
    batches = outputs(
        loaded,
        images,
        "evaluating",
        Console(stderr=True) if options.json else console,
        batch_size=options.batch_size,
        workers=options.workers,
    )
    data = part.replace("`", "")
    about = {"model": options.model, "data": data}
    labelled = map(task.labelled, batches)
    evaluated = evaluation(labelled, loaded, images, about)
    if options.json:
        console.file.write(json.dumps(evaluated.measures()) + "\n")
    else:
        print_table(console, [*zip(*evaluated.row.items())])
    if "out" in options:
        report = evaluated.report(options.model)
        note = f"Measured on {len(images):,} images: {data}."
        write_report(report._replace(note=note), options.out)
        if not options.json:
            say(console, f"See {options.out}/report.html")
    return 0


def _images(options: argparse.Namespace) -> tuple[Images, str]:
    """The images of the options, and which part of the data they are."""
    run = run_named(options.model)
    own = None if run is None else run.config["options"]
    if "holdout" in options.given:
        raise ValueError(
            "`--holdout` is for training: a run is measured on what it held out, and "
            "other data, with `--data`, as a whole."
        )
    chosen = selection(vars(options))
    if run is not None and run.label_kind != "class" and not chosen["label_kind"]:
        chosen["label_kind"] = run.label_kind
    if options.data is not None:
        is_own = own is not None and _same(options.data, own["data"])
        if own is not None and is_own and not options.given & {*SELECTION}:
            chosen = selection(own)
        images, name = open_part(options.data, options.split, **chosen)
        part = f"`{options.data}`, {_said(name)}"
        if is_own and name == "all":
            warn(
                f"the run was trained on most of `{options.data}`; without `--data` it "
                "is measured on the images that were held out."
            )
        return images, part
    if run is None or own is None:
        raise ValueError("`--data` is needed to evaluate a published model.")
    given = [name for name in SELECTION if name in options.given]
    if given:
        raise ValueError(
            f"`--{given[0].replace('_', '-')}` goes with `--data`; the data of a run "
            "is read as in its training."
        )
    source, chosen = own["data"], selection(own)
    if options.split is not None:
        images, name = open_part(source, options.split, **chosen)
        return images, f"`{source}` of the run, {_said(name)}"
    # (Of data that has changed, other images would be held out: it may have trained on
    # them.)
    splits = splits_of(own)
    named = [name for name in splits.values() if name is not None]
    parts = open_parts(source, splits=named, **chosen)
    images = run.same_data(divided(source, parts, own["holdout"], **splits)).test
    held_out = f"the {own['holdout']:.0%} held out"
    name = evaluation_split(parts, **splits)
    part = held_out if name is None else _said(name)
    return images, f"`{source}` of the run, {part}"


def _said(name: str) -> str:
    return "all images" if name == "all" else f"the split `{name}`"


def _same(one: str, other: str) -> bool:
    return one == other or Path(one).resolve() == Path(other).resolve()
