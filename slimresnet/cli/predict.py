"""Predict classes: python predict.py MODEL INPUT … [--output FILE.csv] [--tta …] [--threshold X] [--embeddings FILE]"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from slimresnet.api.arguments import check_precision
from slimresnet.api.predict import IDS, LABELS, PREDICTION_PRECISIONS, Asked, write_predictions
from slimresnet.api.prediction_files import MOST_ROWS, UNKNOWN, UNKNOWN_NAME
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
from slimresnet.data.sources.lists import PREDICTION_COLUMNS
from slimresnet.errors import SlimResNetError
from slimresnet.evaluation.thresholds import PRECISIONS
from slimresnet.recipe.checks import RecipeError
from slimresnet.run_folder.console import tolerant_output

# Flags that say how the CSV is written, with their defaults.
_OF_CSV = {"labels": LABELS[0], "probabilities": False, "columns": PREDICTION_COLUMNS}


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `words` stand for it in Python."""
    parser = Parser(description=__doc__, synonyms=SYNONYMS)
    add_model(parser)
    parser.add_argument(
        "input",
        nargs="+",
        metavar="INPUT",
        help="An image file, a folder of them or of Parquet, a pattern such as 'more/*.png', a dataset on the Hub, or "
        "a Kaggle pickle; several of them are predicted one after the other. Grey images of 16 bits are scaled to 8, "
        "as in training; transformers' pipeline cuts them off at 255 of 65,535.",
    )
    _add_data_flags(parser)
    network = parser.add_argument_group("network")
    add_network_flags(network)
    add_precision_flag(network, PREDICTION_PRECISIONS)
    add_batch_size_flag(network, from_recipe=False)
    add_tta_flag(network)
    _add_output_flags(parser)
    arguments = parser.parse_args(words)
    try:
        check_precision(arguments.backend, arguments.mixed_precision)
    except RecipeError as error:
        parser.error(str(error))
    idle = [name for name, default in _OF_CSV.items() if getattr(arguments, name) != default]
    if idle and arguments.output is None:
        parser.error(f"--{idle[0]} is for the CSV of --output, and the table has all of it: add --output FILE.csv")
    return arguments


def _add_data_flags(parser: Parser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument(
        "--split", help="Split of INPUT, where that is a dataset; by default the one that it has, or of several test."
    )
    add_data_flags(data, ["dataset_config_name", "image_column_name"], from_recipe=False)
    data.add_argument("--id_column_name", help="Column that names the rows of a dataset; by default their numbers.")
    data.add_argument(
        "--id",
        choices=IDS,
        default=IDS[0],
        help="What an image file is called: its path, or the stem of its name, 17 for test/17.png; by default path.",
    )
    data.add_argument(
        "--natural_order",
        action="store_true",
        help="Take files in the order of the numbers in their names, 2.png before 10.png.",
    )
    data.add_argument("--skip_errors", action="store_true", help="List images that cannot be decoded, and go on.")


def _add_output_flags(parser: Parser) -> None:
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        type=Path,
        help="The CSV to write, a row an image; - is standard output. A name that a spreadsheet would take for a "
        "formula, or that begins with an apostrophe, gets an apostrophe before it. Without any file, a table of the "
        f"first {MOST_ROWS} images is printed.",
    )
    output.add_argument(
        "--labels", choices=LABELS, default=LABELS[0], help="What stands for a class in the CSV; by default numbers."
    )
    output.add_argument("--probabilities", action="store_true", help="Add a column for each class to the CSV.")
    output.add_argument(
        "--columns",
        nargs=2,
        default=PREDICTION_COLUMNS,
        metavar=("ID", "LABEL"),
        help=f"Headings of the CSV; by default {' '.join(PREDICTION_COLUMNS)}. For Kaggle's CIFAR-10: --columns id "
        "label --labels names --id stem --natural_order.",
    )
    output.add_argument(
        "--threshold",
        type=float,
        help=f"Probability that a class has to reach; below it the class is {UNKNOWN_NAME}, and its number {UNKNOWN}. "
        "A network of several classes an image gives each that reaches it; by default the threshold of its run.",
    )
    output.add_argument(
        "--target_precision",
        type=float,
        choices=PRECISIONS,
        help="Take the threshold that gave this share of right answers on the held-out images of MODEL's run.",
    )
    output.add_argument(
        "--embeddings",
        type=Path,
        default=False,
        metavar="FILE",
        help="Write the pooled features of each image to this Parquet file; with --tta they are the mean of the views.",
    )


@tolerant_output()
def main() -> None:
    """Runs; a mistake in the input ends in one sentence and exit code 1."""
    disable_progress_bar()  # transformers': loading takes no time
    try:
        write_predictions(Asked(**vars(parse())))
    except SlimResNetError as error:
        sys.exit(f"predict.py: error: {error}")


if __name__ == "__main__":
    main()
