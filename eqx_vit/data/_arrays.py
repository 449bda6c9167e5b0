"""Files of arrays."""

import gzip
from pathlib import Path

import numpy as np

from ._images import ArrayImages, Images


def from_idx(path: Path) -> dict[str, Images]:
    names = [str(i) for i in range(10)]
    if "fashion" in str(path.resolve()).lower():
        names = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt"]
        names += ["sneaker", "bag", "ankle boot"]

    def read(kind):
        found = sorted(path.glob(f"{kind}-ubyte*"))
        if not found:
            raise ValueError(f"`{path}` has no file `{kind}-ubyte` or `.gz` of it.")
        opened = gzip.open if found[0].suffix == ".gz" else open
        try:
            with opened(found[0], "rb") as file:
                data = file.read()
            # 2 zero bytes, the type, the number of axes, each axis in 4 bytes; numbers.
            shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
            numbers = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
            numbers = numbers.reshape(shape) if data[:3] == b"\0\0\x08" else None
        except (ValueError, IndexError, EOFError):
            numbers = None
        if numbers is None:
            raise ValueError(f"`{found[0]}` is not a complete IDX file of bytes.")
        return numbers

    def images(split):
        pixels, labels = read(f"{split}-images-idx3"), read(f"{split}-labels-idx1")
        highest = int(labels.max(initial=0))
        if pixels.ndim != 3 or labels.ndim != 1 or len(pixels) != len(labels):
            raise ValueError(
                f"The files `{split}-*` in `{path}` do not belong together: images of "
                f"shape {pixels.shape} and labels of shape {labels.shape}."
            )
        if highest >= len(names):
            raise ValueError(
                f"`{path}` has a label {highest} in its files `{split}-*`; it must be "
                f"below {len(names)}."
            )
        return ArrayImages(pixels[..., None], labels.astype(np.int32), names)

    return {"train": images("train"), "test": images("t10k")}
