"""The commands `eqx-vit train` and `eqx-vit predict`."""

import argparse
import itertools
import signal
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from PIL import Image
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column, Table

from .checkpoints import create_model, zoo
from .data import Dataset, digits, imagenet_classes, random_affine, read_digit
from .optimizing import decay_mask
from .pictures import draw_classes
from .preprocessing import preprocess
from .run import Run
from .training import evaluate, predict, train_step


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="eqx-vit", description="Vision transformers in JAX and Equinox."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train a small ViT on real images",
        description="Trains a small ViT on 4,000 handwritten digits, tests it on 1,000 "
        "others, and leaves a run folder with configuration, weights, metrics and "
        "pictures. Interrupt it at any time: the folder holds the last epoch.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = train.add_argument
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        default=argparse.SUPPRESS,
        help="run folder (default: the first free one of runs/digits, digits-2, ...)",
    )
    add("--epochs", type=int, default=25, help="passes over the training images")
    add("--batch-size", type=int, default=100, help="images a step")
    add("--learning-rate", type=float, default=2e-3, help="highest learning rate")
    add("--weight-decay", type=float, default=0.05, help="decay of AdamW")
    add("--clip", type=float, default=1.0, help="largest global norm of the gradient")
    add(
        "--label-smoothing", type=float, default=0.1, help="share spread on all classes"
    )
    sides = (1, 2, 4, 7, 14, 28)
    add("--patch-size", type=int, choices=sides, default=7, help="side of a patch")
    add("--dim", type=int, default=64, help="size of a token")
    add("--depth", type=int, default=4, help="transformer blocks")
    add("--heads", type=int, default=4, help="attention heads a block")
    add("--mlp-dim", type=int, default=128, help="hidden size of the feed-forward")
    add("--dropout", type=float, default=0.0, help="dropout rate")
    add("--stochastic-depth", type=float, default=0.0, help="rate at the last block")
    add("--bfloat16", action="store_true", help="compute in mixed precision")
    add("--seed", type=int, default=0, help="of weights, order and augmentation")
    train.set_defaults(command=_train)

    classify = commands.add_parser(
        "predict",
        help="classify image files",
        description="Classifies image files with a published model, whose weights are "
        "downloaded at the first time, or with the model of a run folder. (For the "
        "latter they are made grey, resized to 28 x 28 and, if dark on light, "
        "inverted.)",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = classify.add_argument
    add("model", metavar="MODEL", help="name of a published model, or a run folder")
    add("images", type=Path, nargs="+", metavar="IMAGE", help="image files")
    add("--top", type=int, default=5, help="classes to print")
    add(
        "--weights",
        type=Path,
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="file with the published weights, instead of a download",
    )
    add(
        "--out",
        type=Path,
        metavar="PNG",
        default=argparse.SUPPRESS,
        help="draw the images and their classes",
    )
    classify.set_defaults(command=_predict)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    **Arguments:**

    - `arguments`: Without the name of the program; by default those of the process.

    **Returns:**

    The exit status: 0, or 2 after an error, or 130 after an interrupt.
    """
    options = _parser().parse_args(arguments)
    console = Console()
    try:
        return options.command(options, console)
    except (ValueError, OSError, ImportError) as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return 2


def _free_folder() -> Path:
    names = (f"digits-{i}" for i in itertools.count(2))
    folders = map(Path("runs").joinpath, itertools.chain(["digits"], names))
    return next(folder for folder in folders if not folder.exists())


def _train(options: argparse.Namespace, console: Console) -> int:
    data = digits()
    if not 1 <= options.batch_size <= len(data.train_images):
        raise ValueError(
            f"`--batch-size {options.batch_size}` must be between 1 and the "
            f"{len(data.train_images)} training images."
        )
    if options.epochs < 1:
        raise ValueError(
            f"`--epochs {options.epochs}` is too small; the nearest legal value is 1."
        )
    side, channels = data.train_images.shape[2:]
    config = {
        "model": {
            "image_size": side,
            "patch_size": options.patch_size,
            "num_classes": len(data.classes),
            "dim": options.dim,
            "depth": options.depth,
            "heads": options.heads,
            "mlp_dim": options.mlp_dim,
            "dim_head": max(1, options.dim // max(1, options.heads)),
            "pool": "mean",
            "channels": channels,
            "dropout": options.dropout,
            "stochastic_depth": options.stochastic_depth,
            "qkv_bias": True,
        },
        "classes": data.classes,
        "mean": data.mean,
        "std": data.std,
        "options": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in vars(options).items()
            if name != "command"
        },
    }
    folder = vars(options).get("out") or _free_folder()
    model_key, key = jr.split(jr.key(options.seed))
    # A wrong setting raises here, before there is a folder.
    model, state = Run(folder, config).make_model(model_key)
    run = Run.create(folder, config)
    run.save_model(model, state)
    console.print(f"{len(data.train_images)} images to train on -> {run.folder}/")

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    row, started = {}, time.monotonic()
    try:
        for row in _epochs(run, model, state, data, options, console, key):
            run.add_metrics(row)
    except KeyboardInterrupt:
        console.print("Interrupted: the run folder holds the last full epoch.")
        status = 130
    else:
        console.print(
            f"Test accuracy {row['test_accuracy']:.1%} after "
            f"{time.monotonic() - started:.0f} s."
        )
        status = 0
    run.draw(*run.load_model(), data)
    console.print(
        f"See {run.folder}/curves.png and {run.folder}/predictions.png; then try:\n"
        f"  eqx-vit predict {run.folder} IMAGE...",
        highlight=False,
        soft_wrap=True,
    )
    return status


def _epochs(run, model, state, data: Dataset, options, console: Console, key):
    """Trains, and yields a row of metrics whenever an epoch has been saved."""
    num_steps = len(data.train_images) // options.batch_size
    total = num_steps * options.epochs
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, options.learning_rate, max(1, total // 10), total
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(options.clip),
        optax.adamw(schedule, weight_decay=options.weight_decay, mask=decay_mask),
    )
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    dtype = jnp.bfloat16 if options.bfloat16 else None
    rng = np.random.default_rng(options.seed)
    test = run.normalise(data.test_images), jnp.asarray(data.test_labels)

    with _progress(console) as progress:
        bar = progress.add_task("", total=total, loss="-", accuracy="-", speed="-")
        for epoch in range(1, options.epochs + 1):
            started = time.monotonic()
            order = rng.permutation(len(data.train_images))
            losses = []
            for step in range(num_steps):
                key, augment_key, step_key = jr.split(key, 3)
                batch = order[step * options.batch_size :][: options.batch_size]
                images = random_affine(
                    jnp.asarray(data.train_images[batch]), augment_key
                )
                model, state, opt_state, loss = train_step(
                    model,
                    state,
                    opt_state,
                    run.normalise(images),
                    jnp.asarray(data.train_labels[batch]),
                    optimizer,
                    label_smoothing=options.label_smoothing,
                    compute_dtype=dtype,
                    key=step_key,
                )
                losses.append(loss)
                progress.advance(bar)
                if step % 10 == 9:  # to read the loss is to wait for the device
                    seconds = time.monotonic() - started
                    speed = (step + 1) * options.batch_size / seconds
                    progress.update(
                        bar, loss=f"{loss.item():.3f}", speed=f"{speed:.0f}"
                    )
            test_loss, accuracy = evaluate(model, state, *test)
            seconds = time.monotonic() - started
            row = {
                "epoch": epoch,
                "train_loss": float(np.mean(losses)),
                "test_loss": test_loss.item(),
                "test_accuracy": accuracy.item(),
                "images_per_second": num_steps * options.batch_size / seconds,
            }
            progress.update(
                bar,
                loss=f"{row['train_loss']:.3f}",
                accuracy=f"{row['test_accuracy']:.1%}",
                speed=f"{row['images_per_second']:.0f}",
            )
            run.save_model(model, state)
            yield row


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("test accuracy {task.fields[accuracy]}"),
        TextColumn("{task.fields[speed]} images/s"),
        TimeElapsedColumn(),
        console=console,
    )


def _predict(options: argparse.Namespace, console: Console) -> int:
    if Path(options.model).is_dir():
        classify, classes = _classify_digits(options)
    else:
        classify, classes = _classify_photographs(options)
    table = Table(Column("image", overflow="fold"), "class", "probability", box=None)
    rows = []
    for path in options.images:
        try:
            image, probabilities = classify(path)
        except OSError as error:
            console.print(f"error: {path}: {error}", style="red", markup=False)
            continue
        best = np.argsort(-probabilities)[: max(1, options.top)]
        rows.append((path.name, image, [(classes[i], probabilities[i]) for i in best]))
        for k, i in enumerate(best):
            name = str(path) if k == 0 else ""
            table.add_row(name, classes[i], f"{probabilities[i]:.1%}")
    console.print(table)
    if rows and "out" in options:
        draw_classes(rows, options.out)
        console.print(f"See {options.out}", highlight=False, soft_wrap=True)
    return 0 if len(rows) == len(options.images) else 2


def _classify_digits(options: argparse.Namespace):
    """From a file to its image and probabilities; and the names of the classes."""
    if "weights" in options:
        raise ValueError(
            "`--weights` goes with the name of a published model; a run folder has its "
            "own."
        )
    run = Run.open(Path(options.model))
    model, state = run.load_model()

    def classify(path):
        image = read_digit(path, model.image_size[0])
        return image, run.probabilities(model, state, image[None])[0]

    return classify, run.config["classes"]


def _classify_photographs(options: argparse.Namespace):
    """The same with a published model."""
    name, weights = options.model, vars(options).get("weights")
    if name not in zoo:
        raise ValueError(f"There is no folder {name!r}, and {zoo.unknown(name)}")
    record = zoo[name]
    if record.num_classes == 0:
        raise ValueError(
            f"{record.name!r} has no head, so it knows no classes; choose a model that "
            "has some (`print(eqx_vit.zoo)` shows them)."
        )
    model, state = create_model(
        name, pretrained=weights is None, weights=weights, key=jr.key(0)
    )
    if record.num_classes == 1000:
        classes = imagenet_classes()
    else:
        classes = [f"class {i}" for i in range(record.num_classes)]

    def classify(path):
        image = Image.open(path).convert("RGB")
        logits = predict(model, state, preprocess(record, image)[None])[0]
        return np.asarray(image), np.asarray(jax.nn.softmax(logits))

    return classify, classes
