"""Normalising batches: from bytes to what a network takes."""

import numpy as np
from torch import Tensor

from slimresnet.data.device import to_device


def normalize(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 `[B, C, H, W]` to float32: scaled to 0–1, less `mean`, over `std` of its channel, as the processor does."""
    std_ = np.array(std, dtype=np.float32).reshape(-1, 1, 1)
    mean_ = np.array(mean, dtype=np.float32).reshape(-1, 1, 1)
    return pixels.float().mul_(to_device(1 / (255 * std_), pixels.device)).sub_(to_device(mean_ / std_, pixels.device))
