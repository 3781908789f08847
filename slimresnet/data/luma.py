"""Grey out of colours: ITU-R 601-2 luma, in whole numbers as Pillow computes it."""

import numpy as np
from torch import Tensor

from slimresnet.data.device import to_device

LUMA = np.array([19595, 38470, 7471], dtype=np.int32)
"""Shares of red, green and blue, in 1/65536."""


def luma(pixels: Tensor) -> Tensor:
    """Grey values, uint8 `[N, 1, H, W]`, of uint8 `[N, 3, H, W]`; grey images as they are."""
    if pixels.shape[1] == 1:
        return pixels
    weighted = pixels.int() * to_device(LUMA, pixels.device).view(-1, 1, 1)
    return ((weighted.sum(dim=1, keepdim=True) + 0x8000) >> 16).to(pixels.dtype)


def luma_of(colour: tuple[float, ...]) -> float:
    """The grey of a colour, three numbers."""
    return float(np.dot(LUMA, colour) / LUMA.sum())
