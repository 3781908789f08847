"""Copies from the CPU, where random decisions are made, to the device."""

import numpy as np
import torch
from torch import Tensor


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Copies a small array to a device, without waiting for the work that the device has queued."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # a copy from pageable memory waits for the queue
    return tensor.to(device, non_blocking=True)
