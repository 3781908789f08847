"""The model's inputs of a whole run, batch by batch; on a GPU they are made while it works at the steps before."""

from collections import deque
from collections.abc import Generator
from contextlib import closing

import torch
from torch import Tensor

from slimresnet.data.inputs import TrainingInputs, grouped
from slimresnet.data.loader import TrainingBatch, TrainingLoader
from slimresnet.data.sources.source import DatasetError


def training_inputs(
    loader: TrainingLoader, make_inputs: TrainingInputs, first_step: int, max_steps: int
) -> Generator[dict[str, Tensor], None, None]:
    """
    The inputs of optimiser steps `first_step` to `max_steps`, counted over epochs; nothing beyond them is loaded.

    Closing it ends the workers that load for it.

    On a CPU each batch is loaded and made when it is asked for, and an epoch's workers end before its last step. On a
    GPU a group of batches is made ahead, on a stream of its own, also across the end of an epoch. The group after the
    present one is asked for in the middle of the present one, so that the GPU has steps in its queue while numbers are
    drawn. Memory then holds the inputs of up to three groups. An error is raised before the
    first step of its group.

    Yields:
        `pixel_values` and `labels`, as `TrainingInputs` makes them. The current stream may read them.
    """
    with closing(_groups(loader, first_step, max_steps)) as groups:
        if loader.device.type == "cuda":
            yield from _made_ahead(groups, make_inputs, loader.device)
        else:
            for group in groups:
                yield from make_inputs.together(group)


def _groups(loader: TrainingLoader, first_step: int, max_steps: int) -> Generator[list[TrainingBatch], None, None]:
    """Batches that are made into inputs at once. A group is of one epoch: size and augmentation are an epoch's."""
    step = first_step
    while step < max_steps:
        epoch, first = divmod(step, loader.steps_per_epoch)
        end = min(loader.steps_per_epoch, max_steps - epoch * loader.steps_per_epoch)
        missing = (end - first) * loader.accumulation
        with closing(loader.epoch(epoch, first, end)) as batches:
            for group in grouped(batches):
                missing -= len(group)
                if not missing:
                    batches.close()  # validation follows the last steps, and has a use for the workers' processors
                yield group
        step += end - first


def _made_ahead(
    groups: Generator[list[TrainingBatch], None, None], make_inputs: TrainingInputs, device: torch.device
) -> Generator[dict[str, Tensor], None, None]:
    main, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side.wait_stream(main)  # which put the images on the device, where they lie there

    def make() -> tuple[list[dict[str, Tensor]], torch.cuda.Event] | DatasetError | None:
        # No generator yields from within this context, which would leave the stream set for its caller.
        with torch.cuda.stream(side):
            try:
                group = next(groups, None)
            except DatasetError as error:  # not yet: the steps before it, and maybe the end of their epoch, are sound
                return error
            return None if group is None else (make_inputs.together(group), side.record_event())

    finished: deque[torch.cuda.Event] = deque(maxlen=2)  # of the last two groups, once their steps are done
    made = make()
    while made is not None:
        if isinstance(made, DatasetError):
            raise made
        inputs, is_made = made
        main.wait_event(is_made)
        for number, batch in enumerate(inputs):
            if number == len(inputs) // 2:
                if len(finished) == 2:
                    finished[0].synchronize()  # the side stream waits for nobody, and would fill the memory
                made = make()
            for value in batch.values():
                value.record_stream(main)
            yield batch
        finished.append(main.record_event())
