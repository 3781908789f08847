"""Errors of the Hub in words, for reading from the Hub and for writing to it."""

import os
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Literal, TypeGuard

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

from slimresnet.errors import SlimResNetError, first_line


class HubError(SlimResNetError):
    """A folder cannot be brought to the Hub; the message says why and what to do."""


_Cause = Enum(
    "_Cause",
    "OFFLINE NAME GATED NO_REPOSITORY NO_REVISION TOKEN NO_RIGHT NOT_FOUND CONFLICT SERVER REFUSED CACHE CONNECTION "
    "OTHER",
)
_READING = {
    _Cause.OFFLINE: "HF_HUB_OFFLINE is set, so that the Hub is not asked for a {kind} of that name: unset it",
    _Cause.NAME: "it cannot be the name of a {kind} on the Hub, which is user/name",
    _Cause.GATED: "the Hub gives it only to those who ask: ask at {address}, then log in with `hf auth login`",
    _Cause.NO_REPOSITORY: "the Hub has no {kind} of that name that you may read: correct the name, or, if it is "
    "private, log in with `hf auth login` or set HF_TOKEN",
    _Cause.NO_REVISION: "the Hub has no such revision of it: give a branch, tag or commit that {address} has",
    _Cause.TOKEN: "the Hub does not know the access token ({reason}): log in anew with `hf auth login`",
    _Cause.SERVER: "the Hub failed ({reason}): try again later",
    _Cause.CACHE: "the cache of the Hub, {cache}, {cache_refused}",
    _Cause.CONNECTION: "the Hub at {endpoint} cannot be reached ({reason}): look at the connection",
    _Cause.OTHER: "the Hub was asked in vain ({reason})",
}
_WRITING = {
    _Cause.OFFLINE: "HF_HUB_OFFLINE is set, and the Hub cannot be asked: unset it",
    _Cause.NAME: "--repo_id {repo_id} cannot be the name of a repository ({reason}): it is user/name",
    _Cause.TOKEN: _READING[_Cause.TOKEN],
    _Cause.NO_RIGHT: "the access token has no right to write to {repo_id} ({reason}): use one that has, another "
    "--repo_id, or --create_pr",
    _Cause.NOT_FOUND: "the Hub has no {repo_id}, or no such --revision ({reason}): check the names",
    _Cause.CONFLICT: "somebody else is changing {repo_id} ({reason}): try again",
    _Cause.SERVER: "the Hub failed ({reason}): nothing was changed, try again later",
    _Cause.REFUSED: "the Hub refuses {repo_id} ({reason})",
    _Cause.OTHER: "the Hub at {endpoint} cannot be reached, or the connection broke ({reason}): try again",
}
_OF_STATUS = {
    401: _Cause.TOKEN,
    403: _Cause.NO_RIGHT,
    404: _Cause.NOT_FOUND,
    409: _Cause.CONFLICT,
    412: _Cause.CONFLICT,
}


def explain_hub_error(
    error: BaseException, repo_id: str, kind: Literal["dataset", "model"], *, writing: bool = False
) -> str:
    """
    Why the Hub refused a request for `repo_id`, and what to do: a sentence, or the end of one, without a full stop.

    Args:
        error: what huggingface_hub raised; an error of no known cause is quoted.
        kind: what was to be read, which also decides the address of the page.
        writing: whether the repository was to be made or written to, and not read.
    """
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:  # nothing is cached, and why
        return explain_hub_error(error.__cause__, repo_id, kind, writing=writing)
    sentences = _WRITING if writing else _READING
    cause = next(cause for cause in _causes(error) if cause in sentences)
    return sentences[cause].format(
        kind=kind,
        repo_id=repo_id,
        reason=first_line(error),
        endpoint=constants.ENDPOINT,
        address=f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo_id}",
        cache=constants.HF_HUB_CACHE,
        cache_refused=cannot_be_written(error, "HF_HUB_CACHE") if is_cache_error(error, constants.HF_HUB_CACHE) else "",
    )


def _causes(error: BaseException) -> Iterator[_Cause]:
    """Causes that an error may have, the most specific first: by the Hub's own code, then by the HTTP status."""
    kinds = {
        OfflineModeIsEnabled: _Cause.OFFLINE,
        HFValidationError: _Cause.NAME,
        GatedRepoError: _Cause.GATED,  # a RepositoryNotFoundError too
        RepositoryNotFoundError: _Cause.NO_REPOSITORY,
        RevisionNotFoundError: _Cause.NO_REVISION,
    }
    yield from (cause for kind, cause in kinds.items() if isinstance(error, kind))
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    if status is not None:
        yield _Cause.SERVER if status >= 500 else _OF_STATUS.get(status, _Cause.REFUSED)
        yield _Cause.REFUSED
    elif is_cache_error(error, constants.HF_HUB_CACHE):
        yield _Cause.CACHE
    elif isinstance(error, HTTPError | ConnectionError | TimeoutError | LocalEntryNotFoundError):
        yield _Cause.CONNECTION
    yield _Cause.OTHER


def is_cache_error(error: BaseException, cache: str | os.PathLike) -> TypeGuard[OSError]:
    """Whether the file system refused a file or folder in a cache, or on the way to it."""
    if not isinstance(error, OSError) or error.filename is None:
        return False
    place, refused = Path(cache).expanduser().absolute(), Path(os.fsdecode(error.filename)).absolute()
    return place == refused or place in refused.parents or refused in place.parents


def cannot_be_written(error: OSError, variable: str) -> str:
    """The end of a sentence on a cache: the file system's reason, and the environment variable to set."""
    return f"cannot be written to ({error.strerror}): set {variable}, or HF_HOME, to a folder that can"
