"""How much a network computes for an image."""

import json
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification


def multiply_adds(config: SlimResNetConfig, image_size: int, part: str = "") -> int:
    """
    Multiply-adds of convolutions and linear layers for an image of `image_size` pixels a side, forward.

    Args:
        part: name of a module of the network, such as `slimresnet.embedder`; the whole network by default.
    """
    fields = {name: getattr(config, name) for name in SlimResNetConfig.__annotations__}
    return _count(json.dumps(fields | {"num_labels": config.num_labels}), image_size, part)


@cache
def _count(fields: str, image_size: int, part: str) -> int:
    """Of a network with the fields of its config as JSON. A run asks several times; counting takes a quarter second."""
    config = SlimResNetConfig(**json.loads(fields))
    with torch.device("meta"):
        model = SlimResNetForImageClassification(config).eval()
        pixel_values = torch.empty(1, config.num_channels, image_size, image_size)
    with FlopCounterMode(display=False) as counter:
        model(pixel_values=pixel_values)
    name = ".".join(filter(None, [type(model).__name__, part]))
    return sum(counter.get_flop_counts()[name].values()) // 2
