"""Predicting the classes of images with a trained network."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from modeling_slimresnet import SlimResNetForImageClassification
from slimresnet.api.arguments import check_choice, check_precision
from slimresnet.api.prediction_files import (
    MOST_ROWS,
    UNKNOWN,
    Batch,
    TerminalTable,
    Write,
    check_embeddings_file,
    named,
    open_embeddings,
    open_table,
    plain,
)
from slimresnet.data.sources.lists import PREDICTION_COLUMNS
from slimresnet.data.sources.prediction import Images, NamedImage
from slimresnet.data.sources.several import Input, Reading, open_inputs
from slimresnet.data.sources.source import DatasetError
from slimresnet.data.task import Task, task_of_network
from slimresnet.errors import printable
from slimresnet.evaluation.rows import saw_held_out
from slimresnet.evaluation.thresholds import PRECISIONS, f1_threshold, fewest_answers, held_out_prefix, thresholds_of
from slimresnet.evaluation.tta import POLICIES, average, logits_of_views, views_of
from slimresnet.formats.format import Format, Runnable
from slimresnet.formats.registry import find_format
from slimresnet.formats.trained import ModelError, check_finite, find_folder, label_names
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.hardware import choose_eval_batch_size
from slimresnet.recipe.launch import process_left_as_it_was
from slimresnet.recipe.settings import check_range
from slimresnet.run_folder.names import RESULTS_NAME
from slimresnet.run_folder.reading import read_results
from slimresnet.run_folder.writing import check_output_file, is_standard_output

LABELS = ("numbers", "names")
IDS = ("path", "stem")
PREDICTION_PRECISIONS = ("no", "bf16")
"""Values of `mixed_precision` that a network predicts in."""


class Prediction(NamedTuple):
    """
    The prediction for one image.

    Attributes:
        name: name of the image: a path in a folder, a row in a dataset, or an id in a pickle.
        label: number of the class with the largest logit; -1 where no class reaches the threshold. Of a network of
            several classes an image a tuple: the numbers of all classes that reach the threshold, maybe of none.
        label_name: name of the class with the largest logit; `"unknown"` where no class reaches the threshold. Of
            several classes a tuple of names.
        probabilities: a probability for each class, float32 `[num_labels]`, 0–1. They sum to 1, but for a network of
            several classes an image.
        embedding: the network's pooled features, float32 `[hidden_sizes[-1]]`; None where nobody asked for them.
    """

    name: str
    label: int | tuple[int, ...]
    label_name: str | tuple[str, ...]
    probabilities: np.ndarray
    embedding: np.ndarray | None = None


class Predictions(Sequence[Prediction]):
    """
    A prediction for each image, in the order of the images. An image takes a name and `num_labels` numbers of 4 bytes.

    Attributes:
        names: names of the images.
        label_names: names of the classes, in the order of their numbers.
        labels: class numbers, int64 `[N]`; -1 where no class reaches the threshold. Of a network of several classes an
            image, 1 for each class that reaches it and 0 for all others, uint8 `[N, num_labels]`.
        probabilities: float32 `[N, num_labels]`, 0–1.
        embeddings: float32 `[N, hidden_sizes[-1]]`; None where nobody asked for them.
        skipped: the images that could not be decoded, each with its `name` and the `reason`.
    """

    def __init__(
        self,
        names: list[str],
        label_names: list[str],
        labels: np.ndarray,
        probabilities: np.ndarray,
        skipped: list[NamedImage],
        embeddings: np.ndarray | None = None,
    ):
        self.names, self.label_names, self.skipped = names, label_names, skipped
        self.labels, self.probabilities, self.embeddings = labels, probabilities, embeddings

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prediction]: ...
    def __getitem__(self, index: int | slice) -> Prediction | list[Prediction]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        label = plain(np.asarray(self.labels[index]))
        embedding = None if self.embeddings is None else self.embeddings[index]
        return Prediction(
            self.names[index], label, named(label, self.label_names), self.probabilities[index], embedding
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {len(self):,} images, {len(self.skipped):,} skipped"


def predict(
    model: str | Path,
    input: Input,
    *,
    output: str | Path | None = None,
    embeddings: bool | str | Path = False,
    threshold: float | None = None,
    target_precision: float | None = None,
    tta: str = "none",
    labels: str = "numbers",
    probabilities: bool = False,
    columns: Sequence[str] = PREDICTION_COLUMNS,
    id: str = "path",
    natural_order: bool = False,
    backend: str = "torch",
    quantized: bool = False,
    trust_remote_code: bool = False,
    skip_errors: bool = False,
    split: str | None = None,
    dataset_config_name: str | None = None,
    image_column_name: str | None = None,
    id_column_name: str | None = None,
    per_device_eval_batch_size: int | None = None,
    mixed_precision: str = "no",
) -> Predictions:
    """
    Predicts the class of images, on a GPU where there is one.

    Args:
        input: a path or a pattern of paths, a name on the Hub, an image of Pillow's, the bytes of an image file,
            pixels, uint8 `[H, W, 3]` or `[H, W]`, a `datasets.Dataset` or a column of one; or a list of these.
        all others: as in `Asked`, and as the flags of predict.py.

    Raises:
        SlimResNetError: an argument cannot be used, the model or the images cannot be read, an image cannot be
            decoded, logits are not finite, or a file cannot be written to.
    """
    asked = Asked(**locals())
    kept: list[Batch] = []
    keeps_embeddings = embeddings is True
    work = _predict_into(
        asked, lambda batch: kept.append(batch if keeps_embeddings else batch._replace(embeddings=None))
    )
    pooled = [batch.embeddings for batch in kept if batch.embeddings is not None]
    return Predictions(
        [name for batch in kept for name in batch.names],
        work.label_names,
        np.concatenate([work.no_labels, *(batch.labels for batch in kept)]),
        np.concatenate([np.zeros((0, len(work.label_names)), np.float32), *(batch.probabilities for batch in kept)]),
        work.images.skipped,
        np.concatenate([np.zeros((0, work.embedding_size), np.float32), *pooled]) if keeps_embeddings else None,
    )


@dataclass(frozen=True)
class Asked:
    """
    What is predicted, how, and where it goes: the arguments of `predict`, each by its name.

    Attributes:
        model: a folder of trained weights, or the name of a model on the Hub.
        input: an image file, a folder of them or of Parquet files, a pattern of paths, a dataset on the Hub, or a
            Kaggle pickle; an image of Pillow's, the bytes of an image file, pixels, uint8 `[H, W, 3]` or `[H, W]`; a
            `datasets.Dataset`, or a column of one; or a list of any of these.
        output: a CSV to write, a row an image. An earlier file stays until the new one is complete.
        embeddings: True keeps the pooled features of each image in the result; a path is a Parquet file to write them
            to. With test-time augmentation they are the mean of the views', as the logits are.
        threshold: probability, 0–1, which the class of an image has to reach. Below it the class is -1, `"unknown"`.
            A network of several classes an image gives each class that reaches it; None is then the threshold of its
            run, which held-out images gave, or 0.5.
        target_precision: one of `slimresnet.evaluation.thresholds.PRECISIONS`; takes the threshold that gave this
            share of right answers on the held-out images of the model's run.
        tta: test-time augmentation, one of `slimresnet.evaluation.tta.POLICIES`.
        labels: what the CSV has for a class, `"numbers"` or `"names"`.
        probabilities: whether the CSV has a column for each class.
        columns: the CSV's headings of the image and of the class.
        id: what an image file is called, by its `"path"` or by the `"stem"` of its name, without folder and ending.
        natural_order: takes image files in the order of the numbers in their names, 2.png before 10.png.
        backend: what runs the network, one of `slimresnet.formats.registry.backend_choices()`.
        quantized: whether the backend runs the int8 file.
        trust_remote_code: whether code in `model` may be run, as the backend `torch_export` needs.
        skip_errors: whether images that cannot be decoded are left out.
        split, dataset_config_name, image_column_name: what to read of `input`, where that is a dataset; without a split
            the one that it has, or of several the test split.
        id_column_name: column that names the rows of a dataset; None for their numbers.
        per_device_eval_batch_size: number of images that the network takes at once; None for 128, and
            on a CUDA GPU for as many as have the pixels of 1,000 of 32 × 32.
        mixed_precision: `"no"` for float32, or `"bf16"` with the backend `torch`.
    """

    model: str | Path
    input: Input
    output: str | Path | None
    embeddings: bool | str | Path
    threshold: float | None
    target_precision: float | None
    tta: str
    labels: str
    probabilities: bool
    columns: Sequence[str]
    id: str
    natural_order: bool
    backend: str
    quantized: bool
    trust_remote_code: bool
    skip_errors: bool
    split: str | None
    dataset_config_name: str | None
    image_column_name: str | None
    id_column_name: str | None
    per_device_eval_batch_size: int | None
    mixed_precision: str

    @property
    def table(self) -> Path | None:
        """The CSV, if there is one."""
        return None if self.output is None else Path(self.output)

    @property
    def embeddings_file(self) -> Path | None:
        """The Parquet file, if there is one."""
        return None if isinstance(self.embeddings, bool) else Path(self.embeddings)

    @property
    def reading(self) -> Reading:
        """How the input is read."""
        return Reading(
            self.split, self.dataset_config_name, self.image_column_name, self.id_column_name, self.natural_order,
            stems=self.id == "stem",
        )  # fmt: skip

    def check(self) -> Format:
        """
        Checks arguments before any file is read; returns the format that the network runs in.

        Raises:
            ModelError: the backend is unknown, or has no quantised format.
            RecipeError: a value is unknown, or two arguments contradict each other.
            FolderError: a file cannot be written to.
        """
        check_choice("tta", self.tta, POLICIES)
        check_choice("labels", self.labels, LABELS)
        check_choice("id", self.id, IDS)
        check_choice("mixed_precision", self.mixed_precision, PREDICTION_PRECISIONS)
        format = find_format(self.backend, quantized=self.quantized)
        check_precision(self.backend, self.mixed_precision)
        check_range("per_device_eval_batch_size", self.per_device_eval_batch_size)
        if isinstance(self.columns, str) or len(self.columns) != 2:
            raise RecipeError(f"--columns takes two headings, of the image and of the class, got {self.columns}.")
        if self.threshold is not None and self.target_precision is not None:
            raise RecipeError("--threshold and --target_precision both set the threshold: give one of them.")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise RecipeError(f"--threshold must be a probability, between 0 and 1, got {self.threshold}.")
        if self.target_precision not in (None, *PRECISIONS):
            wanted = ", ".join(map(str, PRECISIONS))
            raise RecipeError(f"--target_precision must be one of {wanted}, got {self.target_precision}.")
        if self.embeddings is not False and self.backend != "torch":
            raise RecipeError(
                f"--embeddings is for --backend torch, not for {self.backend}, whose files give logits alone: leave "
                "one of them out."
            )
        if self.table is not None:
            check_output_file("--output", self.table)
        if self.embeddings_file is not None:
            check_embeddings_file("--embeddings", self.embeddings_file)
            if self.table is not None and self.table.absolute() == self.embeddings_file.absolute():
                raise RecipeError(f"--embeddings and --output both name {self.table}: name two files.")
        return format

    def find_threshold(self, folder: Path, format: Format, task: Task) -> float | None:
        """
        The probability that a class has to reach, if there is one.

        Raises:
            ModelError: the results of the model have no threshold for `target_precision`.
            RecipeError: `target_precision` is for one class an image, and the model's task is another one.
        """
        if task.is_multi_label and self.target_precision is not None:
            raise RecipeError(
                f"--target_precision is for one class an image, and MODEL {self.model} gives several: give a "
                "--threshold, or leave both out for that of its run."
            )
        if self.target_precision is None and (self.threshold is not None or not task.is_multi_label):
            return self.threshold
        prefix = held_out_prefix(format.scored_as, format.is_quantized)
        results = read_results(folder)
        known = thresholds_of(results, prefix, self.tta)
        ending = "" if self.tta == "none" else "_tta"
        if self.target_precision is None:
            return f1_threshold(known, ending)
        name = f"{self.target_precision * 100:.0f}{ending}"
        if name in known:
            return known[name]
        reached = [f"{precision}" for precision in PRECISIONS if f"{precision * 100:.0f}{ending}" in known]
        if reached:
            raise ModelError(
                f"MODEL {self.model} did not show a precision of {self.target_precision} on its held-out images: name "
                f"{' or '.join(reached)}, or give a --threshold."
            )
        if saw_held_out(results):
            raise ModelError(
                f"MODEL {self.model} has no thresholds for --target_precision: its held-out images were trained on "
                "before its run, by what it started from or by a teacher; give a --threshold."
            )
        held_out, needed = results.get(f"{prefix}_samples"), fewest_answers(self.target_precision)
        if isinstance(held_out, int) and held_out < needed:
            raise ModelError(
                f"MODEL {self.model} held out {held_out:,} images, too few for --target_precision "
                f"{self.target_precision}, which takes {needed} right answers at least: give a --threshold, or train "
                "with a larger --validation_size."
            )
        flags = "".join([
            "" if self.backend == "torch" else f" --backend {self.backend}", " --quantized" if self.quantized else "",
            "" if self.tta == "none" else f" --tta {self.tta}",
        ])  # fmt: skip
        raise ModelError(
            f"MODEL {self.model} has no thresholds for --target_precision in its {RESULTS_NAME}: choose them on "
            f"held-out images with python eval.py MODEL --split held_out --output_dir MODEL{flags}, or give a "
            "--threshold."
        )


def write_predictions(asked: Asked) -> None:
    """
    Predicts batch by batch, and keeps none: memory does not grow with the number of images.

    Where no file is asked for, the first `MOST_ROWS` images alone are predicted, and printed as a table for people.

    Raises:
        SlimResNetError: as `predict`.
    """
    if asked.table is not None or asked.embeddings is not False:
        _predict_into(asked, lambda batch: None)
        return
    with _opened(asked, most=MOST_ROWS) as work:
        table = TerminalTable(work.label_names, work.task)
        for batch in work.batches:
            table.write(batch)
    print("\n".join(table.lines()))
    more = None if work.count is None else work.count - len(table) - len(work.images.skipped)
    if len(table) == MOST_ROWS and more != 0:
        rest = "more" if more is None else f"{more:,} more"
        print(f"{rest} are not shown, nor predicted: --output FILE.csv writes all", file=sys.stderr)
    _say_skipped(work.images.skipped)


@dataclass(frozen=True)
class _Work:
    """
    Predictions that are made as they are asked for.

    Attributes:
        images: what is predicted on, with those that were left out.
        count: number of images; None where it is not known beforehand.
        embedding_size: length of an embedding.
        task: of the network.
    """

    label_names: list[str]
    batches: Iterator[Batch]
    images: "_Decoded"
    count: int | None
    embedding_size: int
    task: Task

    @property
    def no_labels(self) -> np.ndarray:
        """The labels of no image."""
        return np.zeros((0, len(self.label_names)), np.uint8) if self.task.is_multi_label else np.zeros(0, np.int64)


@contextmanager
def _opened(asked: Asked, most: int | None = None) -> Iterator[_Work]:
    """
    Opens the network and the images. The process is as it was when the block ends.

    Args:
        most: number of images to stop after.
    """
    format = asked.check()
    with process_left_as_it_was():
        folder = find_folder(asked.model)
        runnable = format.open_network(folder, trust_remote_code=asked.trust_remote_code)
        task = task_of_network(runnable.config)
        threshold = asked.find_threshold(folder, format, task)
        found = open_inputs(asked.input, runnable.pixel_format, asked.reading)
        if found.passed_over:
            print(found.passed_over, file=sys.stderr)
        images = _Decoded(found, asked.skip_errors, most)
        batches = _predict_batches(
            runnable, images, asked.tta, asked.per_device_eval_batch_size, asked.mixed_precision, format.uses_gpu,
            embeds=asked.embeddings is not False, threshold=threshold,
        )  # fmt: skip
        names = [printable(name) for name in label_names(runnable.config)]
        yield _Work(names, batches, images, found.count, runnable.config.hidden_sizes[-1], task)


def _predict_into(asked: Asked, take: Callable[[Batch], None]) -> _Work:
    """Predicts all images, writes the files that are asked for, and gives each batch to `take` afterwards."""
    count = 0
    with _opened(asked) as work, ExitStack() as files:
        writers: list[Write] = []
        if asked.table is not None:
            of_table = open_table(asked.table, work.label_names, asked.columns, asked.labels, asked.probabilities)
            writers.append(files.enter_context(of_table))
        if asked.embeddings_file is not None:
            of_embeddings = open_embeddings(asked.embeddings_file, work.label_names, work.embedding_size, work.task)
            writers.append(files.enter_context(of_embeddings))
        for batch in work.batches:
            for write in writers:
                write(batch)
            take(batch)
            count += len(batch.names)
    for path in (asked.table, asked.embeddings_file):
        if path is not None:
            # Not into the rows themselves, where these go to standard output.
            to_rows = asked.table is not None and is_standard_output(asked.table)
            print(f"{path}: {count:,} rows", file=sys.stderr if to_rows else sys.stdout)
    _say_skipped(work.images.skipped)
    return work


class _Decoded:
    """
    The images that could be decoded, one by one; all other images come into `skipped`.

    Args:
        skip_errors: whether an image that cannot be decoded is left out; else it is a DatasetError.
        most: number of images to stop after; None for all of them.
    """

    def __init__(self, images: Images, skip_errors: bool, most: int | None):
        self.skipped: list[NamedImage] = []
        self._images, self._skip_errors, self._most = images, skip_errors, most

    def __iter__(self) -> Iterator[NamedImage]:
        return islice(self._decoded(), self._most)

    def _decoded(self) -> Iterator[NamedImage]:
        # disable=None: no bar where the output is no terminal
        is_bar_wanted = None if self._most is None else True
        for image in tqdm(self._images.stream, total=self._images.count, unit="image", disable=is_bar_wanted):
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
    *,
    embeds: bool = False,
    threshold: float | None = None,
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
        pixels, pooled = pixels.permute(0, 3, 1, 2).to(device), None
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision == "bf16"):
            if embeds:
                logits, pooled = logits_and_embeddings_of_batch(runnable, pixels, tta)
            else:
                logits = logits_of_batch(runnable, pixels, tta)
        names = [image.name for image in batch]
        check_finite(logits, names)
        task = task_of_network(runnable.config)
        probabilities = task.probabilities(logits).numpy()
        if task.is_multi_label:
            assert threshold is not None  # `find_threshold` has one for such a network
            labels = (probabilities >= threshold).astype(np.uint8)
        else:
            # The class is not that of the largest probability: probabilities are equal where logits are close.
            labels = logits.argmax(dim=1).numpy()
            if threshold is not None:
                labels[probabilities.max(axis=1) < threshold] = UNKNOWN
        yield Batch(names, labels, probabilities, None if pooled is None else pooled.numpy())


@torch.inference_mode()
def logits_of_batch(runnable: Runnable, pixels: Tensor, policy: str) -> Tensor:
    """The mean logits of the policy's views, float32 `[B, num_labels]` on the CPU, of uint8 `[B, C, H, W]`."""

    def predict(view: Tensor) -> Tensor:
        return runnable.network(pixel_values=runnable.normalize(view)).logits.float()

    return average(logits_of_views(predict, pixels, views_of(policy)), POLICIES[policy]).cpu()


@torch.inference_mode()
def logits_and_embeddings_of_batch(runnable: Runnable, pixels: Tensor, policy: str) -> tuple[Tensor, Tensor]:
    """
    The logits of `logits_of_batch`, and the mean pooled features of the same views.

    The head is linear: of the mean features it makes the mean logits.

    Returns:
        Float32 `[B, num_labels]` and `[B, hidden_sizes[-1]]`, on the CPU.
    """
    network = runnable.network
    assert isinstance(network, SlimResNetForImageClassification)  # other programs give logits alone

    def predict(view: Tensor) -> Tensor:
        pooled = network.slimresnet(runnable.normalize(view)).pooler_output
        return torch.cat([network.classifier(pooled).float(), pooled.float()], dim=1)

    both = average(logits_of_views(predict, pixels, views_of(policy)), POLICIES[policy]).cpu()
    return both[:, : network.config.num_labels], both[:, network.config.num_labels :]


def _say_skipped(skipped: list[NamedImage]) -> None:
    """Prints which images were left out."""
    if skipped:
        print(f"left out, because they cannot be decoded: {len(skipped):,}", file=sys.stderr)
        for image in skipped:
            print(f"  {image.name}: {image.reason}", file=sys.stderr)
