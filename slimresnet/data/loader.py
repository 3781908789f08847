"""Batches of uint8 pixels for one process: which rows, in which order, from which workers."""

import multiprocessing
import signal
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from slimresnet.data.device import to_device
from slimresnet.data.randomness import Draws, JoinedDraws, balanced_order, join_draws, sample_order
from slimresnet.data.sources.source import DatasetError, ImageSource, ImageSplit

# The signals of this system that ask a process to stop: Ctrl-C, a scheduler, Ctrl-Break.
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name))


class TrainingBatch(NamedTuple):
    """
    Pixels uint8 `[B, C, H, W]` and labels as `ImageSplit` has them, `[B]` or `[B, num_labels]`, both on the device, and
    the draws that belong to them.

    Where the loader makes copies, B counts them: the images one after another, then all of them again, and so on.
    """

    pixels: Tensor
    labels: Tensor
    draws: Draws | JoinedDraws


def joined(batches: Sequence[TrainingBatch]) -> TrainingBatch:
    """Batches of one epoch as one."""
    if len(batches) == 1:
        return batches[0]
    pixels, labels, draws = zip(*batches, strict=True)
    return TrainingBatch(torch.cat(pixels), torch.cat(labels), join_draws(draws))


@dataclass(frozen=True)
class Loading:
    """How a process gets its batches: its device, its place among the processes, and its workers."""

    device: torch.device
    process_index: int = 0
    num_processes: int = 1
    num_workers: int = 0


class TrainingLoader:
    """
    The training batches of this process, epoch by epoch.

    An epoch is a list of global batches, each of `batch_size × num_processes × accumulation` consecutive positions of
    `order`. The remainder after the last full batch is dropped; it differs each epoch. So all processes do the
    same number of steps, and together see the same samples as one process would.

    Args:
        split: where the samples are.
        rows: rows that are trained on, int64.
        seed: seed of the order and of the draws.
        batch_size: samples a process takes at once.
        accumulation: batches a process takes for one optimiser step.
        shuffle_buffer_size: samples within which the order is shuffled.
        balanced: whether each class stands equally often in the order, as in `balanced_order`.
        copies: copies of each sample in its batch, for which the batch has draws of their own (batch augmentation:
            Hoffer et al., 2020, "Augment your batch: Improving generalization through instance repetition").

    Attributes:
        accumulation: as above.
        total_batch_size: samples of an optimiser step over all processes, not counting copies.
        steps_per_epoch: optimiser steps of an epoch, at least 1.

    Raises:
        DatasetError: there are fewer rows than one global batch needs, or `balanced` rows outnumber the buffer.
    """

    def __init__(
        self,
        split: ImageSplit,
        rows: np.ndarray,
        loading: Loading,
        *,
        seed: int,
        batch_size: int,
        accumulation: int,
        shuffle_buffer_size: int,
        balanced: bool = False,
        copies: int = 1,
    ):
        self._split, self._rows, self._loading = split, rows, loading
        self._seed, self._batch_size, self._shuffle_buffer_size = seed, batch_size, shuffle_buffer_size
        self._balanced, self._copies, self.accumulation = balanced, copies, accumulation
        self.total_batch_size = batch_size * loading.num_processes * accumulation
        self.steps_per_epoch = len(rows) // self.total_batch_size
        if self.steps_per_epoch == 0:
            raise DatasetError(
                f"{len(rows)} training images are fewer than one batch of {self.total_batch_size} "
                "(--total_train_batch_size): lower the batch size."
            )
        if balanced and shuffle_buffer_size < len(rows):
            raise DatasetError(
                f"--balanced_sampling takes the images of a class from anywhere in the data, which a "
                f"--shuffle_buffer_size of {shuffle_buffer_size:,} does not hold: give {len(rows):,}."
            )

    @property
    def device(self) -> torch.device:
        """The device of the batches."""
        return self._loading.device

    def order(self, epoch: int) -> np.ndarray:
        """The rows of an epoch over all processes, in order, int64 `[num_rows]`."""
        if self._balanced:
            return self._rows[balanced_order(self._seed, epoch, self._split.labels[self._rows])]
        return self._rows[sample_order(self._seed, epoch, len(self._rows), self._shuffle_buffer_size)]

    def epoch(
        self, epoch: int, first_step: int = 0, end_step: int | None = None
    ) -> Generator[TrainingBatch, None, None]:
        """
        The batches of an epoch from optimiser step `first_step` on; a step has `accumulation` batches.

        Args:
            end_step: the first step that is not loaded; None for the end of the epoch.
        """
        order = self.order(epoch)
        starts = [
            step * self.total_batch_size
            + (part * self._loading.num_processes + self._loading.process_index) * self._batch_size
            for step in range(first_step, self.steps_per_epoch if end_step is None else end_step)
            for part in range(self.accumulation)
        ]
        batches = [order[start : start + self._batch_size] for start in starts]
        loaded = load_batches(self._split, batches, self._loading)
        for start, rows, (pixels, labels) in zip(starts, batches, loaded, strict=True):
            if self._copies > 1:  # copy after copy: neighbours, which may be mixed, are two images
                pixels, labels = pixels.repeat(self._copies, 1, 1, 1), torch.cat([labels] * self._copies)
            yield TrainingBatch(pixels, labels, Draws(self._seed, epoch, start, rows, self._copies))


def evaluation_batches(
    split: ImageSplit, rows: np.ndarray, batch_size: int, loading: Loading
) -> Iterator[tuple[Tensor, Tensor]]:
    """
    This process's consecutive share of `rows`. Together the processes read each row once, in order of process.

    Yields:
        pixels uint8 `[B, C, H, W]` and their labels on the device; the last batch may be smaller.
    """
    share = np.array_split(rows, loading.num_processes)[loading.process_index]
    batches = [share[start : start + batch_size] for start in range(0, len(share), batch_size)]
    return load_batches(split, batches, loading)


def load_batches(split: ImageSplit, batches: Sequence[np.ndarray], loading: Loading) -> Iterator[tuple[Tensor, Tensor]]:
    """Reads batches of row numbers; yields pixels uint8 `[B, C, H, W]` and their labels on the device."""
    loader: Iterable[Tensor | DatasetError]
    if not split.images.uses_workers:
        loader = split.images.read(batches)
    else:
        loader = DataLoader(
            _BatchStream(split.images, batches),
            batch_size=None,
            num_workers=min(loading.num_workers, len(batches)),
            worker_init_fn=pass_first_signal_over,
            pin_memory=loading.device.type == "cuda",
        )
    # Signals are held back: one that comes between a worker's start and the installation of its handlers would end the
    # worker.
    _hold_signals(True)
    try:
        loaded = iter(loader)
    finally:
        _hold_signals(False)
    try:
        for rows, pixels in zip(batches, loaded, strict=True):
            if isinstance(pixels, DatasetError):
                raise pixels
            yield pixels.to(loading.device, non_blocking=True), to_device(split.labels[rows], loading.device)
    finally:
        # Workers end with the last reference to the iterator. The traceback of an error would keep the iterator alive
        # until the garbage collector runs, which may collect the queues first that tell the workers to end: the program
        # would then wait for the workers for ever.
        del loaded


def pass_first_signal_over(worker_id: int) -> None:
    """A signal to the whole process group is for the main process, which needs its workers to finish a step."""
    for number in STOP_SIGNALS:
        signal.signal(number, lambda number, frame: signal.signal(number, signal.SIG_DFL))
    _hold_signals(False)


def _hold_signals(hold: bool) -> None:
    """
    Holds the signals back that ask this process to stop, or lets them through. Windows has no way to do so.

    Under `forkserver` signals are never held back: the server starts with the first worker, and would inherit the mask,
    as would every process that it starts from then on.
    """
    if hasattr(signal, "pthread_sigmask") and multiprocessing.get_start_method() != "forkserver":
        signal.pthread_sigmask(signal.SIG_BLOCK if hold else signal.SIG_UNBLOCK, STOP_SIGNALS)


class _BatchStream(IterableDataset):
    """Worker `k` of `n` reads the batches `k, k + n, …`: the DataLoader takes from workers in turn, so order holds."""

    def __init__(self, images: ImageSource, batches: Sequence[np.ndarray]):
        self._images, self._batches = images, batches

    def __iter__(self) -> Iterator[Tensor | DatasetError]:
        worker = get_worker_info()
        batches = self._batches if worker is None else self._batches[worker.id :: worker.num_workers]
        try:
            yield from self._images.read(batches)
        except DatasetError as error:  # as an item: the DataLoader would wrap it in the worker's traceback
            yield error
