"""From the CPU, where decisions are made, to the device."""

import numpy as np
import torch
from torch import Tensor


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A small array from the CPU to the device, without waiting for what the device is at."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # a copy from other memory waits for all that the GPU was given before
    return tensor.to(device, non_blocking=True)
