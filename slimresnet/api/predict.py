"""Predicting the classes of images with a trained network."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from slimresnet.api.arguments import check_choice, check_precision
from slimresnet.data.sources.prediction import Images, NamedImage, open_images
from slimresnet.data.sources.source import DatasetError
from slimresnet.errors import printable
from slimresnet.evaluation.spreadsheet import TableWriter
from slimresnet.evaluation.tta import POLICIES, average, logits_of_views, views_of
from slimresnet.formats.format import Runnable
from slimresnet.formats.registry import find_format
from slimresnet.formats.trained import check_finite, find_folder, label_names
from slimresnet.recipe.hardware import choose_eval_batch_size
from slimresnet.recipe.launch import process_left_as_it_was
from slimresnet.recipe.settings import check_range
from slimresnet.run_folder.writing import check_output_file, is_standard_output, open_output

LABELS = ("numbers", "names")
PREDICTION_PRECISIONS = ("no", "bf16")
"""Values of `mixed_precision` that a network predicts in."""


class Prediction(NamedTuple):
    """
    The prediction for one image.

    Attributes:
        name: name of the image: a path in a folder, a row in a dataset, or an id in a pickle.
        label: number of the class with the largest logit.
        label_name: name of the class with the largest logit.
        probabilities: a probability for each class, float32 `[num_labels]`, 0–1.
    """

    name: str
    label: int
    label_name: str
    probabilities: np.ndarray


class Predictions(Sequence[Prediction]):
    """
    A prediction for each image, in the order of the images. An image takes a name and `num_labels` numbers of 4 bytes.

    Attributes:
        names: names of the images.
        label_names: names of the classes, in the order of their numbers.
        labels: class numbers, int64 `[N]`.
        probabilities: float32 `[N, num_labels]`, 0–1.
        skipped: the images that could not be decoded, each with its `name` and the `reason`.
    """

    def __init__(
        self,
        names: list[str],
        label_names: list[str],
        labels: np.ndarray,
        probabilities: np.ndarray,
        skipped: list[NamedImage],
    ):
        self.names, self.label_names, self.skipped = names, label_names, skipped
        self.labels, self.probabilities = labels, probabilities

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prediction]: ...
    def __getitem__(self, index: int | slice) -> Prediction | list[Prediction]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        label = int(self.labels[index])
        return Prediction(self.names[index], label, self.label_names[label], self.probabilities[index])

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {len(self):,} images, {len(self.skipped):,} skipped"


class Batch(NamedTuple):
    """Names of images, their class numbers, int64 `[B]`, and probabilities, float32 `[B, num_labels]`."""

    names: list[str]
    labels: np.ndarray
    probabilities: np.ndarray


def predict(
    model: str | Path,
    input: str | Path,
    *,
    output: str | Path | None = None,
    tta: str = "none",
    labels: str = "numbers",
    probabilities: bool = False,
    backend: str = "torch",
    quantized: bool = False,
    trust_remote_code: bool = False,
    skip_errors: bool = False,
    split: str = "test",
    dataset_config_name: str | None = None,
    image_column_name: str | None = None,
    per_device_eval_batch_size: int | None = None,
    mixed_precision: str = "no",
) -> Predictions:
    """
    Predicts the class of images, on a GPU where there is one.

    Args:
        model: a folder that training wrote, or the name of a model on the Hub.
        input: an image file, a folder of them or of Parquet files, a dataset on the Hub, or a Kaggle pickle.
        output: a CSV to write, a row an image. An earlier file stays until the new one is complete.
        tta: test-time augmentation, one of `slimresnet.evaluation.tta.POLICIES`.
        labels: what the CSV has for a class, `"numbers"` or `"names"`.
        probabilities: whether the CSV has a column for each class.
        backend: what runs the network, one of `slimresnet.formats.registry.backend_choices()`.
        quantized: whether the backend runs the int8 file.
        trust_remote_code: whether code in `model` may be run, as the backend `torch_export` needs.
        skip_errors: whether images that cannot be decoded are left out.
        split, dataset_config_name, image_column_name: what to read of `input`, where that is a dataset.
        per_device_eval_batch_size: number of images that the network takes at once; None for 128, and
            on a CUDA GPU for as many as have the pixels of 1,000 of 32 × 32.
        mixed_precision: `"no"` for float32, or `"bf16"` with the backend `torch`.

    Raises:
        SlimResNetError: an argument cannot be used, the model or the images cannot be read, an image cannot be
            decoded, logits are not finite, or `output` cannot be written to.
    """
    kept: list[Batch] = []
    names, skipped = write_predictions(
        model, input, output=output, tta=tta, labels=labels, probabilities=probabilities, backend=backend,
        quantized=quantized, trust_remote_code=trust_remote_code, skip_errors=skip_errors, split=split,
        dataset_config_name=dataset_config_name, image_column_name=image_column_name,
        per_device_eval_batch_size=per_device_eval_batch_size, mixed_precision=mixed_precision, take=kept.append,
    )  # fmt: skip
    return Predictions(
        [name for batch in kept for name in batch.names],
        names,
        np.concatenate([np.zeros(0, np.int64), *(batch.labels for batch in kept)]),
        np.concatenate([np.zeros((0, len(names)), np.float32), *(batch.probabilities for batch in kept)]),
        skipped,
    )


def write_predictions(
    model: str | Path,
    input: str | Path,
    *,
    output: str | Path | None,
    tta: str,
    labels: str,
    probabilities: bool,
    backend: str,
    quantized: bool,
    trust_remote_code: bool,
    skip_errors: bool,
    split: str,
    dataset_config_name: str | None,
    image_column_name: str | None,
    per_device_eval_batch_size: int | None,
    mixed_precision: str,
    take: Callable[[Batch], None] = lambda batch: None,
) -> tuple[list[str], list[NamedImage]]:
    """
    Predicts batch by batch. No batch is kept, so memory does not grow with the number of images.

    Args:
        take: called with each batch after its rows are written. The other arguments are those of `predict`.

    Returns:
        Names of the classes in the order of their numbers, and the images that could not be decoded.

    Raises:
        SlimResNetError: as `predict`.
    """
    check_choice("tta", tta, POLICIES)
    check_choice("labels", labels, LABELS)
    check_choice("mixed_precision", mixed_precision, PREDICTION_PRECISIONS)
    format = find_format(backend, quantized=quantized)
    check_precision(backend, mixed_precision)
    check_range("per_device_eval_batch_size", per_device_eval_batch_size)
    path = None if output is None else Path(output)
    if path is not None:
        check_output_file("--output", path)
    with process_left_as_it_was():
        runnable = format.open_network(find_folder(model), trust_remote_code=trust_remote_code)
        source, pixels = str(input), runnable.pixel_format
        found = open_images(
            source, pixels, split=split, config_name=dataset_config_name, image_column=image_column_name
        )
        if found.passed_over:
            print(found.passed_over, file=sys.stderr)
        images, names = _Decoded(found, skip_errors), [printable(name) for name in label_names(runnable.config)]
        batches = _predict_batches(runnable, images, tta, per_device_eval_batch_size, mixed_precision, format.uses_gpu)
        count = 0
        with _table(path, names, labels, probabilities) as write:
            for batch in batches:
                write(batch)
                take(batch)
                count += len(batch.names)
    _say(count, images.skipped, path)
    return names, images.skipped


class _Decoded:
    """
    The images that could be decoded, one by one; all other images come into `skipped`.

    Args:
        skip_errors: whether an image that cannot be decoded is left out; else it is a DatasetError.
    """

    def __init__(self, images: Images, skip_errors: bool):
        self.skipped: list[NamedImage] = []
        self._images, self._skip_errors = images, skip_errors

    def __iter__(self) -> Iterator[NamedImage]:
        # disable=None: no bar where the output is no terminal
        for image in tqdm(self._images.stream, total=self._images.count, unit="image", disable=None):
            if image.pixels is not None:
                yield image
            elif self._skip_errors:
                self.skipped.append(image)
            else:
                raise DatasetError(
                    f"image {image.name} of INPUT cannot be decoded ({image.reason}): repair or remove it, or leave "
                    "such images out with --skip_errors."
                )


def _predict_batches(
    runnable: Runnable,
    images: Iterable[NamedImage],
    tta: str,
    per_device_eval_batch_size: int | None,
    mixed_precision: str,
    uses_gpu: bool,
) -> Iterator[Batch]:
    """
    Predicts batch by batch, and reads no image before its batch is asked for.

    Raises:
        ModelError: logits are not finite.
    """
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    computes_on = device.type if uses_gpu else "cpu"
    batch_size = choose_eval_batch_size(per_device_eval_batch_size, computes_on, runnable.config.image_size)
    runnable.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs lack it
    stream = iter(images)
    while batch := list(islice(stream, batch_size)):
        pixels = torch.from_numpy(np.stack([image.pixels for image in batch if image.pixels is not None]))
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision == "bf16"):
            logits = logits_of_batch(runnable, pixels.permute(0, 3, 1, 2).to(device), tta)
        names = [image.name for image in batch]
        check_finite(logits, names)
        # The class is not that of the largest probability: probabilities are equal where logits are close.
        yield Batch(names, logits.argmax(dim=1).numpy(), logits.softmax(dim=1).numpy())


@torch.inference_mode()
def logits_of_batch(runnable: Runnable, pixels: Tensor, policy: str) -> Tensor:
    """The mean logits of the policy's views, float32 `[B, num_labels]` on the CPU, of uint8 `[B, C, H, W]`."""

    def predict(view: Tensor) -> Tensor:
        return runnable.network(pixel_values=runnable.normalize(view)).logits.float()

    return average(logits_of_views(predict, pixels, views_of(policy)), POLICIES[policy]).cpu()


@contextmanager
def _table(
    output: Path | None, label_names: list[str], labels: str, probabilities: bool
) -> Iterator[Callable[[Batch], None]]:
    """A function that writes the rows of a batch into the CSV. Without `output` the function writes nothing."""
    if output is None:
        yield lambda batch: None
        return
    with open_output(output) as file:
        table = TableWriter(file)
        table.write(["ID", "Labels", *(label_names if probabilities else [])])

        def write(batch: Batch) -> None:
            for name, label, shares in zip(*batch, strict=True):
                numbers = [f"{share:.6f}" for share in shares] if probabilities else []
                table.write([name, label_names[label] if labels == "names" else str(label), *numbers])

        yield write


def _say(count: int, skipped: list[NamedImage], output: Path | None) -> None:
    """Prints how many rows were written to `output`, and which images were left out."""
    if output is not None:
        # Not into the rows themselves, where these go to standard output.
        stream = sys.stderr if is_standard_output(output) else sys.stdout
        print(f"{output}: {count:,} rows", file=stream)
    if skipped:
        print(f"left out, because they cannot be decoded: {len(skipped):,}", file=sys.stderr)
        for image in skipped:
            print(f"  {image.name}: {image.reason}", file=sys.stderr)
