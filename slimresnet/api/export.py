"""A trained network as files that need no class of this project."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, NamedTuple

from scipy.special import logit
from torch import Tensor, nn

from modeling_slimresnet import SlimResNetConfig
from slimresnet.api.exported_folder import bring_files, check_output_dir
from slimresnet.data.randomness import sample_order
from slimresnet.data.task import task_of_network
from slimresnet.evaluation.rows import HELD_OUT_PREFIX, open_training_rows
from slimresnet.evaluation.thresholds import f1_threshold, thresholds_of
from slimresnet.formats.agreement import GENERATED_IMAGES, TRAINING_IMAGES, compare, generated_pixels
from slimresnet.formats.format import ExportedFormat, ExportError, Source
from slimresnet.formats.graph import LogitsOfPixels, smallest_side
from slimresnet.formats.registry import formats_to_write
from slimresnet.formats.trained import (
    find_folder,
    fold_batchnorm,
    load_model,
    load_processing,
    weights_digest,
)
from slimresnet.recipe.reading import read_recipe, read_recipe_with, refuse_unknown_data
from slimresnet.run_folder.names import RECIPE_NAME
from slimresnet.run_folder.reading import read_results
from slimresnet.run_folder.writing import explain

CHECK_SAMPLES = 512  # at most; int8 rounds, so that it is judged by a share of many
CHECK_BATCH = 128


class TrainingImages(NamedTuple):
    """
    Images of a training split, none of them twice.

    Attributes:
        checks: images that exported files are checked on, uint8 `[N, 3, image_size, image_size]`.
        ranges: images that quantisation takes its ranges from, same shape.
        source: a name for the images, for messages.
    """

    checks: Tensor
    ranges: Tensor
    source: str


def export(
    model: str | Path,
    *,
    output_dir: str | Path,
    format: str = "onnx",
    quantize: str | None = None,
    uint8_pixels: bool = False,
    opset: int = 20,
    calibration_samples: int = 1024,
    overwrite_output_dir: bool = False,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    dataset_revision: str | None = None,
    image_column_name: str | None = None,
    label_column_name: str | None = None,
) -> dict[str, dict]:
    """
    Exports a trained network and checks the files against it. `output_dir` gets them when all of them agree.

    Args:
        model: a folder that training wrote, or the name of a model on the Hub.
        output_dir: a new folder, which becomes a copy of the trained one with the files added, or `model` itself.
        format: one of `slimresnet.formats.registry.format_choices()`.
        quantize: `"int8"` for a quantised file too, whose ranges come from training images.
        uint8_pixels: whether the file takes pixels of 0–255 as uint8, and normalises them itself.
        opset: version of ONNX's operators.
        calibration_samples: how many training images the ranges come from, at most.
        overwrite_output_dir: whether to replace exported files that `output_dir` holds.
        dataset_name, dataset_config_name, dataset_revision, image_column_name, label_column_name: the data with the
            training images, for `quantize`. None stands for what the model was trained on.

    Returns:
        What `exports.json` says of each file, by its path: among others its `bytes`, and of the images that it was
        checked on the `same_class` (a share, 0–1) and the `largest_difference` (of logits).

    Raises:
        SlimResNetError: an argument cannot be used, a package is missing, the model or the data cannot be read, a file
            disagrees with the network, or the folder cannot be written to. `output_dir` is then as it was.
    """
    formats = formats_to_write(format, quantize)
    if calibration_samples < 1:
        raise ExportError(f"--calibration_samples must be at least 1, got {calibration_samples}.")
    folder = find_folder(model)
    read_images = partial(
        training_images,
        folder,
        calibration_samples,
        dataset_name=dataset_name,
        dataset_config_name=dataset_config_name,
        dataset_revision=dataset_revision,
        image_column_name=image_column_name,
        label_column_name=label_column_name,
    )
    job = _Job(folder, uint8_pixels, opset, read_images)
    return job.run(formats, Path(output_dir), overwrite=overwrite_output_dir)


class _Job:
    """
    Exports one network, in one format after the other.

    Args:
        folder: folder of the trained network.
        read_images: called only for a format that is calibrated: other formats need no dataset.
    """

    def __init__(self, folder: Path, uint8_pixels: bool, opset: int, read_images: Callable[[], TrainingImages]):
        self._folder, self._opset, self._read_images = folder, opset, read_images
        self._weights = weights_digest(folder)
        network, normalize = fold_batchnorm(load_model(folder)), load_processing(folder).normalize
        self._config = network.config
        self._given_from = _given_from(folder, network.config)
        self._module = LogitsOfPixels(network, normalize if uint8_pixels else None).eval()
        self._prepare = nn.Identity() if uint8_pixels else normalize

    def run(self, formats: Sequence[ExportedFormat], output_dir: Path, *, overwrite: bool) -> dict[str, dict]:
        """Makes and checks all files in a folder of their own, then brings them; returns and raises as `export`."""
        check_output_dir(output_dir, self._weights, [each.file for each in formats], overwrite=overwrite)
        for each in formats:
            each.refuse_without_packages()
        try:
            # Windows keeps a file that a session has open.
            with TemporaryDirectory(ignore_cleanup_errors=True) as staging:
                facts = {each.file: self._make(each, Path(staging)) for each in formats}
                files = {name: Path(staging) / name for name in facts}
                bring_files(output_dir, self._folder, self._weights, files, facts)
        except OSError as error:  # of the folder for temporary files
            raise explain(error, error.filename or gettempdir()) from error
        return facts

    def _make(self, format: ExportedFormat, staging: Path) -> dict[str, Any]:
        """Makes and checks one file; returns what `exports.json` says of it."""
        assert format.write is not None  # `formats_to_write` gives no other
        file = staging / format.file
        file.parent.mkdir(exist_ok=True)
        batches, images = [self._prepare(pixels) for pixels in generated_batches(self._config)], GENERATED_IMAGES
        example = batches[0][:2].clone()  # torch.export saves a tensor's storage, a view's whole one
        source, calibration = Source(self._module, example, self._opset, staging), {}
        if format.is_calibrated:
            read = self._read_images()
            batches, images = list(self._prepare(read.checks).split(CHECK_BATCH)), read.source
            source = source._replace(calibration=self._prepare(read.ranges))
            calibration = {"calibration_images": len(read.ranges)}
        written = format.write(source, file)
        facts: dict[str, Any] = compare(format, self._module, file, batches, images, self._given_from) | calibration
        facts |= {"pixel_values": str(example.dtype).removeprefix("torch."), "bytes": file.stat().st_size}
        facts |= {"smallest_side": smallest_side(self._config), **written}
        same = "class" if self._given_from is None else "classes"
        print(
            f"{format.file}: {facts['bytes']:,} bytes; on {facts['checked_images']} {facts['checked_on']} the same "
            f"{same} as PyTorch for {facts['same_class']:.2%}, logits of {facts['largest_logit']:.2g} at most differ "
            f"by {facts['largest_difference']:.2g} at most"
        )
        return facts


def _given_from(folder: Path, config: SlimResNetConfig) -> float | None:
    """The logit from which a network of several classes an image gives a class; None for one of one class."""
    if not task_of_network(config).is_multi_label:
        return None
    threshold = f1_threshold(thresholds_of(read_results(folder), HELD_OUT_PREFIX, "none"), "")
    return float(logit(threshold))


def generated_batches(config: SlimResNetConfig) -> list[Tensor]:
    """Pictures that a file in float32 is checked on, of the config's size first, then of others if it takes them."""
    side, smallest = config.image_size, smallest_side(config)
    sides = [(side, side)]
    if smallest is not None:
        sides += [(max(smallest, 3 * side // 4),) * 2, (side, 3 * side // 2)]
    return [generated_pixels(CHECK_BATCH, height, width) for height, width in sides]


def training_images(folder: Path, calibration_samples: int, **data: str | None) -> TrainingImages:
    """
    Images of a training split: `CHECK_SAMPLES` for checks and `calibration_samples` for ranges.

    Where there are few images, half go to the checks. No image is of validation or test: an exported file is scored on
    images that it was not made with.

    Args:
        folder: folder of the trained network, which tells what the network was trained on.
        data: settings of a recipe that name other data; None stands for the run's own.

    Raises:
        DatasetError: the data cannot be read.
        RecipeError: nobody says which data.
        ExportError: there are fewer than two images.
    """
    refuse_unknown_data(folder, data.get("dataset_name"))
    recipe = read_recipe_with(folder, **data)
    run_recipe = read_recipe(folder) if (folder / RECIPE_NAME).is_file() else None
    if run_recipe is None:  # nothing is known to have been held out
        recipe = replace(recipe, validation_size=0)
    results = read_results(folder)
    pixel_format = replace(load_processing(folder).pixel_format, num_channels=3)  # what a graph takes
    found = open_training_rows(recipe, run_recipe, results, pixel_format)
    rows = found.rows
    if len(rows) < 2:
        raise ExportError(
            f"--quantize int8 needs training images for its ranges and others to be checked on, but "
            f"{recipe.dataset_name} has {len(rows)}: name another with --dataset_name."
        )
    checked = min(CHECK_SAMPLES, len(rows) // 2)
    order = rows[sample_order(recipe.seed, 0, len(rows), len(rows))[: checked + calibration_samples]]
    [pixels] = found.split.images.read([order])
    source = TRAINING_IMAGES if found.are_trained_on else f"images of {found.dataset}"
    return TrainingImages(pixels[:checked], pixels[checked:], source)
