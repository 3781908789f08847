"""Export a trained model: python export.py MODEL --format onnx|torch_export [--quantize int8] --output_dir DIR"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from slimresnet.api.export import export
from slimresnet.cli.flags import FROM_RECIPE, SYNONYMS, add_data_flags, add_model
from slimresnet.cli.parser import Parser
from slimresnet.errors import SlimResNetError
from slimresnet.formats.registry import format_choices, quantize_choices
from slimresnet.run_folder.console import tolerant_output


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `words` stand for it in Python."""
    parser = Parser(description=__doc__, synonyms=SYNONYMS)
    add_model(parser)
    formats = parser.add_argument_group("format")
    formats.add_argument(
        "--format", choices=format_choices(), default="onnx", help="Format of the file; by default onnx."
    )
    formats.add_argument(
        "--quantize", choices=quantize_choices(), help="Write a second, quantised file beside that in float32."
    )
    formats.add_argument(
        "--uint8_pixels",
        action="store_true",
        help="The file takes pixels of 0-255 as uint8 and normalises them itself.",
    )
    formats.add_argument("--opset", type=int, default=20, help="Version of ONNX's operators; by default 20.")
    formats.add_argument(
        "--calibration_samples",
        type=int,
        default=1024,
        help="Training images that --quantize takes its ranges from; by default 1024.",
    )
    data = parser.add_argument_group("data", f"Training images, which --quantize alone needs. {FROM_RECIPE}")
    add_data_flags(data, from_recipe=True)
    output = parser.add_argument_group("output")
    output.add_argument("--output_dir", type=Path, required=True, help="A new folder, or MODEL itself, to add to.")
    output.add_argument("--overwrite_output_dir", action="store_true", help="Replace exported files that are there.")
    return parser.parse_args(words)


@tolerant_output()
def main() -> None:
    """Runs; a mistake in the input ends in one sentence and exit code 1."""
    disable_progress_bar()  # transformers': loading takes no time
    try:
        arguments = parse()
        export(**vars(arguments))
        print(f"saved to {arguments.output_dir}")
    except SlimResNetError as error:
        sys.exit(f"export.py: error: {error}")


if __name__ == "__main__":
    main()
