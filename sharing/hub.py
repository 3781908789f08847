"""A finished folder on its way to the Hub: what goes, whether it may go, and one commit that brings it there."""

from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, ModelCard, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import get_token

from evaluation.backends import EXPORTS_NAME, TORCH_EXPORT_FILE
from evaluation.trained import ModelError, check_finite, load_model, load_normalize, read_json
from training.output_dir import RECIPE_NAME, RESULTS_NAME

from .model_card import CARD_NAME, eval_results, is_edited, render_model_card
from .shared_recipe import shared_recipe

# Whatever else lies in the folder, checkpoints and logs above all, stays at home.
_SHARED = (
    CARD_NAME, "config.json", "model.safetensors", "preprocessor_config.json", "configuration_slimresnet.py",
    "modeling_slimresnet.py", RECIPE_NAME, RESULTS_NAME, "trainer_state.json", "*_details.json",
    "*_corruptions.json", "figures/*.png",
)  # fmt: skip
_EXPORTED = ("onnx/*.onnx", TORCH_EXPORT_FILE, EXPORTS_NAME)
_NEEDED = (
    "config.json", "model.safetensors", "preprocessor_config.json", "configuration_slimresnet.py",
    "modeling_slimresnet.py", RECIPE_NAME, RESULTS_NAME,
)  # fmt: skip
_COMMIT_MESSAGES = {
    "model": "Weights, model code, card and figures of a finished run",
    "space": "A page that runs the network in the browser",
}
# HTTPError is httpx's, and stands for broken connections too; hf_xet raises RuntimeErrors.
_FAILURES = (HTTPError, HFValidationError, OSError, RuntimeError)


class HubError(Exception):
    """The folder is not on the Hub; the message, one line, says why and what to do."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def collect(
    folder: Path, repo_id: str, *, overwrite_card: bool = False, license: str | None = None
) -> dict[str, Path | bytes]:
    """
    What goes to the Hub, by its path there, and no path of this machine in it.

    The card is written anew unless a person edited it, and the recipe is the one for others.

    Args:
        license: of the weights, where it is other than the recipe's.

    Raises:
        HubError: the folder is not a finished run, its weights do not load, they or its figures are not finite, or the
            metadata of an edited card has other figures than its results, or another licence.
    """
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if missing:
        raise HubError(f"{folder} is not a finished run, it has no {', '.join(missing)}: name the folder of one.")
    exported = [file for pattern in _EXPORTED for file in sorted(folder.glob(pattern))]
    files: dict[str, Path | bytes] = {
        file.relative_to(folder).as_posix(): file for file in shared_files(folder) + exported
    }
    try:
        _check_network(folder)
        for name in files:
            if name.endswith(".json"):
                read_json(folder / name)
    except ModelError as error:
        raise HubError(f"{error} Nobody could use such a folder.") from error
    recipe = shared_recipe(folder, license)
    files[RECIPE_NAME] = recipe.to_yaml().encode()
    card = folder / CARD_NAME
    if overwrite_card or not is_edited(card):
        files[CARD_NAME] = render_model_card(folder, repo_id, license).encode()
    else:
        _check_metadata(folder, card, recipe.license)
    return files


def shared_files(folder: Path) -> list[Path]:
    """The files of a finished run that others get, without what export.py made of it."""
    return [file for pattern in _SHARED for file in sorted(folder.glob(pattern))]


def collect_page(folder: Path) -> dict[str, Path]:
    """
    What goes to a Space, by its path there.

    Raises:
        HubError: the folder is not a page that `demo.build` made.
    """
    if not (folder / "index.html").is_file() or not (folder / "about.json").is_file():
        raise HubError(f"{folder} is no page: make one with python -m demo.build MODEL --output_dir DIR.")
    return {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}


@torch.inference_mode()
def _check_network(folder: Path) -> None:
    """Loads what others will load, and runs it on an image of noise: weights may be finite and logits not."""
    model, normalize = load_model(folder), load_normalize(folder)
    size = model.config.image_size
    noise = torch.randint(0, 256, (1, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    check_finite(model(pixel_values=normalize(noise)).logits, ["an image of noise"])


def _check_metadata(folder: Path, card: Path, license: str | None) -> None:
    """Holds the metadata of a card that a person edited against the results, and against the licence asked for."""
    try:
        metadata = ModelCard.load(card).data
    except Exception as error:  # YAML's and huggingface_hub's own
        raise HubError(
            f"the metadata at the top of {card} cannot be read ({error}): correct it, or write the card anew with "
            "--overwrite_card."
        ) from error
    if license not in (None, metadata.get("license")):
        raise HubError(
            f"the licence is {license} by --license or {RECIPE_NAME}, but {card} was edited by hand and says "
            f"{metadata.get('license')}: give that as --license, change it there, or write the card anew with "
            "--overwrite_card."
        )

    def place(each: EvalResult) -> tuple[str, str | None, str | None]:
        return each.dataset_type, each.dataset_split, each.metric_name

    measured = {place(each): each.metric_value for each in eval_results(folder)}
    for each in metadata.eval_results or []:
        value = measured.get(place(each))
        if value != each.metric_value:
            raise HubError(
                f"{card} claims {each.metric_name} {each.metric_value} on {each.dataset_split} of "
                f"{each.dataset_type}, where {folder / RESULTS_NAME} has {value}: correct it, or write the card anew "
                "with --overwrite_card."
            )


def push(
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

    A second push of the same files changes nothing, so that one which failed can be tried again.

    Args:
        files: by their path in the repository.
        private: makes a new repository private; an existing one has to be so already.
        revision: the branch; by default main.
        create_pr: as a pull request, for a repository of others.
        repo_type: `"space"` for a static page.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        HubError: it cannot be done.
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
        raise explain(error, repo_id) from error
    return commit.pr_url or commit.commit_url


def create_repository(repo_id: str, *, private: bool = False, repo_type: Literal["model", "space"] = "model") -> None:
    """
    Makes a repository where there is none, which also shows that the token may write to it.

    Raises:
        HubError: it cannot be made.
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
        raise explain(error, repo_id) from error


def explain(error: Exception, repo_id: str) -> HubError:
    """What went wrong between here and the Hub, and what to do about it; `error` is one of `_FAILURES`."""
    if isinstance(error, OfflineModeIsEnabled):
        return HubError("HF_HUB_OFFLINE is set, and the Hub cannot be asked: unset it.")
    if isinstance(error, HFValidationError):
        return HubError(f"--repo_id {repo_id} cannot be the name of a repository ({error}): it is user/name.")
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if status == 401:
        return HubError(f"the Hub does not know the access token ({reason}): log in anew with `hf auth login`.")
    if status == 403:
        return HubError(
            f"the access token has no right to write to {repo_id} ({reason}): use one that has, another --repo_id, or "
            "--create_pr."
        )
    if status == 404:
        return HubError(f"the Hub has no {repo_id}, or no such --revision ({reason}): check the names.")
    if status in (409, 412):
        return HubError(f"somebody else is changing {repo_id} ({reason}): try again.")
    if status is not None and status >= 500:
        return HubError(f"the Hub failed ({reason}): nothing was changed, try again later.")
    if status is not None:
        return HubError(f"the Hub refuses {repo_id} ({reason}).")
    return HubError(
        f"the Hub at {constants.ENDPOINT} cannot be reached, or the connection broke ({reason}): try again."
    )
