"""What is measured while steps go by: losses, the time that steps waited for data, speed."""

import math
import time

import torch
from accelerate import Accelerator
from torch import Tensor

from slimresnet.errors import SlimResNetError
from slimresnet.recipe.settings import Recipe
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


class Meter:
    """
    Measures an epoch, from the step on that it begins or goes on at.

    Losses stay on the device until somebody looks: reading one waits for all that the device was given.

    Args:
        total_batch_size: images of an optimiser step over all processes.
    """

    def __init__(self, recipe: Recipe, accelerator: Accelerator, progress: Progress, total_batch_size: int):
        self._recipe, self._accelerator, self._progress = recipe, accelerator, progress
        self._total_batch_size = total_batch_size
        self._losses: list[Tensor] = []
        self._images = 0
        self._data_time = 0.0
        self._started = self._looked_at = time.perf_counter()

    def waited(self, seconds: float) -> None:
        """Counts seconds that a step waited for its inputs."""
        self._data_time += seconds

    def took(self, loss: Tensor) -> None:
        """Counts the loss of a batch, a scalar on the device."""
        self._losses.append(loss)

    def look(self) -> dict[str, float]:
        """
        Reads the losses since the last look. Every process has to call it.

        Returns:
            `loss` of the last step, and `train_samples_per_second` since the last look.

        Raises:
            DivergedError: a loss is not finite.
        """
        losses = self._mean_losses()
        self._losses.clear()
        first = self._progress.global_step - len(losses) + 1
        for step, loss in enumerate(losses, start=first):
            if not math.isfinite(loss):
                raise DivergedError(f"the loss of step {step} is {loss}", step, self._recipe, self._progress.max_steps)
        for loss in losses:  # one by one, so that the sum does not depend on where it is looked at
            self._progress.epoch_loss_sum += loss
        now = time.perf_counter()
        seconds = now - self._looked_at
        images = len(losses) * self._total_batch_size
        self._images += images
        self._progress.train_runtime += seconds
        return {"loss": losses[-1], "train_samples_per_second": images / seconds}

    def go_on(self) -> None:
        """Starts the clock again: what came since the last look, such as a checkpoint, is no time of training."""
        self._looked_at = time.perf_counter()

    def summary(self) -> dict[str, float]:
        """`train_samples_per_second` of the epoch, and `data_time`, the share of it that waited for data."""
        seconds = self.seconds
        return {"train_samples_per_second": self._images / seconds, "data_time": self._data_time / seconds}

    @property
    def seconds(self) -> float:
        """Since the epoch began or went on."""
        return time.perf_counter() - self._started

    def _mean_losses(self) -> list[float]:
        """A number a step: the mean over its accumulated batches and over processes."""
        means = self._accelerator.reduce(torch.stack(self._losses).float(), reduction="mean")
        return means.view(-1, self._recipe.gradient_accumulation_steps).mean(dim=1).tolist()
