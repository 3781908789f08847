"""Bring a finished run to the Hub: python push_to_hub.py DIR --repo_id user/name [--private] [--dry_run] …"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from slimresnet.formats.trained import ModelError
from slimresnet.hub.push import HubError, collect, collect_page, push
from slimresnet.recipe.settings import RecipeError
from slimresnet.run_folder.console import tolerant_output
from slimresnet.run_folder.ownership import prepare_to_read, refuse_if_owned
from slimresnet.run_folder.writing import FolderError


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `words` stand for it in Python."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", metavar="DIR", type=Path, help="The --output_dir of a finished run, or of a page.")
    parser.add_argument("--repo_id", required=True, help="The repository, as user/name; made if it is not there.")
    parser.add_argument("--space", action="store_true", help="DIR is a page of demo.build: make it a static Space.")
    parser.add_argument("--private", action="store_true", help="Make it private, if it is new.")
    parser.add_argument(
        "--license", help="Of the weights, as the Hub names it; by default what the recipe says, or none."
    )
    parser.add_argument("--revision", help="The branch; made if it is not there. By default main.")
    parser.add_argument("--create_pr", action="store_true", help="Open a pull request in a repository that is there.")
    parser.add_argument("--overwrite_card", action="store_true", help="Write the model card anew though it was edited.")
    parser.add_argument("--dry_run", action="store_true", help="Check, and print what would go; needs no network.")
    return parser.parse_args(words)


def run(arguments: argparse.Namespace) -> None:
    """Checks the folder, then pushes it in one commit; not one that another process is at work in."""
    refuse_if_owned(arguments.folder)
    prepare_to_read(arguments.folder)
    if arguments.space:
        for flag in ("overwrite_card", "license"):
            if getattr(arguments, flag):
                raise HubError(f"--{flag} is for a run's model card, and a page of --space has none: leave it out.")
        files = collect_page(arguments.folder)
    else:
        files = collect(
            arguments.folder, arguments.repo_id, overwrite_card=arguments.overwrite_card, license=arguments.license
        )
    sizes = {
        path: len(content) if isinstance(content, bytes) else content.stat().st_size for path, content in files.items()
    }
    for path, size in sizes.items():
        print(f"{size:>12,} bytes  {path}")
    print(f"{sum(sizes.values()):>12,} bytes  in {len(sizes)} files")
    if arguments.dry_run:
        print(f"nothing was sent to {arguments.repo_id}: --dry_run")
        return
    address = push(
        files,
        arguments.repo_id,
        private=arguments.private,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        repo_type="space" if arguments.space else "model",
    )
    print(address)


@tolerant_output()
def main() -> None:
    """Runs; what stands in the way is told in one sentence, with exit code 1."""
    disable_progress_bar()  # transformers': loading takes no time
    try:
        run(parse())
    except (HubError, ModelError, RecipeError, FolderError) as error:
        sys.exit(f"push_to_hub.py: error: {error}")


if __name__ == "__main__":
    main()
