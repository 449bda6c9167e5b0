import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from ._pickle import load_pth


_PTH = (".pth", ".pt", ".bin", ".tar", ".ckpt")


def _safetensors():
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "`.safetensors` files need the safetensors package; "
            "install it with `pip install 'eqx_vit[hub]'`."
        ) from error
    return safetensors.numpy


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    # Without `allow_pickle`, so that no code of the file runs.
    with np.load(path) as file:
        tensors = dict(file.items())
    # NumPy has no bfloat16 and returns its two bytes as they are.
    raw = {name for name, tensor in tensors.items() if tensor.dtype == np.dtype("V2")}
    return tensors | {name: tensors[name].view(jnp.bfloat16) for name in raw}


def read_file(path: Path) -> dict:
    """What a file holds: tensors by name, or a training state around them."""
    if path.suffix not in (".safetensors", ".npz", *_PTH):
        raise ValueError(
            f"`source={str(path)!r}` is none of .safetensors, .npz, {', '.join(_PTH)}."
        )
    if not path.is_file():
        raise FileNotFoundError(f"`source={str(path)!r}`: there is no such file.")
    load = {".safetensors": lambda p: _safetensors().load_file(p), ".npz": _load_npz}
    try:
        return load.get(path.suffix, load_pth)(path)
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(
            f"`source={str(path)!r}` cannot be read as a {path.suffix} file; it may be "
            f"truncated or of another kind: {error}"
        ) from error


def write_file(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes all of the file, or leaves what was there as it was."""
    # safetensors writes the bytes of a transposed array in the order they lie in.
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    descriptor, temporary = tempfile.mkstemp(path.suffix, f".{path.stem}-", path.parent)
    os.close(descriptor)
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(temporary, "w") as file:
                for name, tensor in tensors.items():
                    with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
                        np.lib.format.write_array(entry, tensor, allow_pickle=False)
        else:
            # timm and transformers look for this mark.
            _safetensors().save_file(tensors, temporary, metadata={"format": "pt"})
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
