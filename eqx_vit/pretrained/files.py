import contextlib
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from .pickle import load_pth


_PTH = (".pth", ".pt", ".bin", ".tar", ".ckpt")


def _safetensors():
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "`.safetensors` files need the safetensors package; "
            "install it with `pip install safetensors`."
        ) from error
    return safetensors.numpy


def wrong_type(name: str, kind: object) -> ValueError:
    """Return the error for a tensor of a type that weights do not have."""
    return ValueError(
        f"`{name}` is of type {kind}; weights must be of float16, bfloat16, float32 or "
        "float64. Convert it first."
    )


def _load_safetensors(path: Path) -> dict[str, np.ndarray]:
    module = _safetensors()
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size - 8:
            raise ValueError("its header is longer than the file")
        header = json.loads(file.read(length))
    for name, entry in header.items():
        kind = entry.get("dtype", "") if isinstance(entry, dict) else ""
        if str(kind).startswith(("F8", "F4", "F6")):
            raise wrong_type(name, kind)
    return module.load_file(path)


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file of `numpy.savez`, each checked before it is read."""
    size, tensors = path.stat().st_size, {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(info.file_size for info in members) > 4 * size + 2**20:
            raise ValueError("its members are many times larger than the file")
        for info in members:
            with archive.open(info) as file:
                tensors[info.filename.removesuffix(".npy")] = _load_npy(file, info)
    return tensors


def _load_npy(file: Any, info: zipfile.ZipInfo) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"`{info.filename}` is of an unknown version {version}")
    shape, is_fortran, dtype = read(file)
    if dtype == np.dtype("V2"):  # bfloat16, which NumPy does not know
        dtype = np.dtype(jnp.bfloat16)
    if dtype.kind not in "biufcV" or dtype.hasobject or dtype.names:
        raise ValueError(f"`{info.filename}` has numbers of type {dtype}")
    if math.prod(shape) * dtype.itemsize > info.file_size:
        raise ValueError(f"`{info.filename}` is not all there")
    data = file.read()
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"`{info.filename}` has numbers for another shape")
    array = np.frombuffer(data, dtype)
    return array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)


def read_file(path: Path) -> dict:
    """Read a file: tensors by name, or a training state around them."""
    if path.name.endswith(".index.json"):
        return _load_shards(path)
    if path.suffix not in (".safetensors", ".npz", *_PTH):
        raise ValueError(
            f"`source={str(path)!r}` is none of .safetensors, .npz, {', '.join(_PTH)}."
        )
    if not path.is_file():
        raise FileNotFoundError(f"`source={str(path)!r}`: there is no such file.")
    load = {".safetensors": _load_safetensors, ".npz": _load_npz}
    try:
        return load.get(path.suffix, load_pth)(path)
    except ImportError:
        raise
    except Exception as error:  # of many kinds
        raise ValueError(
            f"`source={str(path)!r}` cannot be read as a {path.suffix} file; it may be "
            f"truncated or of another kind: {str(error) or type(error).__name__}"
        ) from error


def _load_shards(index: Path) -> dict:
    """The tensors of all files that the index of a sharded one names."""
    if not index.is_file():
        raise FileNotFoundError(f"`source={str(index)!r}`: there is no such file.")
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        # (No path that leads elsewhere.)
        shards = sorted({str(Path(name).name) for name in places.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"`source={str(index)!r}` is not the index of a sharded file: it has no "
            "`weight_map` of names to files."
        ) from error
    tensors = {}
    for shard in shards:
        tensors |= read_file(index.with_name(shard))
    missing = sorted(places.keys() - tensors.keys())
    if missing:
        raise ValueError(
            f"`source={str(index)!r}` names {missing[0]}, which `{places[missing[0]]}` "
            "does not have; fetch the files again."
        )
    return tensors


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to, and then move that file to `path`.

    After an error, the file at `path` is as it was, or absent.

    **Raises:**

    An `OSError` that names `path`, if the file cannot be written.
    """
    temporary = None
    try:
        prefix = f".{path.stem}-"
        descriptor, temporary = tempfile.mkstemp(path.suffix, prefix, path.parent)
        os.close(descriptor)
        yield Path(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            os.unlink(temporary)
        # (The errors of safetensors' writer are of no kind that others know.)
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            reason = getattr(error, "strerror", None) or error
            raise OSError(f"Cannot write `{path}`: {reason}") from error
        raise


def write_file(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write the whole file, or leave the old one as it was."""
    # safetensors writes the bytes of a transposed array in the order they lie in.
    tensors = {n: np.asarray(tensor, order="C") for n, tensor in tensors.items()}
    with whole_file(path) as temporary:
        if path.suffix == ".npz":
            with zipfile.ZipFile(temporary, "w") as file:
                for name, tensor in tensors.items():
                    with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
                        np.lib.format.write_array(entry, tensor, allow_pickle=False)
        else:
            # timm and transformers look for this mark.
            _safetensors().save_file(tensors, temporary, metadata={"format": "pt"})


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
