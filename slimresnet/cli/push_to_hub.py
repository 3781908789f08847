"""Bring a finished run to the Hub: python push_to_hub.py DIR --repo_id user/name [--private] [--dry_run] …"""

import argparse
import sys
from collections.abc import Sequence

from transformers.utils.logging import disable_progress_bar

from slimresnet.api.push import push
from slimresnet.cli.parser import Parser
from slimresnet.errors import SlimResNetError
from slimresnet.run_folder.console import tolerant_output

_SYNONYMS = {"branch": "revision", "dry": "dry_run", "hub_model_id": "repo_id", "licence": "license", "repo": "repo_id"}


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `words` stand for it in Python."""
    parser = Parser(description=__doc__, synonyms=_SYNONYMS)
    parser.add_argument(
        "folder",
        metavar="DIR",
        help="The --output_dir of a finished run, or of a page; or what Trainer or save_pretrained wrote.",
    )
    content = parser.add_argument_group("what goes")
    content.add_argument("--space", action="store_true", help="DIR is a page of demo.build: make it a static Space.")
    content.add_argument(
        "--license", help="Licence of the weights, as the Hub names it; by default what the recipe says, or none."
    )
    content.add_argument(
        "--overwrite_card", action="store_true", help="Write the model card anew though it was edited."
    )
    place = parser.add_argument_group("where it goes")
    place.add_argument("--repo_id", required=True, help="The repository, as user/name; made if it is not there.")
    place.add_argument("--private", action="store_true", help="Make a new repository private.")
    place.add_argument("--revision", help="Branch of the repository, by default main; made if it is not there.")
    place.add_argument("--create_pr", action="store_true", help="Open a pull request in a repository that is there.")
    place.add_argument("--dry_run", action="store_true", help="Check, and print what would go; needs no network.")
    return parser.parse_args(words)


@tolerant_output()
def main() -> None:
    """Runs; what stands in the way is told in one sentence, with exit code 1."""
    disable_progress_bar()  # transformers': loading takes no time
    arguments = parse()
    try:
        address = push(**vars(arguments))
    except SlimResNetError as error:
        sys.exit(f"push_to_hub.py: error: {error}")
    print(address or f"nothing was sent to {arguments.repo_id}: --dry_run")


if __name__ == "__main__":
    main()
