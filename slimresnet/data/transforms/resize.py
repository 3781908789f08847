"""Resizing batches."""

from torch import Tensor
from torch.nn import functional as F


def resize(pixels: Tensor, size: int) -> Tensor:
    """uint8 `[B, C, H, W]` to `[B, C, size, size]`, bilinear and antialiased, as Pillow and the image processor do."""
    if pixels.shape[-2:] == (size, size):
        return pixels
    resized = F.interpolate(pixels.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return resized.round_().clamp_(0, 255).to(pixels.dtype)
