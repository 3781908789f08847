"""Putting pixels of one batch into another, sample by sample: what several transforms are made with."""

import numpy as np
from torch import Tensor

from slimresnet.data.device import to_device


def paste(pixels: Tensor, patch: Tensor, mask: Tensor) -> Tensor:
    """`patch` where `mask` is 255, `pixels` where it is 0; all uint8. Several times as fast here as `torch.where`."""
    return (pixels ^ patch).bitwise_and_(mask).bitwise_xor_(pixels)


def box_mask(boxes: np.ndarray, pixels: Tensor) -> Tensor:
    """255 inside each sample's box (top, bottom, left, right, int64 `[B, 4]`), 0 elsewhere: uint8 `[B, 1, H, W]`."""
    count, (height, width) = len(boxes), pixels.shape[-2:]
    top, bottom, left, right = boxes.T[:, :, None]
    rows, columns = np.arange(height), np.arange(width)
    # A mask is made of two kinds of lines, the box's and an empty one, which are again copied whole.
    lines = np.zeros((count + 1, width), dtype=np.uint8)
    lines[:count][(columns >= left) & (columns < right)] = 255
    which = np.where((rows >= top) & (rows < bottom), np.arange(count)[:, None], count)
    return (
        to_device(lines, pixels.device)
        .index_select(0, to_device(which.ravel(), pixels.device))
        .view(-1, 1, height, width)
    )
