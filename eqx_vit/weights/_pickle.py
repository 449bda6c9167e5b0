"""Opens the files that `torch.save` writes, without PyTorch and without trust.

A pickle names functions and has them called. Here the names of tensors lead to the
few functions below, and every other name to a class that does nothing.
"""

import collections
import math
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np


_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class Inert:
    """Takes the place of any object that is not a tensor, and ignores everything."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> "Inert":
        return Inert()

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass

    def add(self, item: Any) -> None:
        pass


def _tensor(
    storage: np.ndarray, offset: int, size: tuple, stride: tuple, *rest: Any
) -> np.ndarray:
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or (math.prod(size) and last >= len(storage)):
        raise ValueError("a tensor lies outside of its storage")
    strides = [s * storage.itemsize for s in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides)


def _parameter(tensor: np.ndarray, *rest: Any) -> np.ndarray:
    return tensor


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, load_storage: Any):
        super().__init__(file, encoding="utf-8", errors="replace")
        self.load_storage = load_storage
        self.storages = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return np.dtype(_DTYPES[name])
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch", "Size"): tuple,
        }
        return known.get((module, name), Inert)

    def persistent_load(self, pid: Any) -> Any:
        _, dtype, key, _, count = pid[:5]
        if not isinstance(dtype, np.dtype):
            return Inert()
        if key not in self.storages:
            self.storages[key] = self.load_storage(key, dtype, count)
        return self.storages[key]


def load_pth(path: Path) -> dict:
    """The object in a file that `torch.save` wrote; what is no tensor is inert."""
    if not zipfile.is_zipfile(path):
        return _load_legacy(path)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (pickled,) = (name for name in names if name.endswith("/data.pkl"))
        folder = pickled.removesuffix("data.pkl")

        def load_storage(key, dtype, count):
            data = archive.read(f"{folder}data/{key}")
            return np.frombuffer(data, dtype, count)

        with archive.open(pickled) as file:
            loaded = _Unpickler(file, load_storage).load()
    return _checked(loaded)


def _load_legacy(path: Path) -> dict:
    # Before PyTorch 1.6: a pickle after the other, then the bytes of all storages.
    size = path.stat().st_size
    with path.open("rb") as file:

        def load_storage(key, dtype, count):
            if count * dtype.itemsize > size:
                raise ValueError("a storage is larger than the file")
            return np.empty(count, dtype)

        if _Unpickler(file, load_storage).load() != 0x1950A86A20F9469CFC6C:
            raise ValueError("PyTorch did not write this file")
        for _ in ("protocol version", "system"):
            _Unpickler(file, load_storage).load()
        unpickler = _Unpickler(file, load_storage)
        loaded = unpickler.load()
        for key in _Unpickler(file, load_storage).load():
            storage = unpickler.storages[key]
            (count,) = struct.unpack("<q", file.read(8))
            storage[:] = np.frombuffer(
                file.read(count * storage.itemsize), storage.dtype, len(storage)
            )
    return _checked(loaded)


def _checked(loaded: Any) -> dict:
    if not isinstance(loaded, dict):
        raise ValueError("it holds no mapping of names to tensors")
    return loaded
