from pathlib import Path

from .hub import hub_file
from .record import Record
from .repository import fetch_repository, is_repository
from .run_folder import run_config, run_weights


def fetch(record: Record) -> Path:
    """The file of a checkpoint on this machine, downloaded if it is not there yet.

    Files of the Hugging Face hub go through `huggingface_hub` and its cache (see
    `HF_HOME`), files of other addresses through `pooch` into the user's cache folder.

    **Raises:**

    A `ValueError` if there is nothing that could be downloaded; an `ImportError`; a
    `PermissionError` if the hub wants a login; a `ConnectionError`.
    """
    if is_repository(record.name):
        return fetch_repository(record)
    if run_config(record.name) is not None:
        return run_weights(Path(record.name))
    if record.source is None:
        raise ValueError(
            f"There are no published weights of {record.name!r}; build it without "
            "`pretrained=True`, or give a file of your own as `weights=PATH`."
        )
    if record.file is None and not record.direct:
        raise ValueError(
            f"The weights of {record.name!r} can only be fetched with a browser, from "
            f"{record.source}; then give the file as `weights=PATH`."
        )
    if record.file is not None:
        return hub_file(record.source, record.file, record.revision)
    try:
        return _from_address(record.source)
    except ImportError as error:
        raise ImportError(
            f"To download weights needs the package {error.name}; install it with "
            f"`pip install {error.name}`, or give a file as `weights=PATH`."
        ) from error
    except Exception as error:  # of several packages, each with its own
        raise ConnectionError(
            f"The weights of {record.name!r} are not on this machine and could not be "
            f"downloaded from {record.source}. Check the connection, or fetch the file "
            f"elsewhere and give it as `weights=PATH`. ({type(error).__name__}: "
            f"{error})"
        ) from error


def _from_address(address: str) -> Path:
    import pooch

    path = pooch.retrieve(
        address,
        known_hash=None,  # none is published
        fname=address.rpartition("/")[2],
        path=pooch.os_cache("eqx_vit"),
        progressbar=True,
    )
    return Path(path)
