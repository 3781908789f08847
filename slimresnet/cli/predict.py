"""Predict classes: python predict.py MODEL INPUT --output FILE.csv [--tta …] [--labels names] [--probabilities]"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers.utils.logging import disable_progress_bar

from slimresnet.data.sources.prediction import NamedImage, open_images
from slimresnet.data.sources.source import DatasetError
from slimresnet.errors import printable
from slimresnet.evaluation.spreadsheet import TableWriter
from slimresnet.evaluation.tta import POLICIES, VIEWS, average, views_of
from slimresnet.formats.backends import BACKENDS, open_network
from slimresnet.formats.trained import ModelError, check_finite, find_folder
from slimresnet.recipe.settings import RecipeError, check_range
from slimresnet.run_folder.console import tolerant_output
from slimresnet.run_folder.writing import FolderError, check_output_file, is_standard_output, open_output


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `words` stand for it in Python."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("model", help="A folder that train.py wrote, or a model on the Hub.")
    parser.add_argument(
        "input",
        help="An image file, a folder of them or of Parquet, a dataset on the Hub, or a Kaggle pickle. Grey images of "
        "16 bits are scaled to 8, as in training; transformers' pipeline cuts them off at 255 of 65,535.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="The CSV to write: ID,Labels and a row an image. A name that a spreadsheet would take for a formula, or "
        "that begins with an apostrophe, gets an apostrophe before it.",
    )
    parser.add_argument("--backend", choices=BACKENDS, default="torch", help="What runs the network; by default torch.")
    parser.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="Run code that MODEL brings, for --backend torch_export: its file is made of pickles.",
    )
    parser.add_argument("--quantized", action="store_true", help="Run the int8 file that export.py made.")
    parser.add_argument("--tta", choices=POLICIES, default="none", help="Test-time augmentation.")
    parser.add_argument("--labels", choices=["numbers", "names"], default="numbers", help="By default numbers.")
    parser.add_argument("--probabilities", action="store_true", help="Add a column for each class.")
    parser.add_argument("--skip_errors", action="store_true", help="List images that cannot be decoded, and go on.")
    parser.add_argument("--split", default="test", help="Of a dataset; by default test.")
    parser.add_argument("--dataset_config_name", help="Of a dataset, if it has several configurations.")
    parser.add_argument("--image_column_name", help="Of a dataset; by default the only column of images.")
    parser.add_argument("--per_device_eval_batch_size", type=int, default=128, help="Images at once; 128 by default.")
    parser.add_argument("--mixed_precision", choices=["no", "bf16"], default="no", help="By default no.")
    arguments = parser.parse_args(words)
    check_range("per_device_eval_batch_size", arguments.per_device_eval_batch_size)
    if arguments.backend != "torch" and arguments.mixed_precision != "no":
        parser.error(f"--mixed_precision is for --backend torch, not for {arguments.backend}")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Writes the CSV; what stood there before stays until the new one is complete."""
    check_output_file("--output", arguments.output)
    folder = find_folder(arguments.model)
    model, normalize = open_network(
        folder, arguments.backend, quantized=arguments.quantized, trust_remote_code=arguments.trust_remote_code
    )
    names = [printable(model.config.id2label[index]) for index in range(model.config.num_labels)]
    images = open_images(
        arguments.input,
        model.config.image_size,
        split=arguments.split,
        config_name=arguments.dataset_config_name,
        image_column=arguments.image_column_name,
    )
    if images.passed_over:
        print(images.passed_over, file=sys.stderr)
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    model.to(device, memory_format=torch.channels_last)
    skipped: list[NamedImage] = []
    # disable=None: no bar where the output is no terminal
    stream = decoded(
        tqdm(images.stream, total=images.count, unit="image", disable=None), arguments.skip_errors, skipped
    )

    count = 0
    with open_output(arguments.output) as file:
        table = TableWriter(file)
        table.write(["ID", "Labels", *(names if arguments.probabilities else [])])
        while batch := list(islice(stream, arguments.per_device_eval_batch_size)):
            pixels = torch.from_numpy(np.stack([image.pixels for image in batch])).permute(0, 3, 1, 2)
            with torch.autocast(device.type, torch.bfloat16, enabled=arguments.mixed_precision == "bf16"):
                logits = predict(model, normalize, pixels.to(device), arguments.tta)
            check_finite(logits, [image.name for image in batch])
            # Not of the probabilities, which are equal where logits are close.
            labels = logits.argmax(dim=1).tolist()
            for image, label, shares in zip(batch, labels, logits.softmax(dim=1).tolist(), strict=True):
                numbers = [f"{share:.6f}" for share in shares] if arguments.probabilities else []
                table.write([image.name, names[label] if arguments.labels == "names" else str(label), *numbers])
            count += len(batch)
    # Not into the rows themselves, where these go to standard output.
    print(
        f"{arguments.output}: {count:,} rows", file=sys.stderr if is_standard_output(arguments.output) else sys.stdout
    )
    if skipped:
        print(f"left out, because they cannot be decoded: {len(skipped):,}", file=sys.stderr)
        for image in skipped:
            print(f"  {image.name}: {image.reason}", file=sys.stderr)


def decoded(stream: Iterator[NamedImage], skip_errors: bool, skipped: list[NamedImage]) -> Iterator[NamedImage]:
    """
    The images that have pixels; the others go to `skipped`.

    Raises:
        DatasetError: one has none, and errors are not to be skipped.
    """
    for image in stream:
        if image.pixels is not None:
            yield image
        elif skip_errors:
            skipped.append(image)
        else:
            raise DatasetError(
                f"image {image.name} of INPUT cannot be decoded ({image.reason}): repair or remove it, or leave such "
                "images out with --skip_errors."
            )


@torch.inference_mode()
def predict(model: nn.Module, normalize: Callable[[Tensor], Tensor], pixels: Tensor, policy: str) -> Tensor:
    """The mean logits of the policy's views, float32 `[B, num_labels]` on the CPU, of uint8 `[B, 3, H, W]`."""
    logits = {view: model(pixel_values=normalize(VIEWS[view](pixels))).logits.float() for view in views_of(policy)}
    return average(logits, POLICIES[policy]).cpu()


@tolerant_output()
def main() -> None:
    """Runs; a mistake in the input ends in one sentence and exit code 1."""
    disable_progress_bar()  # transformers': loading takes no time
    try:
        run(parse())
    except (DatasetError, ModelError, RecipeError, FolderError) as error:
        sys.exit(f"predict.py: error: {error}")


if __name__ == "__main__":
    main()
