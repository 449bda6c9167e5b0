"""Compiled programs that are kept for the next command."""

import hashlib
import os
import platform
import shutil
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax

from ._output import warn


MOST_BYTES = 2 * 2**30
LEAST_FREE = 2**28


def keep_programs() -> None:
    """Let JAX keep what it compiles in the user's cache folder, and read it from there.

    It has no effect where the user chose a folder (`JAX_COMPILATION_CACHE_DIR`), turned
    the cache off (`JAX_ENABLE_COMPILATION_CACHE=0`) or has no home. A folder that
    cannot be written, and a full disk, is a warning.
    """
    config: Any = jax.config
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return
    try:
        folder = program_folder()
    except RuntimeError:  # the user has no home, as in some containers
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        warn(
            f"compiled programs are not kept, since `{folder}` cannot be made "
            f"({error.strerror}); `XDG_CACHE_HOME` chooses another folder."
        )
        return
    if not os.access(folder, os.W_OK):
        warn(f"compiled programs are not kept, since `{folder}` is read-only.")
        return
    if shutil.disk_usage(folder).free < LEAST_FREE:
        warn(
            f"compiled programs are not kept, since the disk of `{folder}` is almost "
            "full; free 256 MB or more."
        )
        return
    _remove_halves(folder)
    config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # (JAX needs this package to delete the programs that were not used longest.)
    if "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ and find_spec("filelock"):
        config.update("jax_compilation_cache_max_size", MOST_BYTES)


def _remove_halves(folder: Path) -> None:
    """Remove programs without the time of their last use, which a process that was
    ended has left: JAX could not write others beside them."""
    for path in folder.glob("*-cache"):
        used = path.with_name(path.name.removesuffix("-cache") + "-atime")
        try:
            is_old = time.time() - path.stat().st_mtime > 600
            if is_old and not used.exists():
                path.unlink()
        except OSError:
            pass  # another process was faster


def program_folder() -> Path:
    """Return the folder of the compiled programs for this kind of machine.

    JAX's key of a program does not have the instructions of the processor, and a home
    folder may be shared by machines that have others.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "eqx_vit" / "programs" / _machine()


def _machine() -> str:
    """A digest of the instructions that the processor knows."""
    about = [platform.machine(), platform.processor()]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        kinds = ("flags", "Features", "model name")
        about += sorted({line for line in lines if line.startswith(kinds)})
    return hashlib.blake2b("\n".join(about).encode(), digest_size=8).hexdigest()
