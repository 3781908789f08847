"""The way to the Hub: a repository, and one commit that brings files there."""

from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import get_token, validate_repo_id

from slimresnet.hub_errors import HubError, explain_hub_error

_COMMIT_MESSAGES = {
    "model": "Weights, model code, card and figures of a finished run",
    "space": "A page that runs the network in the browser",
}
# HTTPError is the HTTP client's, and stands for broken connections too. hf_xet raises RuntimeErrors.
_FAILURES = (HTTPError, HFValidationError, OSError, RuntimeError)


def upload(
    files: dict[str, Path | bytes],
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    repo_type: Literal["model", "space"] = "model",
) -> str:
    """
    Brings files to the Hub in one commit; the repository and the branch are made where they are missing.

    A second upload of the same files changes nothing, so that one which failed can be tried again.

    Args:
        files: by their path in the repository.
        private: makes a new repository private; an existing one has to be so already.
        revision: the branch; by default main.
        create_pr: whether to open a pull request, for a repository of others.
        repo_type: `"space"` for a static page.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        HubError: the upload fails.
    """
    api = HfApi()
    if not create_pr:
        create_repository(repo_id, private=private, repo_type=repo_type)
    try:
        if private and not api.repo_info(repo_id, repo_type=repo_type).private:
            raise HubError(f"--repo_id {repo_id} is public, and --private is for new ones: change it in its settings.")
        if revision and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True, repo_type=repo_type)
        commit = api.create_commit(
            repo_id,
            [CommitOperationAdd(path, content) for path, content in files.items()],
            commit_message=_COMMIT_MESSAGES[repo_type],
            repo_type=repo_type,
            revision=revision,
            create_pr=create_pr,
        )
    except _FAILURES as error:
        raise _refusal(error, repo_id) from error
    return commit.pr_url or commit.commit_url


def create_repository(repo_id: str, *, private: bool = False, repo_type: Literal["model", "space"] = "model") -> None:
    """
    Makes a repository where there is none, which also shows that the token may write to it.

    Raises:
        HubError: the repository cannot be made.
    """
    if get_token() is None:
        raise HubError("there is no access token: log in with `hf auth login`, or set HF_TOKEN.")
    try:
        HfApi().create_repo(
            repo_id,
            private=private or None,
            exist_ok=True,
            repo_type=repo_type,
            space_sdk="static" if repo_type == "space" else None,
        )
    except _FAILURES as error:
        raise _refusal(error, repo_id) from error


def check_repository_name(repo_id: str) -> None:
    """
    Looks at a name before anything is collected; needs no network.

    Raises:
        HubError: no repository can have it.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise _refusal(error, repo_id) from error


def _refusal(error: Exception, repo_id: str) -> HubError:
    return HubError(f"{explain_hub_error(error, repo_id, 'model', writing=True)}.")
