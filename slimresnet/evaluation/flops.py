"""How much a network computes for an image."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification


def multiply_adds(config: SlimResNetConfig, image_size: int) -> int:
    """Multiply-adds of convolutions and linear layers for an image of `image_size` pixels a side, forward."""
    with torch.device("meta"):
        model = SlimResNetForImageClassification(config).eval()
        pixel_values = torch.empty(1, config.num_channels, image_size, image_size)
    with FlopCounterMode(display=False) as counter:
        model(pixel_values=pixel_values)
    return counter.get_total_flops() // 2
