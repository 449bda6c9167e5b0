"""Event files for TensorBoard."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Events:
    """The file `events.out.tfevents.*` of a run, which a thread of tensorboardX writes.

    If the thread ends with an error, the next `add` raises it. (tensorboardX would wait
    for the thread for ever.)
    """

    def __init__(self, folder: Path, step: int):
        """**Arguments:**

        - `folder`: The folder of the run.
        - `step`: The step from which on earlier events do not count.
        """
        from tensorboardX import SummaryWriter

        self._folder = folder
        self._error: OSError | None = None
        self._before, threading.excepthook = threading.excepthook, self._note
        # (With a queue that is never full: nobody empties it after an error.)
        self._writer: Any = SummaryWriter(str(folder), purge_step=step, max_queue=0)
        self._file: Any = self._writer.file_writer.event_writer

    def _note(self, ended: threading.ExceptHookArgs) -> None:
        if isinstance(ended.exc_value, OSError):
            self._error = ended.exc_value
        else:
            self._before(ended)

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Write numbers by their names. Raises an `OSError` that names the folder."""
        for name, value in scalars.items():
            if self._error is not None:
                raise self._named(self._error)
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left. Raises as `add`."""
        if self._error is None:
            try:
                self._writer.close()
            except OSError as error:
                self._error = error
                self._file._worker.stop()
        threading.excepthook = self._before
        if self._error is not None:
            # (When the interpreter ends, tensorboardX would try again, and its queue
            # would wait for a reader.)
            self._file._closed = True
            if self._file._event_queue is not None:
                self._file._event_queue.cancel_join_thread()
            raise self._named(self._error)

    def _named(self, error: OSError) -> OSError:
        reason = error.strerror or error
        text = f"Cannot write TensorBoard's events in `{self._folder}`: {reason}"
        return OSError(text)
