"""What went wrong between here and the Hub when something was to be read from there, in words."""

import os
from pathlib import Path
from typing import Literal

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from slimresnet.errors import first_line


def explain_hub_error(error: BaseException, repo_id: str, kind: Literal["dataset", "model"]) -> str:
    """
    Why `repo_id` cannot be had from the Hub and what to do, as the end of a sentence, without its stop.

    Args:
        error: what huggingface_hub raised; of one that it does not know, its own words stay.
    """
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:  # nothing is cached, and why
        return explain_hub_error(error.__cause__, repo_id, kind)
    if isinstance(error, OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set, so that the Hub is not asked for a {kind} of that name: unset it"
    if isinstance(error, HFValidationError):
        return f"it cannot be the name of a {kind} on the Hub, which is user/name"
    address = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo_id}"
    if isinstance(error, GatedRepoError):
        return f"the Hub gives it only to those who ask: ask at {address}, then log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"the Hub has no {kind} of that name that you may read: correct the name, or, if it is private, log in "
            "with `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"the Hub has no such revision of it: give a branch, tag or commit that {address} has"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    if status == 401:
        return f"the Hub does not know the access token ({first_line(error)}): log in anew with `hf auth login`"
    if status is not None and status >= 500:
        return f"the Hub failed ({first_line(error)}): try again later"
    if is_cache_error(error, constants.HF_HUB_CACHE):
        return f"the cache of the Hub, {constants.HF_HUB_CACHE}, {cannot_be_written(error, 'HF_HUB_CACHE')}"
    if isinstance(error, HTTPError | ConnectionError | TimeoutError | LocalEntryNotFoundError) and status is None:
        return f"the Hub at {constants.ENDPOINT} cannot be reached ({first_line(error)}): look at the connection"
    return f"the Hub was asked in vain ({first_line(error)})"


def is_cache_error(error: BaseException, cache: str | os.PathLike) -> bool:
    """Whether the file system refused a file or folder in a cache, or on the way to it."""
    if not isinstance(error, OSError) or error.filename is None:
        return False
    place, refused = Path(cache).expanduser().absolute(), Path(os.fsdecode(error.filename)).absolute()
    return place == refused or place in refused.parents or refused in place.parents


def cannot_be_written(error: BaseException, variable: str) -> str:
    """The end of a sentence on a cache: the file system's reason, and the environment variable to set."""
    return f"cannot be written to ({error.strerror}): set {variable}, or HF_HOME, to a folder that can"
