"""How much a run computes."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification

from .inputs import resolution
from .recipe import Recipe, parse_resizing


def multiply_adds(config: SlimResNetConfig, image_size: int) -> int:
    """Multiply-adds of convolutions and linear layers for an image of `image_size` pixels a side, forward."""
    with torch.device("meta"):
        model = SlimResNetForImageClassification(config).eval()
        pixel_values = torch.empty(1, config.num_channels, image_size, image_size)
    with FlopCounterMode(display=False) as counter:
        model(pixel_values=pixel_values)
    return counter.get_total_flops() // 2


def total_flos(recipe: Recipe, config: SlimResNetConfig, steps_per_epoch: int, max_steps: int) -> int:
    """
    Floating-point operations of a whole run: six times the multiply-adds of every image seen, at the size it was seen.

    Six is two, an addition counting as one, for each of forward, the inputs' gradients and the weights' gradients.
    """
    stages, num_epochs = parse_resizing(recipe.progressive_resizing), -(-max_steps // steps_per_epoch)
    total = 0
    for epoch in range(num_epochs):
        steps = min(steps_per_epoch, max_steps - epoch * steps_per_epoch)
        size = resolution(stages, epoch, num_epochs, config.image_size)
        total += 6 * multiply_adds(config, size) * steps * recipe.total_train_batch_size
    return total
