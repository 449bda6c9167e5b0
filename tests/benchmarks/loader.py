"""How many images a core prepares for a training step, beside timm: `docs/benchmarks/
loader.csv`.

`python -m tests.benchmarks.loader` needs the packages of the parity tests. The images
are JPEG files of 500 x 375 pixels; both sides read them, and augment them as DeiT does.
Both end with bytes, which are normalised on the device."""

import contextlib
import io
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from eqx_vit.data import (
    Augmentation,
    ForDevice,
    ImageFiles,
    to_pixels,
    training_batches,
)
from eqx_vit.data._pixels import decode
from eqx_vit.data._resample import resized
from eqx_vit.data.preprocessing import normalise
from PIL import Image

from ..parity import conftest  # noqa: F401 (which mends torchvision)
from .measuring import alternate, DOCS, spread, write_csv


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH, BATCHES = 16, 10
KINDS = {"crop and flip": False, "DeiT": True}


def photograph(rng: np.random.Generator, width: int, height: int) -> bytes:
    """A JPEG file of nothing: smooth colours with the noise of a camera."""
    colours = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    smooth = np.asarray(colours.resize((width, height), Image.Resampling.BICUBIC))
    noise = rng.normal(0, 8, smooth.shape)
    pixels = np.clip(smooth + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_images(folder: Path, count: int = 32) -> list[Path]:
    rng, paths = np.random.default_rng(0), []
    for i in range(count):
        paths.append(folder / f"{i}.jpg")
        paths[-1].write_bytes(photograph(rng, 500, 375))
    return paths


def parts(path: Path) -> None:
    """Print the time of reading, resizing and normalising an image, beside the plain
    way."""
    data = path.read_bytes()
    pixels = decode(data)
    kept, large = pixels[:300, :330], photograph(np.random.default_rng(0), 4000, 3000)
    least_size = Augmentation((224, 224), MEAN, STD).least_size
    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)

    def pillow() -> None:
        with Image.open(io.BytesIO(data)) as image:
            to_pixels(image)

    pairs: dict[str, tuple[Callable, Callable]] = {
        "decode": (lambda: decode(data), pillow),
        "large file": (lambda: decode(large, least_size), lambda: decode(large)),
        "resize": (
            lambda: resized(kept, (224, 224), "bicubic"),
            lambda: Image.fromarray(kept).resize((224, 224)),
        ),
        "normalise": (
            lambda: normalise(pixels, MEAN, STD),
            lambda: (pixels.astype(np.float32) / 255 - mean) / std,
        ),
    }
    for name, (ours, plain) in pairs.items():
        rounds = 20 if name == "large file" else 200
        seconds = alternate({"ours": ours, "plain": plain}, rounds)
        mine, other = (1e3 * np.median(seconds[key]) for key in ("ours", "plain"))
        print(f"{name}: {mine:.2f} ms, the plain way {other:.2f} ms", flush=True)


def rate(batches: Iterator) -> float:
    """Images a second of processor time, once what is read ahead has been read."""
    next(itertools.islice(batches, BATCHES, None))
    started = time.process_time()
    next(itertools.islice(batches, BATCHES - 1, None))
    return BATCH * BATCHES / (time.process_time() - started)


def timm_batches(paths: list[Path], transform: Callable) -> Iterator:
    """Endless batches as timm's loader collates them, in this process."""
    import torch
    from timm.data.loader import fast_collate
    from torch.utils.data import DataLoader, Dataset

    class Files(Dataset):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> Any:
            with Image.open(paths[index]) as image:
                return transform(image.convert("RGB")), 0

    torch.set_num_threads(1)  # as in a process that loads
    loader = DataLoader(Files(), BATCH, shuffle=True, collate_fn=fast_collate)
    while True:
        yield from loader


def main() -> None:
    from timm.data.transforms_factory import create_transform

    # (One thread each: what a core does.)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(Path(folder))
        parts(paths[0])
        # (Grain is slow to shuffle a few.)
        paths = 256 * paths
        images = ImageFiles(paths, np.zeros(len(paths), np.int32), ("a",))
        for kind, full in KINDS.items():
            strength: dict[str, Any] = dict(rand_augment_std=0.0)
            strength |= {} if full else dict(rand_augment=0.0, erasing=0.0)
            ours = ForDevice(Augmentation((224, 224), MEAN, STD, **strength))
            theirs: Any = create_transform(
                224,
                is_training=True,
                auto_augment="rand-m9-inc1" if full else None,
                color_jitter=0.0,
                interpolation="bicubic",
                re_prob=0.25 if full else 0.0,
                use_prefetcher=True,
            )
            loaders: dict[str, Callable] = {
                "eqx_vit": lambda: training_batches(
                    images, ours, BATCH, seed=0, workers=0
                ),
                "timm": lambda: timm_batches(paths, theirs),
            }
            rates: dict[str, list[float]] = {name: [] for name in loaders}
            for turn in range(10):
                for name in list(loaders)[:: 1 if turn % 2 else -1]:
                    with contextlib.closing(loaders[name]()) as batches:
                        rates[name].append(rate(batches))
            mine, timm = (np.array(values) for values in rates.values())
            rows.append(
                {
                    "augmentation": kind,
                    "eqx_vit_images_per_second": round(np.median(mine)),
                    "timm_images_per_second": round(np.median(timm)),
                    "speed_up": round(float(np.median(mine / timm)), 2),
                    "spread": round(spread(mine / timm), 2),
                }
            )
            print(rows[-1])
    write_csv(DOCS / "benchmarks" / "loader.csv", rows)


if __name__ == "__main__":
    main()
