"""Files of the Hugging Face hub, and what its errors mean."""

from pathlib import Path


def hub_file(repository: str, file: str, revision: str | None = None) -> Path:
    """The path of a file of a repository, downloaded if it is not in the cache yet.

    **Arguments:**

    - `repository`: `"user/name"`.
    - `file`: Its name there.
    - `revision`: A branch, a tag or a commit; by default the newest.

    **Raises:**

    An `ImportError`; a `FileNotFoundError` if the repository has no such file; a
    `ValueError` if there is no such repository or revision; a `PermissionError` if it
    wants a login; a `ConnectionError` if the hub cannot be reached and the file is not
    in the cache.
    """
    try:
        from huggingface_hub import (
            _CACHED_NO_EXIST,
            errors,
            hf_hub_download,
            try_to_load_from_cache,
        )
    except ImportError as error:
        raise ImportError(
            f"To read `{repository}` from the hub needs the package huggingface_hub; "
            "install it with `pip install huggingface_hub`, or give a folder instead."
        ) from error
    where = f"`{repository}`" + (f" at `{revision}`" if revision else "")
    page = f"https://huggingface.co/{repository}"
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"{where} is gated: accept its terms at {page} and log in by `hf auth "
            "login`, or set HF_TOKEN."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"There is no repository {where} on the hub, or it is private. Check the "
            "name; for a private one, log in by `hf auth login` or set HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(
            f"`{repository}` has no revision `{revision}`; give a branch, a tag or a "
            f"commit that {page}/commits/main shows."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, OSError) and _no_space(error.__cause__):
            raise OSError(str(error.__cause__)) from error
        known = try_to_load_from_cache(repository, file, revision=revision)
        if known is _CACHED_NO_EXIST:
            raise FileNotFoundError(f"{where} has no file `{file}`.") from error
        raise ConnectionError(
            f"`{file}` of {where} is not in the cache and could not be downloaded: "
            "check the connection (HF_HUB_OFFLINE must not be set), or fetch the file "
            f"elsewhere and give it as `weights=PATH`. ({_first_line(error)})"
        ) from error
    except errors.EntryNotFoundError as error:
        raise FileNotFoundError(f"{where} has no file `{file}`.") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise PermissionError(
                f"The hub does not allow to read {where} (status {status}): log in by "
                "`hf auth login`, or set HF_TOKEN."
            ) from error
        raise ConnectionError(
            f"The hub did not give `{file}` of {where}: {_first_line(error)}. Try "
            "again, or fetch the file elsewhere and give it as `weights=PATH`."
        ) from error
    except errors.HFValidationError as error:
        raise ValueError(
            f"`{repository}` is not the name of a repository, such as `user/name`: "
            f"{_first_line(error)}"
        ) from error
    except Exception as error:  # of the HTTP client, or of the file system
        if isinstance(error, OSError) and _no_space(error):
            raise
        raise ConnectionError(
            f"`{file}` of {where} could not be downloaded: {_first_line(error)}. "
            "Check the connection, or fetch the file elsewhere and give it as "
            "`weights=PATH`."
        ) from error


def _no_space(error: OSError) -> bool:
    return error.errno is not None and not isinstance(error, ConnectionError)


def _first_line(error: Exception) -> str:
    lines = f"{type(error).__name__}: {error}".strip().splitlines()
    return lines[0] if lines else ""


def commit_of(path: Path) -> str | None:
    """The commit that a file in the cache of the hub belongs to."""
    parts = path.parts
    if "snapshots" not in parts:
        return None
    return parts[parts.index("snapshots") + 1]
