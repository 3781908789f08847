"""How much a run computes."""

from collections import Counter

import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification

from .inputs import resolution
from .progress import Progress
from .recipe import Recipe, parse_resizing
from .sharpness import is_sharpness_aware


def multiply_adds(config: SlimResNetConfig, image_size: int) -> int:
    """Multiply-adds of convolutions and linear layers for an image of `image_size` pixels a side, forward."""
    with torch.device("meta"):
        model = SlimResNetForImageClassification(config).eval()
        pixel_values = torch.empty(1, config.num_channels, image_size, image_size)
    with FlopCounterMode(display=False) as counter:
        model(pixel_values=pixel_values)
    return counter.get_total_flops() // 2


def total_flos(recipe: Recipe, config: SlimResNetConfig, progress: Progress) -> int:
    """
    Floating-point operations of a whole run: six times the multiply-adds of every image seen, at the size it was seen.

    Six is two, an addition counting as one, for each of forward, the inputs' gradients and the weights' gradients. A
    sharpness-aware step does all that twice.
    """
    stages = parse_resizing(recipe.progressive_resizing)
    steps_at: Counter[int] = Counter()
    for epoch in range(progress.num_epochs):
        size = resolution(stages, epoch, progress.num_epochs, config.image_size)
        steps = min(progress.steps_per_epoch, progress.max_steps - epoch * progress.steps_per_epoch)
        steps_at[size] += steps * (2 if is_sharpness_aware(recipe, epoch, progress.num_epochs) else 1)
    return (
        6 * recipe.total_train_batch_size * sum(steps * multiply_adds(config, size) for size, steps in steps_at.items())
    )
