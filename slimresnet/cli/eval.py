"""Score a trained model: python eval.py MODEL [--split test|validation|…] [--tta none|flip|flip_shift|paper]"""

import argparse
import os
import sys
from collections.abc import Sequence

from transformers.utils.logging import disable_progress_bar

from slimresnet.api.evaluate import SCORING_PRECISIONS, evaluate
from slimresnet.cli import flags
from slimresnet.cli.parser import Parser
from slimresnet.errors import SlimResNetError
from slimresnet.evaluation.protocol import Evaluation
from slimresnet.evaluation.shift import EXTRA, STANDARD
from slimresnet.evaluation.tta import best_policy
from slimresnet.recipe.launch import leave_group
from slimresnet.run_folder.console import tolerant_output


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `words` stand for it in Python."""
    parser = Parser(description=__doc__, synonyms=flags.SYNONYMS)
    flags.add_model(parser)
    data = parser.add_argument_group("data", flags.FROM_RECIPE)
    flags.add_data_flags(data, from_recipe=True)
    data.add_argument("--max_eval_samples", type=int, help="Score at most this many images, drawn by the seed.")
    scoring = parser.add_argument_group("scoring")
    scoring.add_argument(
        "--split",
        help="Split to score; by default the one that the run was tested on. held_out is the images that the run held "
        "out of its training, and so is validation where the data has no split of that name.",
    )
    scoring.add_argument(
        "--shift",
        metavar=f"{STANDARD}|{EXTRA}|FOLDER",
        help=f"Score shifted images: {STANDARD} is the split under the 15 corruptions of CIFAR-10-C in 5 severities, "
        f"{EXTRA} is the split under its 4 extra ones, FOLDER has the .npy files of CIFAR-10-C or CIFAR-10.1. Choices "
        f"are for --split validation, and best made with {EXTRA}, so that the 15 stay a test.",
    )
    scoring.add_argument(
        "--frost_folder",
        help=f"Photographs of frost for --shift {STANDARD}, laid over the images as they are, without scaling: shrink "
        "those of CIFAR-10-C to a fifth, as its authors do. By default synthetic_frost stands in for frost.",
    )
    flags.add_tta_flag(scoring)
    scoring.add_argument(
        "--compare_tta", action="store_true", help="Score every policy of --tta; for --split validation or held_out."
    )
    network = parser.add_argument_group("network")
    flags.add_network_flags(network)
    flags.add_precision_flag(network, SCORING_PRECISIONS)
    flags.add_batch_size_flag(network, from_recipe=True)
    output = parser.add_argument_group("output")
    output.add_argument("--output_dir", help="Folder that gets the figures and their pictures, such as MODEL.")
    return parser.parse_args(words)


def print_scores(found: Evaluation) -> None:
    """Policies that were compared, then figures, a line each."""
    for details in found.details.values():
        if "tta" in details:
            for name, share in details["tta"].items():
                print(f"{name:{max(map(len, details['tta']))}}  {share:.2%}")
            print(f"best on validation: --tta {best_policy(details['tta'])}")
    for name, value in found.results.items():
        print(f"{name} = {value:.4f}" if isinstance(value, float) else f"{name} = {value}")


@tolerant_output()
def main() -> None:
    """Runs; a mistake in the input ends in one sentence and exit code 1."""
    disable_progress_bar()  # transformers': loading takes no time
    try:
        evaluate(**vars(parse()), on_scored=print_scores)
        leave_group()
    except SlimResNetError as error:
        sys.exit(f"eval.py: error: {error}" if os.environ.get("LOCAL_RANK", "0") == "0" else 1)


if __name__ == "__main__":
    main()
