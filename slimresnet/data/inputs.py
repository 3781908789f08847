"""What a recipe makes of pixels: the model's inputs in training, and the image processor that goes with the model."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from transformers import ViTImageProcessorPil

from modeling_slimresnet import SlimResNetConfig
from slimresnet.data.loader import TrainingBatch, joined
from slimresnet.data.sources.decoding import PixelFormat, processor_settings
from slimresnet.data.task import task_of
from slimresnet.data.transforms.normalize import normalize
from slimresnet.data.transforms.resize import resize
from slimresnet.data.transforms.transform import ImageTransform, LabelTransform, transforms_of
from slimresnet.recipe.checks import RecipeError, parse_resizing
from slimresnet.recipe.settings import RESIZE_MODE, Recipe

_BYTES_AT_ONCE = 2**25  # some ten thousand images of CIFAR-10


class TrainingInputs:
    """
    Makes the model's inputs of a batch: augment, mix, normalise.

    Args:
        num_epochs: epochs of the run, of which `progressive_resizing` takes shares.

    Attributes:
        normalize: uint8 `[B, C, H, W]` to the float32 `pixel_values` that the model takes, in evaluation too.
        last_full_epoch: the last epoch, counted from 0, that has all of the recipe's augmentations; the last of the
            run if none has.

    Raises:
        RecipeError: `progressive_resizing`, or a setting of a transform, does not fit the size of the network's images.
    """

    def __init__(self, recipe: Recipe, config: SlimResNetConfig, num_epochs: int):
        self._stages = parse_resizing(recipe.progressive_resizing)
        if any(pixels > config.image_size for pixels, _ in self._stages):
            raise RecipeError(f"--progressive_resizing must stay within the image size, {config.image_size} pixels.")
        self._num_epochs, self._image_size, self._num_labels = num_epochs, config.image_size, config.num_labels
        self._mean, self._std = torch.tensor(recipe.image_mean), torch.tensor(recipe.image_std)
        self.normalize = partial(normalize, mean=tuple(recipe.image_mean), std=tuple(recipe.image_std))
        self._full_epochs = range(
            recipe.num_light_augmentation_epochs, num_epochs - recipe.num_final_light_augmentation_epochs
        )
        self.last_full_epoch = self._full_epochs[-1] if self._full_epochs else num_epochs - 1
        self._image_transforms = transforms_of(recipe, ImageTransform)
        self._label_transforms = transforms_of(recipe, LabelTransform)
        for transform in (*self._image_transforms, *self._label_transforms):
            transform.check(config.image_size)

    def denormalize(self, pixel_values: Tensor) -> Tensor:
        """The uint8 pixels that `normalize` made `pixel_values` of, the same shape."""
        pixels = pixel_values * self._std.view(-1, 1, 1) + self._mean.view(-1, 1, 1)
        return (255 * pixels).round().clamp(0, 255).to(torch.uint8)

    def __call__(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Returns `pixel_values`, float32 `[B, C, H, W]`, and `labels`, float32 `[B, num_labels]`."""
        pixels, labels, draws = batch
        is_full = draws.epoch in self._full_epochs
        for change in self._image_transforms:
            if is_full or change.is_light:
                pixels = change(pixels, draws)
        pixels = resize(pixels, resolution(self._stages, draws.epoch, self._num_epochs, self._image_size))
        task = task_of(labels)
        targets, chance = task.targets(labels, self._num_labels), task.chance(self._num_labels)
        for mix in self._label_transforms:
            if is_full or mix.is_light:
                pixels, targets = mix(pixels, targets, draws, chance)
        return {"pixel_values": self.normalize(pixels), "labels": targets}

    def together(self, group: Sequence[TrainingBatch]) -> list[dict[str, Tensor]]:
        """The inputs of each of the batches, which are of one epoch and one size, all made at once."""
        inputs = self(joined(group))
        parts = zip(*(value.split(len(group[0].labels)) for value in inputs.values()), strict=True)
        return [dict(zip(inputs, values, strict=True)) for values in parts]


def grouped(batches: Iterator[TrainingBatch]) -> Iterator[list[TrainingBatch]]:
    """
    Batches of one epoch and one size, in groups whose inputs are best made at once.

    On a GPU a group has several batches: the kernels for one batch take longer to launch than to run.
    """
    for first in batches:
        yield [first, *islice(batches, batches_at_once(first.pixels) - 1)]


def batches_at_once(pixels: Tensor) -> int:
    """How many batches like `pixels`, uint8 `[B, C, H, W]`, are augmented at once; inputs do not depend on it."""
    if pixels.device.type == "cpu" or len(pixels) % 2:  # the last sample of an odd batch is mixed with one of its batch
        return 1
    return max(1, _BYTES_AT_ONCE // pixels.nbytes)


def resolution(stages: list[tuple[int, float]], epoch: int, num_epochs: int, image_size: int) -> int:
    """Height and width in pixels of the images of `epoch`, counted from 0 (progressive resizing: Howard, 2018)."""
    return next((pixels for pixels, share in stages if epoch < share * num_epochs), image_size)


def build_image_processor(recipe: Recipe, config: SlimResNetConfig) -> ViTImageProcessorPil:
    """
    The processor that does to an image what training did, but for augmentation; works without torchvision.

    No processor of transformers' own turns colours grey. For a network of one channel the processor makes three, all
    normalised alike, and the network mixes them.
    """
    return ViTImageProcessorPil(
        **processor_settings(pixel_format_of(recipe, config)),
        image_mean=[*np.broadcast_to(recipe.image_mean, 3).tolist()],
        image_std=[*np.broadcast_to(recipe.image_std, 3).tolist()],
        do_convert_rgb=True,
    )


def pixel_format_of(recipe: Recipe, config: SlimResNetConfig) -> PixelFormat:
    """What pictures are made into for a network that a recipe trains."""
    return PixelFormat(config.image_size, recipe.resize_mode or RESIZE_MODE, config.num_channels)
