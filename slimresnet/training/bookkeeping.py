"""What is measured while steps go by: losses, the time that steps waited for data, speed."""

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from slimresnet.errors import SlimResNetError
from slimresnet.recipe.settings import Recipe
from slimresnet.training.clocks import clock_of
from slimresnet.training.optim.schedule import learning_rates
from slimresnet.training.state.progress import Progress


class DivergedError(SlimResNetError):
    """The loss, a weight or a logit is no longer a number; the message has the step and the learning rate."""

    def __init__(self, what: str, step: int, recipe: Recipe, max_steps: int):
        rate = learning_rates(recipe, step - 1, max_steps)["learning_rate"]
        super().__init__(
            f"{what} at a learning rate of {rate:.4g}: lower --learning_rate or add --warmup_steps. "
            "Checkpoints written before are kept."
        )


@dataclass(frozen=True)
class _Look:
    """
    Attributes:
        step: the last step that is looked at.
        losses: a number a step; on the CPU once `done` is waited for.
        waits: begin and end of each wait for data, as marks of the clock.
        done: a mark behind the steps.
    """

    step: int
    losses: Tensor
    waits: list[tuple[Any, Any]]
    done: Any


class Meter:
    """
    Measures an epoch, from the step on that it begins or goes on at.

    Losses stay on the device until somebody looks: reading one waits for the step that made it. A GPU that worked off
    its queue would stand still until the next step is launched. So on one GPU a look is read at the next one, while
    the steps between are still in the queue. Several processes agree at each look whether to stop, and wait anyway.

    Args:
        images_per_step: images that the network computes on in an optimiser step over all processes.
    """

    def __init__(self, recipe: Recipe, accelerator: Accelerator, progress: Progress, images_per_step: int):
        self._recipe, self._accelerator, self._progress = recipe, accelerator, progress
        self._images_per_step = images_per_step
        self._clock = clock_of(accelerator.device)
        self._reads_late = self._clock.has_queue and accelerator.num_processes == 1
        self._losses: list[Tensor] = []
        self._waits: list[tuple[Any, Any]] = []
        self._looks: deque[_Look] = deque()  # those that are still to be read
        self._images = 0
        self._data_time = 0.0
        self._started, self._looked_at = time.perf_counter(), self._clock.mark()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time that the device stands still while the inputs of a batch are asked for."""
        begin = self._clock.mark()
        yield
        self._waits.append((begin, self._clock.mark()))

    def took(self, loss: Tensor) -> None:
        """Counts the loss of a batch, a scalar on the device."""
        self._losses.append(loss)

    def look(self, waits: bool) -> Iterator[tuple[int, dict[str, float]]]:
        """
        Looks at the steps since the last look. Every process has to call it.

        Args:
            waits: whether to wait for the device, and read all looks. Otherwise one GPU leaves this look to the next.

        Yields:
            For each look that is read, its last step, and of it the `loss`, and `train_samples_per_second` since the
            look before.

        Raises:
            DivergedError: a loss is not finite.
        """
        losses = self._mean_losses().to("cpu", non_blocking=self._clock.has_queue)
        self._looks.append(_Look(self._progress.global_step, losses, self._waits, self._clock.mark()))
        self._losses, self._waits = [], []
        num_left = 1 if self._reads_late and not waits else 0
        while len(self._looks) > num_left:
            look = self._looks.popleft()
            yield look.step, self._read(look)

    def _read(self, look: _Look) -> dict[str, float]:
        self._clock.wait_for(look.done)
        losses = look.losses.tolist()
        first = look.step - len(losses) + 1
        for step, loss in enumerate(losses, start=first):
            if not math.isfinite(loss):
                raise DivergedError(f"the loss of step {step} is {loss}", step, self._recipe, self._progress.max_steps)
        for loss in losses:  # one by one, so that the sum does not depend on where it is looked at
            self._progress.epoch_loss_sum += loss
        self._data_time += sum(self._clock.seconds(begin, end) for begin, end in look.waits)
        seconds = self._clock.seconds(self._looked_at, look.done)
        images = len(losses) * self._images_per_step
        self._images += images
        self._progress.train_runtime += seconds
        self._looked_at = look.done
        return {"loss": losses[-1], "train_samples_per_second": images / seconds}

    def go_on(self) -> None:
        """
        Starts the clock again: what came since the last look, such as a checkpoint, is no time of training.

        Where looks are still to be read, the device trains meanwhile, and the clock goes on.
        """
        if not self._looks:
            self._looked_at = self._clock.mark()

    def summary(self) -> dict[str, float]:
        """
        Of the epoch, once a look has waited for its last step.

        Returns:
            `train_samples_per_second`, and `data_time`, the share of the epoch's time that waited for data. On a CPU
            that is the time of loading and making inputs. On an NVIDIA GPU it is the time that the steps' stream stood
            still because the inputs of the next step were not launched, or not made, when the step before was done.
        """
        seconds = self.seconds
        return {"train_samples_per_second": self._images / seconds, "data_time": self._data_time / seconds}

    @property
    def seconds(self) -> float:
        """Since the epoch began or went on."""
        return time.perf_counter() - self._started

    def _mean_losses(self) -> Tensor:
        """A number a step: the mean over its accumulated batches and over processes."""
        means = self._accelerator.reduce(torch.stack(self._losses).float(), reduction="mean")
        return means.view(-1, self._recipe.gradient_accumulation_steps).mean(dim=1)
