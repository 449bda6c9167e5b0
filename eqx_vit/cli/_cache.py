"""Compiled programs that are kept for the next command."""

import hashlib
import os
import platform
from importlib.util import find_spec
from pathlib import Path

import jax

from ._output import warn


MOST_BYTES = 2 * 2**30


def keep_programs() -> None:
    """Let JAX keep what it compiles in the user's cache folder, and read it from there.

    It has no effect where the user chose a folder (`JAX_COMPILATION_CACHE_DIR`) or
    turned the cache off (`JAX_ENABLE_COMPILATION_CACHE=0`). A folder that cannot be
    written is a warning.
    """
    config = jax.config
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return
    folder = program_folder()
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
    config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # (JAX needs this package to delete the programs that were not used longest.)
    if "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ and find_spec("filelock"):
        config.update("jax_compilation_cache_max_size", MOST_BYTES)


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
