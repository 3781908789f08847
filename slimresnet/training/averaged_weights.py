"""An exponential moving average of the weights, and the BatchNorm statistics that go with it."""

from collections.abc import Generator
from contextlib import closing

from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from slimresnet.data.feed import training_inputs
from slimresnet.training.run import Run

# Wu & Johnson (2021, "Rethinking Batch in BatchNorm", section 3) find 1,000 to 10,000 images enough for exact
# statistics of ImageNet. Images of 32 pixels have fewer places to take a mean over, so the upper end.
STATISTICS_IMAGES = 10_000


class AveragedWeights:
    """
    Averages the weights of a run over its steps.

    BatchNorm's running statistics are those of networks that training has left behind. `--ema_batchnorm average`
    averages them like weights. That is only near the statistics of the averaged weights, which are another network.
    `recompute` measures these (Izmailov et al., 2018): on the first training images of the epoch, augmented as in
    training. So they are of light images where the epoch has light ones, and of small ones where it has small ones. The
    result is a function of weights, seed, epoch and number of processes: a resumed run comes to the same bits.

    Args:
        run: whose network is averaged: the plain network, before anything is prepared or fused.

    Attributes:
        model: what checkpoints hold of it.
    """

    def __init__(self, run: Run):
        self._run = run
        self._recomputes = run.plan.recipe.ema_batchnorm == "recompute"
        self._has_statistics = not self._recomputes
        # A copy of the plain model: prepare() changes the forward of the original in place. Without use_buffers each
        # update copies the statistics of the trained network over those that were recomputed.
        average = get_ema_multi_avg_fn(run.plan.recipe.ema_decay)
        self.model = AveragedModel(run.model, multi_avg_fn=average, use_buffers=not self._recomputes)

    @property
    def module(self) -> nn.Module:
        """The network with the averaged weights."""
        return self.model.module

    def update(self) -> None:
        """Takes the weights behind a step in."""
        self.model.update_parameters(self._run.model)
        self._has_statistics = not self._recomputes

    def complete(self) -> None:
        """
        Gives the averaged weights the statistics that they are scored and saved with. Every process has to call it.

        It does nothing where the statistics are averaged, or were recomputed since the last step. Each process reads
        images of its own; all then have the statistics of the first one.

        Raises:
            DatasetError: the images cannot be read.
        """
        if self._has_statistics:
            return
        with closing(self._images()) as images:
            update_bn(images, _Autocast(self.module, self._run.accelerator))
        broadcast(list(self.module.buffers()))
        self._has_statistics = True

    def _images(self) -> Generator[Tensor, None, None]:
        """Pixel values of the first steps of the epoch that the last step was of."""
        # Each process reads as many, though the first one's statistics are kept: alone it has enough.
        loader, progress = self._run.loader, self._run.progress
        images_a_step = self._run.plan.images_per_step // self._run.accelerator.num_processes
        num_steps = min(-(-STATISTICS_IMAGES // images_a_step), loader.steps_per_epoch)
        first_step = (progress.global_step - 1) // loader.steps_per_epoch * loader.steps_per_epoch
        with closing(training_inputs(loader, self._run.inputs, first_step, first_step + num_steps)) as batches:
            for batch in batches:
                yield batch["pixel_values"]


class _Autocast(nn.Module):
    """A network in the precision of training. Around `update_bn` as a whole, autocast would reach the augmentation."""

    def __init__(self, network: nn.Module, accelerator: Accelerator):
        super().__init__()
        self.network, self._accelerator = network, accelerator

    def forward(self, pixel_values: Tensor) -> None:
        with self._accelerator.autocast():
            self.network(pixel_values)
