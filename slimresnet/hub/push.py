"""A finished folder on its way to the Hub: what goes, whether it may go, and one commit that brings it there."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Literal

import torch
from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, ModelCard, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import get_token

from slimresnet.errors import SlimResNetError
from slimresnet.formats.registry import exported_files
from slimresnet.formats.trained import ModelError, check_finite, explain_unfinished, load_model, load_normalize
from slimresnet.hub.card import eval_results, is_edited, render_model_card
from slimresnet.hub.shared_recipe import shared_recipe
from slimresnet.run_folder.changes import is_written_here
from slimresnet.run_folder.names import CARD_NAME, EXPORTS_NAME, RECIPE_NAME, RESULTS_NAME
from slimresnet.run_folder.reading import read_json
from slimresnet.run_folder.writing import FolderError

# Whatever else lies in the folder, checkpoints, logs and other people's files, stays at home.
_SHARED = (
    CARD_NAME, "config.json", "model.safetensors", "preprocessor_config.json", "configuration_slimresnet.py",
    "modeling_slimresnet.py", RECIPE_NAME, RESULTS_NAME, "trainer_state.json", "figures/curves.png",
    "figures/learning_rate.png", "figures/training_samples.png",
)  # fmt: skip
# A split each, which stands before them, as it does in the names of its figures in the results.
_SCORES = (
    "_details.json", "_corruptions.json", "_confusion_matrix.png", "_classes.png", "_reliability.png", "_mistakes.png",
)  # fmt: skip
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


class HubError(SlimResNetError):
    """The folder is not on the Hub; the message, one line, says why and what to do."""


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
    if missing and (reason := explain_unfinished(folder)):
        raise HubError(reason)
    if missing:
        raise HubError(f"{folder} is not a finished run, it has no {', '.join(missing)}: name the folder of one.")
    exports = (*exported_files(), EXPORTS_NAME)
    try:
        exported = [file for file in _written_here(folder, (folder / name for name in exports)) if file.is_file()]
        files: dict[str, Path | bytes] = {
            file.relative_to(folder).as_posix(): file for file in shared_files(folder) + exported
        }
        _refuse_links(folder, dict.fromkeys((*_SHARED, *exports, *files)))
        _check_network(folder)
        for name in files:
            if name.endswith(".json"):
                read_json(folder / name)
        recipe = shared_recipe(folder, license)
        files[RECIPE_NAME] = recipe.to_yaml().encode()
        card = folder / CARD_NAME
        if overwrite_card or not is_edited(card):
            files[CARD_NAME] = render_model_card(folder, repo_id, license).encode()
        else:
            _check_metadata(folder, card, recipe.license)
    except (ModelError, FolderError) as error:
        raise HubError(f"{error} Nobody could use such a folder.") from error
    return files


def shared_files(folder: Path) -> list[Path]:
    """
    The files of a finished run that others get, without what export.py made of it.

    Of scores those of splits that the results tell of. A link is one of them where it stays in the folder, or in the
    Hub's cache that the folder is a part of.

    Raises:
        ModelError: the results cannot be read.
    """
    results = read_json(folder / RESULTS_NAME)
    scores = [
        file
        for suffix in _SCORES
        for file in sorted(folder.glob(f"figures/*{suffix}" if suffix.endswith(".png") else f"*{suffix}"))
        if any(name.startswith(file.name.removesuffix(suffix) + "_") for name in results)
    ]
    home = folder.resolve()
    blobs = home.parent.parent / "blobs"
    return [
        file
        for file in _written_here(folder, [*(folder / name for name in _SHARED), *scores])
        if file.is_file() and (file.resolve().is_relative_to(home) or file.resolve().parent == blobs)
    ]


def _written_here(folder: Path, files: Iterable[Path]) -> list[Path]:
    """Without what a person put beside them; but the card is the person's to write."""
    names = {file: file.relative_to(folder).as_posix() for file in files}
    return [file for file, name in names.items() if name == CARD_NAME or is_written_here(folder, name)]


def collect_page(folder: Path) -> dict[str, Path]:
    """
    What goes to a Space, by its path there: the files that `demo.build` wrote, as its `about.json` lists them.

    Raises:
        HubError: the folder is not a page that `demo.build` made, or no longer, or it holds links.
    """
    names = read_json(folder / "about.json").get("files")
    if not isinstance(names, list) or not all(isinstance(name, str) and _is_below(name) for name in names):
        raise HubError(
            f"{folder} has no about.json that lists its files, and is no page: make one with python -m demo.build "
            "MODEL --output_dir DIR."
        )
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise HubError(f"{folder} lacks {', '.join(missing)}, which demo.build wrote there: make it anew.")
    files = {name: folder / name for name in names}
    _refuse_links(folder, files)
    return files


def _is_below(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _refuse_links(folder: Path, names: Iterable[str]) -> None:
    """What a link points to was not written here, and may be anybody's."""
    links = [name for name in names if any(each.is_symlink() for each in _way(folder, name))]
    if links:
        raise HubError(
            f"{folder} holds links, which are not followed ({', '.join(links)}): put the files themselves in their "
            "place."
        )


def _way(folder: Path, name: str) -> list[Path]:
    """A file in a folder, and the folders between the two."""
    path = PurePosixPath(name)
    return [folder / each for each in (path, *path.parents[:-1])]


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
