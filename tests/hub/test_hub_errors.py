"""What went wrong with the Hub: of each cause a sentence for who reads, and one for who writes."""

from types import SimpleNamespace

import pytest
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

from slimresnet.hub_errors import explain_hub_error


def answer(kind, status):
    """An error of the Hub's, as huggingface_hub makes it of an answer."""
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind("the Hub says so", response=response)


def full_disk():
    return OSError(28, "No space left on device", f"{constants.HF_HUB_CACHE}/models--user--name/blobs/1")


CAUSES = {
    "offline": (OfflineModeIsEnabled("no"), "HF_HUB_OFFLINE is set, so that", "HF_HUB_OFFLINE is set, and the Hub"),
    "name": (HFValidationError("a/b/c"), "it cannot be the name of a model", "--repo_id user/name cannot be the name"),
    "gated": (answer(GatedRepoError, 403), "the Hub gives it only to those", "the access token has no right to write"),
    "absent": (answer(RepositoryNotFoundError, 404), "the Hub has no model of that", "the Hub has no user/name, or no"),
    "hidden": (
        answer(RepositoryNotFoundError, 401),
        "the Hub has no model of that",
        "the Hub does not know the access",
    ),
    "revision": (answer(RevisionNotFoundError, 404), "the Hub has no such revision", "the Hub has no user/name, or no"),
    "token": (answer(HfHubHTTPError, 401), "the Hub does not know the access", "the Hub does not know the access"),
    "right": (answer(HfHubHTTPError, 403), "the Hub was asked in vain", "the access token has no right to write to us"),
    "conflict": (answer(HfHubHTTPError, 409), "the Hub was asked in vain", "somebody else is changing user/name"),
    "refused": (answer(HfHubHTTPError, 400), "the Hub was asked in vain", "the Hub refuses user/name ("),
    "server": (answer(HfHubHTTPError, 503), "the Hub failed (", "the Hub failed ("),
    "cache": (full_disk(), "the cache of the Hub, ", "the Hub at http"),
    "connection": (HTTPError("no route"), "the Hub at http", "the Hub at http"),
    "other": (RuntimeError("a riddle"), "the Hub was asked in vain (RuntimeError: a riddle)", "the Hub at http"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_has_its_sentences(cause):
    error, reading, writing = CAUSES[cause]
    said = explain_hub_error(error, "user/name", "model"), explain_hub_error(error, "user/name", "model", writing=True)
    assert said[0].startswith(reading) and said[1].startswith(writing)
    assert not any("{" in each or "\n" in each or each.endswith(".") for each in said)


def test_what_kept_a_file_from_the_cache_is_what_is_told():
    error = LocalEntryNotFoundError("not cached")
    error.__cause__ = answer(RevisionNotFoundError, 404)
    assert f"a commit that {constants.ENDPOINT}/datasets/a/b has" not in explain_hub_error(error, "a/b", "model")
    assert explain_hub_error(error, "a/b", "dataset").endswith(f"commit that {constants.ENDPOINT}/datasets/a/b has")
