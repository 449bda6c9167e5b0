"""Checkpoints with Orbax: asynchronous, whole or not at all."""

import copy
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN


class Checkpoints:
    """The folder with the checkpoints of a run, one sub-folder a step.

    They are written in the background, and have their name only once they are whole: a
    kill at any moment leaves the earlier ones. The last and the most accurate are kept.
    """

    folder: Path

    def __init__(self, folder: Path, keep: int = 2):
        """**Arguments:**

        - `folder`: Where they are; it is made if need be.
        - `keep`: How many of the last to keep, besides the most accurate one.
        """
        self.folder = folder.absolute()
        policies = [
            # (The state of the last is tried by the next step only.)
            LatestN(max(2, keep)),
            BestN(
                get_metric_fn=lambda metrics: next(iter(metrics.values())),
                n=1,
                keep_checkpoints_without_metrics=False,
            ),
        ]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
        )
        with self._named("open", None):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self._plain(), options=options)

    def _plain(self) -> Path:
        """The folder by a name without `*`, `?` and `[`, which Orbax takes for patterns
        under which it saves nothing."""
        if not set("*?[") & set(str(self.folder)):
            return self.folder
        self._links = tempfile.TemporaryDirectory()
        link = Path(self._links.name) / "checkpoints"
        link.symlink_to(self.folder, target_is_directory=True)
        return link

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint."""
        return sorted(self._manager.all_steps())

    def save(
        self, step: int, tree: PyTree, position: dict, metrics: dict[str, float] | None
    ) -> None:
        """Begins to write a checkpoint, once the one before is written.

        **Arguments:**

        - `step`: Its number.
        - `tree`: Whose arrays to save: model, state, optimiser's state, keys.
        - `position`: Where in the data the training is.
        - `metrics`: The metrics of this step, if it was tested.

        **Raises:**

        An `OSError` that names the last whole checkpoint if this or the one before
        cannot be written.
        """
        if step in self._manager.all_steps():
            return
        arrays = jax.tree.leaves(eqx.filter(tree, eqx.is_array))
        checksums = np.asarray(_checksums(arrays)).tolist()
        # (A copy, as it is written while the training goes on.)
        position = {"position": copy.deepcopy(position), "checksums": checksums}
        arguments = ocp.args.Composite(
            arrays=ocp.args.StandardSave(arrays), position=ocp.args.JsonSave(position)
        )
        with self._named("write", step):
            # (Where no folder can be made, Orbax's threads wait for it for minutes.)
            if not os.access(self.folder, os.W_OK):
                raise OSError("it is read-only")
            self._manager.save(step, args=arguments, metrics=metrics, force=True)

    def discard_from(self, step: int) -> None:
        """Deletes the checkpoints of a step and later ones, whose loss is NaN."""
        self.wait()
        with self._named("delete", None):
            for saved in self.steps:
                if saved >= step:
                    self._manager.delete(saved)

    def wait(self) -> None:
        """Returns when all is written. Raises as `save`."""
        with self._named("write", None):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Lets go of the folder."""
        with self._named("write", None):
            self._manager.close()

    def restore(self, tree: PyTree) -> tuple[int, PyTree, dict] | None:
        """The last checkpoint: its step, the tree and the position, or `None`.

        **Arguments:**

        - `tree`: As it was saved, with any numbers in its arrays, placed on the devices
            where they are wanted.

        **Raises:**

        A `ValueError` that names a damaged checkpoint and the one before; an `OSError`
        if it cannot be read for another reason.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        arrays, static = eqx.partition(tree, eqx.is_array)
        leaves, treedef = jax.tree.flatten(arrays)
        wanted = [ocp.utils.to_shape_dtype_struct(leaf) for leaf in leaves]
        arguments = ocp.args.Composite(
            arrays=ocp.args.StandardRestore(wanted), position=ocp.args.JsonRestore()
        )
        try:
            saved = self._manager.restore(step, args=arguments)
            if [x.shape for x in saved["arrays"]] != [x.shape for x in leaves]:
                raise ValueError("its arrays have other shapes than the run's")
            found = np.asarray(_checksums(saved["arrays"])).tolist()
            if found != saved["position"]["checksums"]:
                raise ValueError("its numbers are not those that were written")
        except Exception as error:  # of many kinds
            checkpoint, reason = self.folder / str(step), _first_line(error)
            is_missing = isinstance(error, FileNotFoundError)
            if isinstance(error, OSError | MemoryError) and not is_missing:
                message = f"Cannot read the checkpoint `{checkpoint}`: {reason}"
                raise OSError(message) from error
            others = [s for s in self.steps if s != step]
            advice = (
                "Delete that folder, or move it elsewhere, and `--resume` goes on from "
                f"step {others[-1]}."
                if others
                else "There is no earlier one."
            )
            raise ValueError(
                f"The checkpoint `{checkpoint}` is damaged: {reason} {advice}"
            ) from error
        restored = jax.tree.unflatten(treedef, saved["arrays"])
        return step, eqx.combine(restored, static), saved["position"]["position"]

    def _named(self, verb: str, step: int | None) -> "_Named":
        return _Named(self, verb, step)


class _Named:
    """Errors of Orbax and of the file system as one line that says what is left."""

    def __init__(self, checkpoints: Checkpoints, verb: str, step: int | None):
        self.checkpoints, self.verb, self.step = checkpoints, verb, step

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if error is None or not isinstance(error, Exception):
            return
        folder = self.checkpoints.folder
        what = "the checkpoints" if self.step is None else f"the checkpoint {self.step}"
        message = f"Cannot {self.verb} {what} in `{folder}`: {_first_line(error)}"
        whole = sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())
        if self.verb == "write":
            free = shutil.disk_usage(folder).free
            message += f" ({free / 1e6:.0f} MB are free there.)"
        if whole:
            message += f" The last whole one is of step {whole[-1]}."
        raise OSError(message) from error


@jax.jit
def _checksums(arrays: list[jax.Array]) -> jax.Array:
    """A number per array that any one flipped bit changes, however it is sharded. (What
    is compressed on disk has no checksum there.)"""

    def checksum(array):
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            array = jr.key_data(array)
        if array.dtype == bool:
            array = array.astype(jnp.uint8)
        width = min(32, 8 * array.dtype.itemsize)
        bits = jax.lax.bitcast_convert_type(array, f"uint{width}").astype(jnp.uint32)
        # Odd factors, so that places count and no bit is lost beyond the 32.
        factors = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
        return jnp.sum(bits * factors.reshape(bits.shape), dtype=jnp.uint32)

    return jnp.stack(list(map(checksum, arrays)))


def _first_line(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    # TensorStore names the reason last, and then appends its own specification.
    if reason := re.search(r": ([^:]+) \[os_error_code", text):
        return f"{reason[1]}."
    text = text.split(" [tensorstore_spec")[0].split(" [source locations")[0]
    return (text[:300] + "…" if len(text) > 300 else text).rstrip(".") + "."
