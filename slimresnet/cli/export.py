"""Export a trained model: python export.py MODEL --format onnx|torch_export [--quantize int8] --output_dir DIR"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from modeling_slimresnet import SlimResNetConfig
from slimresnet.data.randomness import sample_order
from slimresnet.data.sources.source import DatasetError
from slimresnet.data.splits import stratified_split
from slimresnet.evaluation.rows import open_rows
from slimresnet.formats.backends import (
    EXPORTS_NAME,
    ONNX_FILE,
    QUANTIZED_ONNX_FILE,
    SCORED_AS,
    TORCH_EXPORT_FILE,
    open_file,
)
from slimresnet.formats.checking import GENERATED_IMAGES, TRAINING_IMAGES, agreement, generated_pixels
from slimresnet.formats.graphs import ExportError, LogitsOfPixels, export_onnx, export_torch, smallest_side
from slimresnet.formats.quantization import quantize_int8
from slimresnet.formats.trained import (
    ModelError,
    check_finite,
    find_folder,
    fold_batchnorm,
    holds_another_model,
    load_model,
    load_normalize,
    weights_digest,
)
from slimresnet.hub.card import is_edited, renew_model_card, say_if_edited
from slimresnet.hub.files import shared_files
from slimresnet.recipe.reading import read_recipe, read_recipe_with
from slimresnet.recipe.settings import TRAIN_SPLIT, RecipeError
from slimresnet.run_folder.changes import Change, change, foreign, recorded
from slimresnet.run_folder.console import tolerant_output
from slimresnet.run_folder.names import CARD_NAME, RECIPE_NAME, RESULTS_NAME
from slimresnet.run_folder.ownership import own, refuse_if_owned
from slimresnet.run_folder.reading import read_json
from slimresnet.run_folder.writing import FolderError, check_place, explain, write_json

CHECK_SAMPLES = 512  # at most; int8 rounds, so that it is judged by a share of many
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
        parser.add_argument(
            f"--{name}", help="As for train.py, for --quantize; by default what the model was trained on."
        )
    arguments = parser.parse_args(words)
    if arguments.quantize and arguments.format != "onnx":
        raise ExportError(f"--quantize is for --format onnx, not for {arguments.format}: leave one of them out.")
    if arguments.calibration_samples < 1:
        raise ExportError(f"--calibration_samples must be at least 1, got {arguments.calibration_samples}.")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Exports and checks in a folder of its own; `--output_dir` gets the files when all of them agree."""
    folder = find_folder(arguments.model)
    weights = weights_digest(folder)
    model, normalize = fold_batchnorm(load_model(folder)), load_normalize(folder)
    names = [TORCH_EXPORT_FILE] if arguments.format == "torch_export" else [ONNX_FILE]
    if arguments.quantize:
        names.append(QUANTIZED_ONNX_FILE)
    check_output_dir(arguments, weights, names)
    prepare = (lambda pixels: pixels) if arguments.uint8_pixels else normalize
    module = LogitsOfPixels(model, normalize if arguments.uint8_pixels else None).eval()
    with TemporaryDirectory(ignore_cleanup_errors=True) as staging:  # Windows keeps a file that a session has open
        made = {name: Path(staging) / name for name in names}
        exports = {}
        for name, file in made.items():
            file.parent.mkdir(exist_ok=True)
            if name == QUANTIZED_ONNX_FILE:
                for_checks, for_ranges, source = read_pixels(arguments, folder, model.config.image_size)
                quantize_int8(made[ONNX_FILE], file, prepare(for_ranges).numpy())
                checked = prepare(for_checks).split(_BATCH)
                facts = compare(module, name, file, checked, source)
                facts["calibration_images"] = len(for_ranges)
            else:
                checked = [prepare(pixels) for pixels in generated_batches(model.config)]
                example = checked[0][:2].clone()  # torch.export saves a tensor's storage, a view's whole one
                if name == ONNX_FILE:
                    export_onnx(module, example, file, arguments.opset)
                else:
                    export_torch(module, example, file)
                facts = compare(module, name, file, checked, GENERATED_IMAGES)
            facts |= {"pixel_values": str(checked[0].dtype).removeprefix("torch."), "bytes": file.stat().st_size}
            facts["smallest_side"] = smallest_side(model.config)
            if arguments.format == "onnx":
                facts["opset"] = arguments.opset
            exports[name] = facts
            print(
                f"{name}: {facts['bytes']:,} bytes; on {facts['checked_images']} {facts['checked_on']} the same class "
                f"as PyTorch for {facts['same_class']:.2%}, logits of {facts['largest_logit']:.2g} at most differ by "
                f"{facts['largest_difference']:.2g} at most"
            )
        write(arguments.output_dir, folder, weights, made, exports)


@torch.inference_mode()
def compare(module: LogitsOfPixels, name: str, file: Path, batches: Sequence[Tensor], images: str) -> dict:
    """What a file gives against what the network gives on these batches; returns and raises as `agreement`."""
    run_file = open_file(file, "torch_export" if name == TORCH_EXPORT_FILE else "onnxruntime")
    expected, logits = (torch.cat([network(batch) for batch in batches]) for network in (module, run_file))
    check_finite(expected, [f"number {number} of {len(expected)} {images}" for number in range(1, len(expected) + 1)])
    return agreement(name, logits, expected, "int8" if name == QUANTIZED_ONNX_FILE else "float32", images)


def generated_batches(config: SlimResNetConfig) -> list[Tensor]:
    """Pictures that a file in float32 is checked on, of the config's size first, then of others if it takes them."""
    side, smallest = config.image_size, smallest_side(config)
    sides = [(side, side)]
    if smallest is not None:
        sides += [(max(smallest, 3 * side // 4),) * 2, (side, 3 * side // 2)]
    return [generated_pixels(_BATCH, height, width) for height, width in sides]


def check_output_dir(arguments: argparse.Namespace, weights: str | None, names: Sequence[str]) -> None:
    """
    Looks before anything is exported.

    Args:
        weights: digest of those that are to be exported.

    Raises:
        ExportError: the folder is a file, holds another model, exported files that are not to be replaced, or others'.
        FolderError: it lies in a folder that is not there, or another process is at work there.
    """
    output_dir = arguments.output_dir
    if output_dir.exists() and not output_dir.is_dir():
        raise ExportError(f"--output_dir {output_dir} is a file: name a folder.")
    check_place("--output_dir", output_dir)
    refuse_if_owned(output_dir)
    present = [name for name in names if os.path.lexists(output_dir / name)]
    if present and not arguments.overwrite_output_dir:
        raise ExportError(
            f"--output_dir {output_dir} holds {', '.join(present)}: name another folder, or replace them with "
            "--overwrite_output_dir."
        )
    if others := foreign(output_dir, present):
        raise ExportError(
            f"--output_dir {output_dir} holds {', '.join(others)}, and has no record that this program wrote them as "
            "they stand: move them away, or name another folder."
        )
    _check_model(output_dir, weights)


def _check_model(output_dir: Path, weights: str | None) -> None:
    if holds_another_model(output_dir, weights):
        raise ExportError(f"--output_dir {output_dir} holds another model than is exported: name another folder.")


def read_pixels(arguments: argparse.Namespace, folder: Path, image_size: int) -> tuple[Tensor, Tensor, str]:
    """
    Images of the training split, none of them twice: those that an int8 file is checked on, and those for its ranges.

    Never those of validation or test: an exported file is scored on images that it was not made with.

    Returns:
        uint8 `[N, 3, image_size, image_size]` twice: `CHECK_SAMPLES` and `--calibration_samples`, or half of what there
        is and the other half, at most; and what they are for people, since `--dataset_name` may name other data than
        the network was trained on.

    Raises:
        ExportError: there are fewer than two.
    """
    recipe = read_recipe_with(folder, **{name: getattr(arguments, name) for name in _FROM_RECIPE})
    run_recipe = read_recipe(folder) if (folder / RECIPE_NAME).is_file() else None
    scored = open_rows(TRAIN_SPLIT, recipe, run_recipe, read_json(folder / RESULTS_NAME), image_size)
    split = scored.split
    rows, _ = stratified_split(split.labels, recipe.validation_size, recipe.seed)
    if len(rows) < 2:
        raise ExportError(
            f"--quantize int8 needs training images for its ranges and others to be checked on, but "
            f"{recipe.dataset_name} has {len(rows)}: name another with --dataset_name."
        )
    checked = min(CHECK_SAMPLES, len(rows) // 2)
    order = rows[sample_order(recipe.seed, 0, len(rows), len(rows))[: checked + arguments.calibration_samples]]
    [pixels] = split.images.read([order])
    source = TRAINING_IMAGES if scored.are_trained_on else f"images of {scored.dataset}"
    return pixels[:checked], pixels[checked:], source


def write(output_dir: Path, folder: Path, weights: str | None, exported: dict[str, Path], exports: dict) -> None:
    """
    Brings exported files to the folder, with all that the trained one shares; renews its card.

    What was scored there stays, but for the scores of files that these replace.

    Args:
        weights: digest of those that were exported.
        exported: where the files are that were made, by name.
        exports: facts of each, for `exports.json`.

    Raises:
        ExportError: MODEL or the folder has other weights by now.
        FolderError: another process is at work there, or it cannot be written to.
    """
    if weights_digest(folder) != weights:
        raise ExportError(f"MODEL {folder} was replaced while it was exported: export it again.")
    with own(output_dir), change(output_dir) as made:
        _check_model(output_dir, weights)
        files, replaced = dict(exported), list(exported)
        if output_dir.resolve() != folder.resolve():
            shared = (file for file in shared_files(folder) if not is_score_of(file.name, SCORED_AS))
            files |= {file.relative_to(folder).as_posix(): file for file in shared}
            if (output_dir / RESULTS_NAME).is_file():
                files.pop(RESULTS_NAME, None)
            else:
                replaced = list(SCORED_AS)  # what exported files of MODEL scored is not of these
        if is_edited(output_dir / CARD_NAME):
            files.pop(CARD_NAME, None)
        for name, file in files.items():
            (made.files / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, made.files / name)
        write_json(made.files / EXPORTS_NAME, read_json(output_dir / EXPORTS_NAME) | exports)
        forget_scores(made, output_dir, replaced)
        if any((each / RECIPE_NAME).is_file() for each in (made.files, output_dir)):
            renew_model_card(made, output_dir)
            say_if_edited(output_dir / CARD_NAME)


def forget_scores(made: Change, output_dir: Path, names: Iterable[str]) -> None:
    """Takes figures, details and pictures of exported files out of a folder."""
    made.remove(name for name in recorded(output_dir) if is_score_of(name, names))
    made.bring([RESULTS_NAME])
    results = read_json(made.files / RESULTS_NAME)
    kept = {figure: value for figure, value in results.items() if not is_score_of(figure, names)}
    if kept != results:
        write_json(made.files / RESULTS_NAME, kept)


def is_score_of(figure: str, names: Iterable[str]) -> bool:
    """Whether the name of a figure or a file tells of one of these exported files."""
    scored_as = [f"_{each}_" for name in names for each in SCORED_AS[name]]
    return any(each in figure and f"{each}int8_" not in figure for each in scored_as)


@tolerant_output()
def main() -> None:
    """Runs; a mistake in the input ends in one sentence and exit code 1."""
    disable_progress_bar()  # transformers': loading takes no time
    try:
        arguments = parse()
        run(arguments)
        print(f"saved to {arguments.output_dir}")
    except (DatasetError, ExportError, ModelError, RecipeError, FolderError) as error:
        sys.exit(f"export.py: error: {error}")
    except OSError as error:  # of the folder for temporary files
        sys.exit(f"export.py: error: {explain(error, error.filename or gettempdir())}")


if __name__ == "__main__":
    main()
