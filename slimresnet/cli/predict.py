"""Predict classes: python predict.py MODEL INPUT --output FILE.csv [--tta …] [--labels names] [--probabilities]"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from slimresnet.api.arguments import check_precision
from slimresnet.api.predict import LABELS, PREDICTION_PRECISIONS, write_predictions
from slimresnet.cli.flags import (
    SYNONYMS,
    add_batch_size_flag,
    add_data_flags,
    add_model,
    add_network_flags,
    add_precision_flag,
    add_tta_flag,
)
from slimresnet.cli.parser import Parser
from slimresnet.errors import SlimResNetError
from slimresnet.recipe.checks import RecipeError
from slimresnet.run_folder.console import tolerant_output


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `words` stand for it in Python."""
    parser = Parser(description=__doc__, synonyms=SYNONYMS)
    add_model(parser)
    parser.add_argument(
        "input",
        metavar="INPUT",
        help="An image file, a folder of them or of Parquet, a dataset on the Hub, or a Kaggle pickle. Grey images of "
        "16 bits are scaled to 8, as in training; transformers' pipeline cuts them off at 255 of 65,535.",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--split", default="test", help="Split of INPUT, where that is a dataset; by default test.")
    add_data_flags(data, ["dataset_config_name", "image_column_name"], from_recipe=False)
    data.add_argument("--skip_errors", action="store_true", help="List images that cannot be decoded, and go on.")
    network = parser.add_argument_group("network")
    add_network_flags(network)
    add_precision_flag(network, PREDICTION_PRECISIONS)
    add_batch_size_flag(network, from_recipe=False)
    add_tta_flag(network)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        type=Path,
        required=True,
        help="The CSV to write: ID,Labels and a row an image. A name that a spreadsheet would take for a formula, or "
        "that begins with an apostrophe, gets an apostrophe before it.",
    )
    output.add_argument(
        "--labels", choices=LABELS, default="numbers", help="What stands for a class; by default numbers."
    )
    output.add_argument("--probabilities", action="store_true", help="Add a column for each class.")
    arguments = parser.parse_args(words)
    try:
        check_precision(arguments.backend, arguments.mixed_precision)
    except RecipeError as error:
        parser.error(str(error))
    return arguments


@tolerant_output()
def main() -> None:
    """Runs; a mistake in the input ends in one sentence and exit code 1."""
    disable_progress_bar()  # transformers': loading takes no time
    try:
        write_predictions(**vars(parse()))
    except SlimResNetError as error:
        sys.exit(f"predict.py: error: {error}")


if __name__ == "__main__":
    main()
