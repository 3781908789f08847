"""What every graph of a network is made of, and which sizes of images it takes."""

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification


class LogitsOfPixels(nn.Module):
    """
    `pixel_values` to `logits`, without labels or options: what a graph is made of.

    Args:
        normalize: uint8 `[B, 3, H, W]` to what the network takes, where the graph is to do that itself.
    """

    def __init__(self, network: SlimResNetForImageClassification, normalize: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.network, self.normalize = network, normalize

    def forward(self, pixel_values: Tensor) -> Tensor:
        if self.normalize is not None:
            pixel_values = self.normalize(pixel_values)
        return self.network(pixel_values=pixel_values, return_dict=True).logits


def smallest_side(config: SlimResNetConfig) -> int | None:
    """
    The height and width from which on a graph takes images of any size; None where it takes the config's size alone.

    The network takes every size. But where a feature map has a single pixel, torch.export makes a graph for single
    pixels alone. The stages divide a side by their strides, rounding up: a side above the product of the strides leaves
    two pixels or more.
    """
    smallest = math.prod(config.strides) + 1
    return smallest if smallest <= config.image_size else None


def free_dimensions(module: LogitsOfPixels) -> dict[str, dict[int, torch.export.Dim]]:
    """The dimensions of `pixel_values` that a graph leaves open, for an exporter's `dynamic_shapes`."""
    free = {0: torch.export.Dim("batch", min=1)}
    smallest = smallest_side(module.network.config)
    if smallest is not None:
        free |= {2: torch.export.Dim("height", min=smallest), 3: torch.export.Dim("width", min=smallest)}
    return {"pixel_values": free}


@contextmanager
def quiet() -> Iterator[None]:
    """Silences the exporters' remarks on their own insides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
