"""What a launch, its machine and its data make of a recipe, and why."""

import dataclasses
from dataclasses import dataclass

from accelerate import Accelerator

from modeling_slimresnet import SlimResNetConfig
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.hardware import (
    Choice,
    choose_channels_last,
    choose_cuda_graphs,
    choose_eval_batch_size,
    choose_fused_batchnorm,
    choose_torch_compile,
)
from slimresnet.recipe.settings import Recipe

DEFAULT_TOTAL_TRAIN_BATCH_SIZE = 128


@dataclass(frozen=True)
class BatchSizes:
    """Images that a process takes at once, and images of one optimiser step over all processes."""

    per_device: int
    total: int


@dataclass(frozen=True)
class Plan:
    """
    A recipe with all that it left open decided.

    Attributes:
        recipe: what was asked.
        mixed_precision: `"no"`, `"bf16"` or `"fp16"`.
        channels_last, torch_compile, fused_batchnorm, cuda_graphs: as `Recipe`, without `"auto"`.
        batch: images at once, and of a step.
        eval_batch_size: images that a process scores at once.
        steps_per_epoch, max_steps: optimiser steps of an epoch and of the run.
        reasons: why each choice is as it is, by its setting.
    """

    recipe: Recipe
    mixed_precision: str
    channels_last: bool
    torch_compile: bool
    fused_batchnorm: bool
    cuda_graphs: bool
    batch: BatchSizes
    eval_batch_size: int
    steps_per_epoch: int
    max_steps: int
    reasons: dict[str, str]

    @property
    def images_per_step(self) -> int:
        """Images that the network computes on in an optimiser step over all processes: every copy counts."""
        return self.batch.total * self.recipe.augmented_copies

    @property
    def settings(self) -> dict:
        """Every setting by name, with what was decided in the place of what was left open."""
        return self.recipe.to_dict() | {
            **{name: getattr(self, name) for name in self.reasons},
            "per_device_train_batch_size": self.batch.per_device,
            "total_train_batch_size": self.batch.total,
            "per_device_eval_batch_size": self.eval_batch_size,
        }

    def portable_recipe(self) -> Recipe:
        """
        What was asked, in words that mean the same with another number of processes.

        A batch that was asked for by its share is put as the whole, which the learning rate is for.
        """
        if self.recipe.per_device_train_batch_size is None or self.recipe.total_train_batch_size is not None:
            return self.recipe
        return dataclasses.replace(
            self.recipe, total_train_batch_size=self.batch.total, per_device_train_batch_size=None
        )

    def describe(self) -> str:
        """The choices and their reasons, for people."""
        return ", ".join(
            f"{name.removeprefix('mixed_')} {getattr(self, name)} ({reason})" for name, reason in self.reasons.items()
        )


def batch_sizes(recipe: Recipe, num_processes: int, num_images: int | None = None) -> BatchSizes:
    """
    The batch of a process and that of all of them, the one from the other.

    Args:
        num_images: training images. Where the recipe names no batch, and they are fewer than one of the default, the
            batch is the largest power of two that they fill, whatever the launch. None for as many as that takes.

    Raises:
        RecipeError: the one does not divide by the other.
    """
    shares = num_processes * recipe.gradient_accumulation_steps
    terms = f"{num_processes} processes × {recipe.gradient_accumulation_steps} accumulation steps"
    per_device, total = recipe.per_device_train_batch_size, recipe.total_train_batch_size
    if per_device is None:
        total = total or _default_batch(num_images)
        if total % shares:
            raise RecipeError(f"--total_train_batch_size {total} does not divide by {terms}: change one of them.")
        return BatchSizes(total // shares, total)
    if total not in (None, per_device * shares):
        raise RecipeError(
            f"--total_train_batch_size {total}, which the learning rate is tuned for, is not {per_device} images "
            f"(--per_device_train_batch_size) × {terms}: change one of them."
        )
    return BatchSizes(per_device, per_device * shares)


def _default_batch(num_images: int | None) -> int:
    if not num_images or num_images >= DEFAULT_TOTAL_TRAIN_BATCH_SIZE:
        return DEFAULT_TOTAL_TRAIN_BATCH_SIZE
    return 1 << (num_images.bit_length() - 1)


def make_plan(
    recipe: Recipe,
    accelerator: Accelerator,
    precision_reason: str,
    config: SlimResNetConfig,
    batch: BatchSizes,
    steps_per_epoch: int,
) -> Plan:
    """
    Decides all that a recipe left open.

    Args:
        accelerator: of the launch.
        precision_reason: why it has its precision.
        config: of the network.
        batch: as `batch_sizes` gives it for this launch and these images.
        steps_per_epoch: optimiser steps that the training images are enough for.

    Raises:
        RecipeError: what was asked for is not possible on this machine or in this launch.
    """
    max_steps = recipe.max_train_steps or recipe.num_train_epochs * steps_per_epoch
    device_type = accelerator.device.type
    layout = choose_channels_last(recipe.channels_last, device_type, config)
    num_images = max_steps * batch.total * recipe.augmented_copies
    compiling = choose_torch_compile(recipe, accelerator, num_images)
    precision = Choice(accelerator.mixed_precision, precision_reason)
    choices: dict[str, Choice] = {"mixed_precision": precision, "channels_last": layout, "torch_compile": compiling}
    choices["fused_batchnorm"] = choose_fused_batchnorm(
        recipe, accelerator, config, channels_last=layout.value, is_compiled=compiling.value
    )
    choices["cuda_graphs"] = choose_cuda_graphs(
        recipe, accelerator, mixed_precision=precision.value, is_compiled=compiling.value
    )
    return Plan(
        recipe,
        **{name: choice.value for name, choice in choices.items()},
        batch=batch,
        eval_batch_size=choose_eval_batch_size(recipe.per_device_eval_batch_size, device_type, config.image_size),
        steps_per_epoch=steps_per_epoch,
        max_steps=max_steps,
        reasons={name: choice.reason for name, choice in choices.items()},
    )
