"""Batches of images, loaded beside the training by Grain."""

import functools
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grain
import jax
import numpy as np
from absl import flags
from jaxtyping import Float

from ._augment import Augmentation, ForDevice
from ._images import Images
from ._pixels import as_channels, Pixels
from .preprocessing import normalise


Transform = Callable[..., Float[np.ndarray, "height width channels"]]
Batch = dict[str, np.ndarray]
NONE_READABLE = "None of the images can be read."


class _Rows(grain.MapDataset):
    """The rows of this process, of every whole batch of an endless shuffled order."""

    def __init__(
        self, parent: grain.MapDataset, batch_size: int, process: int, rows: int
    ):
        super().__init__(parent)
        self.batch_size, self.process, self.rows = batch_size, process, rows
        self.batches = len(parent) // batch_size

    def __len__(self) -> int:
        return self.batches * self.rows

    def __getitem__(self, index: Any) -> Any:
        batch, row = divmod(index, self.rows)
        epoch, batch = divmod(batch, self.batches)
        place = batch * self.batch_size + self.process * self.rows + row
        return self._parent[epoch * len(self._parent) + place]


class _Repeated(grain.MapDataset):
    """Every element several times in a row, and of each epoch only the first ones."""

    def __init__(self, parent: grain.MapDataset, repeats: int):
        super().__init__(parent)
        self.repeats = repeats

    def __len__(self) -> int:
        return len(self._parent)

    def __getitem__(self, index: Any) -> Any:
        epoch, place = divmod(index, len(self._parent))
        return self._parent[epoch * len(self._parent) + place // self.repeats]


class _Read(grain.transforms.RandomMap):
    """Turns the index of an image into its part of a batch."""

    def __init__(self, images: Images, transform: Callable[..., Any], training: bool):
        self.images, self.transform, self.training = images, transform, training
        self.read = reader(images, transform)
        self.readable: int | None = None

    def random_map(self, element: Any, rng: np.random.Generator) -> Any:
        # The next image stands in for one that cannot be read. In a test that one does
        # not count; nor does what fills up the last batch.
        number, unreadable = len(self.images), -1
        is_filling = element >= number
        for index in self._candidates(int(element)):
            try:
                pixels = self.read(index)
                break
            except Exception:  # Pillow raises many kinds for a broken file
                if unreadable < 0 and not is_filling:
                    unreadable = int(element)
        else:
            raise OSError(NONE_READABLE)
        self.readable = index
        counts = self.training or not (is_filling or unreadable >= 0)
        label = np.asarray(self.images.labels[index])
        image = self.transform(pixels, rng) if self.training else self.transform(pixels)
        return {
            **(image if isinstance(image, dict) else {"image": image}),
            "label": label.astype(np.int32 if label.ndim == 0 else np.float32),
            "index": np.int32(index),
            "weight": np.float32(counts),
            "unreadable": np.int32(unreadable),
        }

    def _candidates(self, element: int) -> Iterator[int]:
        """The image of an element and those that may stand in for it. (In a test it
        does not matter which does: a known one is found at once among thousands that
        cannot be read.)"""
        number = len(self.images)
        yield element % number
        if not self.training and self.readable is not None:
            yield self.readable
        yield from ((element + i) % number for i in range(1, number))


def reader(images: Images, transform: Any) -> Callable[[int], Pixels]:
    """Return what reads an image by its place: `images.read`; for a transform with a
    `least_size` it is `read_at_least` of that, unless the class of the images has a
    `read` of its own without it.

    **Arguments:**

    - `images`: The images.
    - `transform`: What the images are read for.
    """
    size = getattr(transform, "least_size", None)
    owner = next((c for c in type(images).__mro__ if "read" in vars(c)), object)
    if size is None or "read_at_least" not in vars(owner):
        return images.read
    return functools.partial(getattr(images, "read_at_least"), size=size)


class Batches:
    """An iterator over batches, which knows where it is."""

    def __init__(self, dataset: grain.IterDataset):
        self._iterator = iter(dataset)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        """The next batch. Raises an `OSError` if a process that loads was killed."""
        try:
            return next(self._iterator)
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            raise OSError(
                "A process that loads images was killed, perhaps because memory ran "
                "out; use fewer `workers` (0 loads in threads)."
            ) from error

    def get_state(self) -> dict:
        """Return the place of the next batch."""
        return self._iterator.get_state()

    def set_state(self, state: dict) -> None:
        """Go to a place that `get_state` returned."""
        self._iterator.set_state(state)

    def close(self) -> None:
        """End the processes and threads that load."""
        self._iterator.close()


class Channels:
    """A transform of images of as many channels as the model takes."""

    def __init__(self, transform: Transform, channels: int):
        """**Arguments:**

        - `transform`: Called with the pixels and whatever else is given.
        - `channels`: 1 or 3. Grey images are repeated, coloured ones made grey.
        """
        self.transform, self.channels = transform, channels
        self.least_size = getattr(transform, "least_size", None)

    def __call__(
        self, pixels: Pixels, *rng: np.random.Generator
    ) -> Float[np.ndarray, "new_height new_width new_channels"]:
        """**Arguments:**

        - `pixels`: An image of 1 or 3 channels.
        - `rng`: Randomness, if the transform wants some.
        """
        pixels = as_channels(pixels, self.channels)
        return self.transform(pixels, *rng)


def training_batches(
    images: Images,
    augmentation: Augmentation | ForDevice | Transform,
    batch_size: int,
    *,
    seed: int,
    repeats: int = 1,
    workers: int | None = None,
) -> "Batches":
    """Endless batches of augmented images, in a new order every epoch.

    Order and augmentation depend on the seed alone, not on the number of workers or
    hosts. `iterator.get_state()` is its position, `iterator.set_state(state)` goes
    there. What does not fill a batch at the end of an epoch is left out.

    **Arguments:**

    - `images`: What to train on.
    - `augmentation`: Called as `augmentation(pixels, rng)`; see
        [`eqx_vit.data.Augmentation`][]; or [`eqx_vit.data.ForDevice`][] of one. If it
        has a `least_size`, it is given larger JPEG files at a half, a quarter or an
        eighth of their size, but no smaller than that.
    - `batch_size`: Images a step, of all hosts together. Each host loads its rows.
    - `seed`: The seed of order and augmentation. (This and the next are keyword only
        arguments.)
    - `repeats`: How often an image is in a batch, each time augmented in another way;
        an epoch then has the fewer images. (Repeated augmentation,
        [arXiv:1902.05509](https://arxiv.org/abs/1902.05509), 3 in DeiT's recipe.)
    - `workers`: Processes that load; 0 loads in threads. By default threads where JAX
        computes on the CPU, the machine has four cores or fewer, or there are fewer
        than 10,000 images; else a process for each core but two, for at least 5,000
        images each, at most 16.

    **Returns:**

    An iterator over dicts of arrays: `"image"` and what else `ForDevice` gives;
    `"label"`, the index of a class, or a row of 0 and 1 for every class, or of numbers;
    `"index"`, the place of each in `images`; and `"unreadable"`, the place of an image
    that could not be read and that the one here replaces, or -1.

    **Raises:**

    A `ValueError` if the images do not fill one batch, or hosts do not divide it.
    """
    if not 1 <= batch_size <= len(images):
        raise ValueError(
            f"`batch_size={batch_size}` must be between 1 and the {len(images)} "
            "training images."
        )
    rows = _rows_of_host(batch_size, jax.process_count())
    order = grain.MapDataset.range(len(images)).seed(seed).shuffle()
    order = order if repeats == 1 else _Repeated(order, repeats)
    read = order.random_map(_Read(images, augmentation, training=True))
    mine = _Rows(read, batch_size, jax.process_index(), rows)
    # (Endless as far as anybody can tell. Where it is endless by itself, Grain cannot
    # count batches of one row.)
    endless = mine.repeat(2**62 // len(mine))
    return Batches(_loaded(endless.batch(rows), workers, len(images)))


def evaluation_batches(
    images: Images,
    transform: Transform,
    batch_size: int,
    *,
    workers: int | None = None,
    shared: bool = True,
) -> "Batches":
    """All images once, in order, as batches of one size.

    **Arguments:**

    - `images`, `batch_size`, `workers`: As in [`eqx_vit.data.training_batches`][].
    - `transform`: Called as `transform(pixels)`; see [`eqx_vit.data.Centre`][].
    - `shared`: Whether each of several hosts loads its rows of every batch; else it
        loads all of them. (Keyword only argument.)

    **Returns:**

    As there, and `"weight"`: 0 for what could not be read, and for what fills up the
    last batch; else 1.

    **Raises:**

    A `ValueError` for a batch of no images, or one that the hosts do not divide.
    """
    hosts, host = (jax.process_count(), jax.process_index()) if shared else (1, 0)
    rows = _rows_of_host(batch_size, hosts)
    padded = -(-len(images) // batch_size) * batch_size
    read = grain.MapDataset.range(padded).seed(0)
    read = read.random_map(_Read(images, transform, training=False))
    mine = _Rows(read, batch_size, host, rows)
    return Batches(_loaded(mine.batch(rows), workers, len(images)))


def _rows_of_host(batch_size: int, hosts: int) -> int:
    if batch_size < 1:
        raise ValueError(f"`batch_size={batch_size}` must be 1 or more.")
    if batch_size % hosts:
        nearest = hosts * max(1, round(batch_size / hosts))
        raise ValueError(
            f"`batch_size={batch_size}` does not divide among {hosts} hosts; the "
            f"nearest legal value is {nearest}."
        )
    return batch_size // hosts


def _loaded(
    batches: grain.MapDataset, workers: int | None, number: int
) -> grain.IterDataset:
    cores = len(os.sched_getaffinity(0)) if _HAS_AFFINITY else os.cpu_count() or 1
    if workers is None:
        workers = usual_workers(number, cores, jax.default_backend())
    # (Two threads of a process wait for the disk in turn.)
    threads = 2 if workers else min(max(2, cores), 16)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4)
    loaded = batches.to_iter_dataset(options)
    if workers == 0:
        return loaded
    if not flags.FLAGS.is_parsed():  # Grain reads Abseil's, which we do not have
        flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers=workers)
    return loaded.mp_prefetch(options, worker_init_fn=_end_with_parent)


_HAS_AFFINITY = hasattr(os, "sched_getaffinity")  # Linux has it


def usual_workers(number: int, cores: int, backend: str) -> int:
    """Return the default number of processes that load.

    **Arguments:**

    - `number`: The number of images.
    - `cores`: The cores of the machine that this process may use.
    - `backend`: JAX's, `"cpu"` or an accelerator, beside which the cores are free.
    """
    if backend == "cpu" or cores <= 4 or number < 10_000:
        return 0
    return min(cores - 2, number // 5_000, 16)


def _end_with_parent(*_: int) -> None:
    """End this process when the one that loads ends, however it is killed. (The shared
    memory of both is then freed by Python's resource tracker.)"""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait():
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def pixel_statistics(
    images: Images, channels: int, sample: int = 500
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixels in [0, 1], per channel.

    **Arguments:**

    - `images`: The images; `sample` of them are read, or up to twice as many, evenly
        spaced.
    - `channels`: 1 or 3.
    - `sample`: How many to read.
    """
    as_floats = Channels(lambda pixels: normalise(pixels, (0.0,), (1.0,)), channels)
    moments = []
    for index in _spread(len(images), sample):
        try:
            pixels = as_floats(images.read(index))
        except Exception:  # it is reported when the training comes to it
            continue
        moments.append([pixels.mean((0, 1)), np.square(pixels).mean((0, 1))])
    if not moments:
        raise ValueError(NONE_READABLE)
    mean, square = np.array(moments, np.float64).mean(axis=0)
    std = np.sqrt(np.maximum(square - mean**2, 1e-6))
    return tuple(mean.tolist()), tuple(std.tolist())


def _spread(number: int, sample: int) -> range:
    """Evenly spaced places of a `number`: `sample` of them, or up to twice as many."""
    return range(0, number, max(1, number // sample))


def count_channels(images: Images, sample: int = 100) -> int:
    """Return how many channels a model of some images needs: 1 if all are grey, else 3.

    **Arguments:**

    - `images`: The images; `sample` of them are read, or up to twice as many, evenly
        spaced, and the first and last of every class.
    - `sample`: How many to read.

    **Raises:**

    A `ValueError` if none of the images can be read.
    """
    found = set()
    reason = "there are none"
    rows = {*_spread(len(images), sample)}
    if images.label_kind != "numbers":
        rows |= _first_and_last(images)
    for index in sorted(rows):
        try:
            found.add(images.read(index).shape[-1])
        except Exception as error:  # it is reported when the training comes to it
            reason = error
        if 3 in found:
            break
    if not found:
        raise ValueError(f"None of the images can be read: {reason}")
    return max(found)


def _first_and_last(images: Images) -> set[int]:
    """The places of the first and the last image of every class."""
    ends = lambda labels: (
        np.unique(labels, return_index=True)[1]
        if images.label_kind == "class"
        else labels.argmax(axis=0)
    )
    last = len(images) - 1 - ends(images.labels[::-1])
    return {*ends(images.labels).tolist(), *last.tolist()}


def why_unreadable(images: Images, index: int) -> str:
    """Return why an image cannot be read, in one line, with its name."""
    try:
        images.read(index)
    except Exception as error:  # Pillow raises many kinds for a broken file
        return f"cannot read {images.name(index)}: {error}".splitlines()[0]
    return f"cannot read {images.name(index)}: it could not be read a moment ago"
