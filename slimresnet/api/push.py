"""A finished folder on its way to the Hub."""

from pathlib import Path
from typing import Literal

from slimresnet.hub.files import collect, collect_page
from slimresnet.hub.upload import check_repository_name, upload
from slimresnet.hub_errors import HubError
from slimresnet.run_folder.ownership import prepare_to_read, refuse_if_owned


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    license: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    overwrite_card: bool = False,
    space: bool = False,
    dry_run: bool = False,
) -> str | None:
    """
    Checks a finished folder, prints its files and their sizes, and brings them to the Hub in one commit.

    Args:
        folder: folder of a finished run, or of trained weights that another program wrote; with `space`, a page that
            `demo.build` made.
        repo_id: the repository, as user/name; made where it is missing.
        private: makes a new repository private.
        license: licence of the weights, as the Hub names it; None for the licence in the recipe.
        revision: branch, which is made where it is missing; None for main.
        create_pr: opens a pull request in a repository of others.
        overwrite_card: writes the model card anew though a person edited it.
        space: makes a static Space of a page.
        dry_run: checks, and sends nothing; needs no network.

    Returns:
        The address of the commit, or of the pull request; None of a dry run.

    Raises:
        HubError: the folder is not one to share, or the Hub refuses it.
        FolderError: another process is at work in the folder.
    """
    check_repository_name(repo_id)
    folder = Path(folder)
    refuse_if_owned(folder)
    prepare_to_read(folder)
    files: dict[str, Path | bytes] = {}
    if space:
        for flag, value in (("overwrite_card", overwrite_card), ("license", license)):
            if value:
                raise HubError(f"--{flag} is for a run's model card, and a page of --space has none: leave it out.")
        files.update(collect_page(folder))
    else:
        files.update(collect(folder, repo_id, overwrite_card=overwrite_card, license=license))
    _list(files)
    if dry_run:
        return None
    repo_type: Literal["model", "space"] = "space" if space else "model"
    return upload(files, repo_id, private=private, revision=revision, create_pr=create_pr, repo_type=repo_type)


def _list(files: dict[str, Path | bytes]) -> None:
    sizes = {
        path: len(content) if isinstance(content, bytes) else content.stat().st_size for path, content in files.items()
    }
    for path, size in sizes.items():
        print(f"{size:>12,} bytes  {path}")
    print(f"{sum(sizes.values()):>12,} bytes  in {len(sizes)} files")
