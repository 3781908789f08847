"""How much a network computes for an image."""

import json
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification


def multiply_adds(config: SlimResNetConfig, image_size: int) -> int:
    """Multiply-adds of convolutions and linear layers for an image of `image_size` pixels a side, forward."""
    fields = {name: getattr(config, name) for name in SlimResNetConfig.__annotations__}
    return _count(json.dumps(fields | {"num_labels": config.num_labels}), image_size)


@cache
def _count(fields: str, image_size: int) -> int:
    """Of a network with the fields of its config as JSON. A run asks several times; counting takes a quarter second."""
    config = SlimResNetConfig(**json.loads(fields))
    with torch.device("meta"):
        model = SlimResNetForImageClassification(config).eval()
        pixel_values = torch.empty(1, config.num_channels, image_size, image_size)
    with FlopCounterMode(display=False) as counter:
        model(pixel_values=pixel_values)
    return counter.get_total_flops() // 2
