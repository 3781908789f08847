"""Export a trained model: python export.py MODEL --format onnx|torch_export [--quantize int8] --output_dir DIR"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from cifar10.randomness import sample_order
from cifar10.reading import DatasetError
from cifar10.splitting import stratified_split
from evaluation.backends import EXPORTS_NAME, ONNX_FILE, QUANTIZED_ONNX_FILE, TORCH_EXPORT_FILE, open_file
from evaluation.trained import (
    ModelError,
    check_finite,
    find_folder,
    fold_batchnorm,
    load_model,
    load_normalize,
    read_json,
    write_json,
)
from exporting.checking import agreement
from exporting.graphs import ExportError, LogitsOfPixels, export_onnx, export_torch
from exporting.quantization import quantize_int8
from sharing.hub import shared_files
from sharing.model_card import CARD_NAME, is_edited, write_model_card
from training.output_dir import RECIPE_NAME, read_recipe_with
from training.recipe import RecipeError
from training.setup import open_recipe_split

CHECK_SAMPLES = 512
_BATCH = 128
_FROM_RECIPE = (
    "dataset_name", "dataset_config_name", "dataset_revision", "image_column_name", "label_column_name",
)  # fmt: skip


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `words` stand for it in Python."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL", help="A folder that train.py wrote, or a model on the Hub.")
    parser.add_argument("--format", choices=["onnx", "torch_export"], default="onnx", help="By default onnx.")
    parser.add_argument("--quantize", choices=["int8"], help="Write the ONNX graph in int8 too.")
    parser.add_argument(
        "--uint8_pixels", action="store_true", help="The graph takes pixels of 0-255 as uint8 and normalises them."
    )
    parser.add_argument("--opset", type=int, default=20, help="Of ONNX; by default 20.")
    parser.add_argument(
        "--calibration_samples", type=int, default=1024, help="Training images that int8 takes its ranges from."
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="A new folder, or MODEL itself, to add to.")
    parser.add_argument("--overwrite_output_dir", action="store_true", help="Replace exported files that are there.")
    for name in _FROM_RECIPE:
        parser.add_argument(f"--{name}", help="As for train.py; by default what the model was trained on.")
    arguments = parser.parse_args(words)
    if arguments.quantize and arguments.format != "onnx":
        raise ExportError(f"--quantize is for --format onnx, not for {arguments.format}: leave one of them out.")
    if arguments.calibration_samples < 1:
        raise ExportError(f"--calibration_samples must be at least 1, got {arguments.calibration_samples}.")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Exports and checks in a folder of its own; `--output_dir` gets the files when all of them agree."""
    folder = find_folder(arguments.model)
    model, normalize = fold_batchnorm(load_model(folder)), load_normalize(folder)
    if arguments.format == "torch_export":
        names, backend = [TORCH_EXPORT_FILE], "torch_export"
    else:
        names, backend = [ONNX_FILE, *([QUANTIZED_ONNX_FILE] if arguments.quantize else [])], "onnxruntime"
    check_output_dir(arguments, folder, names)
    pixels = read_pixels(arguments, folder, model.config.image_size, CHECK_SAMPLES + arguments.calibration_samples)
    inputs = pixels if arguments.uint8_pixels else normalize(pixels)
    example = inputs[:2].clone()  # torch.export saves its storage, which a view shares with all the others
    module = LogitsOfPixels(model, normalize if arguments.uint8_pixels else None).eval()
    checked = inputs[:CHECK_SAMPLES].split(_BATCH)
    with torch.inference_mode():
        expected = torch.cat([module(batch) for batch in checked])
    check_finite(expected, [f"training image {number}" for number in range(len(expected))])

    with TemporaryDirectory() as staging:
        made = {name: Path(staging) / name for name in names}
        exports = read_json(arguments.output_dir / EXPORTS_NAME)
        for name, file in made.items():
            file.parent.mkdir(exist_ok=True)
            facts = {"pixel_values": str(inputs.dtype).removeprefix("torch.")}
            if name == TORCH_EXPORT_FILE:
                export_torch(module, example, file)
            elif name == ONNX_FILE:
                export_onnx(module, example, file, arguments.opset)
            else:
                calibration = inputs[CHECK_SAMPLES:]
                quantize_int8(made[ONNX_FILE], file, (batch.numpy() for batch in calibration.split(_BATCH)))
                facts["calibration_images"] = len(calibration)
            if arguments.format == "onnx":
                facts["opset"] = arguments.opset
            run_file = open_file(file, backend)
            logits = torch.cat([run_file(batch) for batch in checked])
            facts |= agreement(name, logits, expected, "int8" if name == QUANTIZED_ONNX_FILE else "float32")
            exports[name] = facts | {"bytes": file.stat().st_size}
            print(
                f"{name}: {file.stat().st_size:,} bytes; on {facts['checked_images']} training images the same class "
                f"as PyTorch for {facts['same_class']:.2%}, logits differ by {facts['largest_difference']:.2g} at most"
            )
        write(arguments.output_dir, folder, made, exports)


def check_output_dir(arguments: argparse.Namespace, folder: Path, names: list[str]) -> None:
    """
    Looks before anything is made.

    Raises:
        ExportError: the folder holds such files, or another model.
    """
    output_dir = arguments.output_dir
    if output_dir.exists() and not output_dir.is_dir():
        raise ExportError(f"--output_dir {output_dir} is a file: name a folder.")
    present = [name for name in names if (output_dir / name).exists()]
    if present and not arguments.overwrite_output_dir:
        raise ExportError(
            f"--output_dir {output_dir} holds {', '.join(present)}: name another folder, or replace them with "
            "--overwrite_output_dir."
        )
    theirs, ours = output_dir / "model.safetensors", folder / "model.safetensors"
    if theirs.exists() and theirs.read_bytes() != ours.read_bytes():
        raise ExportError(f"--output_dir {output_dir} holds another model than {folder}: name another folder.")


def read_pixels(arguments: argparse.Namespace, folder: Path, image_size: int, count: int) -> Tensor:
    """
    Images that the model was trained on, uint8 `[count, 3, image_size, image_size]` (fewer, if there are no more).

    Never those of validation or test: an exported file is scored on images that it was not made with.
    """
    recipe = read_recipe_with(folder, **{name: getattr(arguments, name) for name in _FROM_RECIPE})
    split = open_recipe_split(recipe, "train", image_size)
    rows, _ = stratified_split(split.labels, recipe.validation_size, recipe.seed)
    [pixels] = split.images.read([rows[sample_order(recipe.seed, 0, len(rows), len(rows))[:count]]])
    return pixels


def write(output_dir: Path, folder: Path, made: dict[str, Path], exports: dict[str, dict]) -> None:
    """Brings the exported files to the folder, with all that the trained one shares; renews its card."""
    files = dict(made)
    if output_dir.resolve() != folder.resolve():
        files |= {file.relative_to(folder).as_posix(): file for file in shared_files(folder)}
    if is_edited(output_dir / CARD_NAME):
        files.pop(CARD_NAME, None)
    for name, file in files.items():
        unfinished = output_dir / f"{name}.unfinished"
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, unfinished)
        os.replace(unfinished, output_dir / name)
    write_json(output_dir / EXPORTS_NAME, exports)
    if (output_dir / RECIPE_NAME).is_file():
        write_model_card(output_dir)


def main() -> None:
    """Runs; a mistake in the input ends in one sentence and exit code 1."""
    disable_progress_bar()  # transformers': loading takes no time
    try:
        arguments = parse()
        run(arguments)
        print(f"saved to {arguments.output_dir}")
    except (DatasetError, ExportError, ModelError, RecipeError) as error:
        sys.exit(f"export.py: error: {error}")
    except OSError as error:
        sys.exit(f"export.py: error: --output_dir cannot be written to: {error}")


if __name__ == "__main__":
    main()
