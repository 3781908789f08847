"""Gaussian blur, each sample by a sigma of its own."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from slimresnet.data.corruptions.standard import BLURS
from slimresnet.data.device import to_device
from slimresnet.data.randomness import Draws, JoinedDraws
from slimresnet.data.transforms.transform import ImageTransform


@dataclass(frozen=True)
class GaussianBlur(ImageTransform):
    """
    Attributes:
        gaussian_blur_prob: probability of a 3×3 Gaussian blur.
        gaussian_blur_sigma: range in pixels that the blur's standard deviation is drawn from, uniformly.
    """

    gaussian_blur_prob: float
    gaussian_blur_sigma: tuple[float, float]

    def __call__(self, pixels: Tensor, draws: Draws | JoinedDraws) -> Tensor:
        if not self.gaussian_blur_prob:
            return pixels
        chance, share = draws.uniform("gaussian blur", 2).T
        low, high = self.gaussian_blur_sigma
        return gaussian_blur(pixels, chance < self.gaussian_blur_prob, low + share * (high - low))

    def overlaps(self) -> dict[str, tuple[str, ...]]:
        return {"gaussian_blur": BLURS} if self.gaussian_blur_prob else {}


def gaussian_blur(pixels: Tensor, chosen: np.ndarray, sigma: np.ndarray) -> Tensor:
    """
    Convolves the chosen samples with a 3×3 Gaussian of their own sigma, the border reflected, rounded to uint8.

    Args:
        pixels: uint8 `[B, C, H, W]`, H and W at least 2.
        chosen: bool `[B]`.
        sigma: standard deviation in pixels, positive, float `[B]`.
    """
    if not chosen.any():
        return pixels
    indices = to_device(np.flatnonzero(chosen), pixels.device)
    neighbour = np.exp(-0.5 / sigma[chosen] ** 2)  # relative to the centre; the kernel is separable
    side = to_device((neighbour / (1 + 2 * neighbour)).astype(np.float32), pixels.device).view(-1, 1, 1, 1)
    padded = F.pad(pixels.index_select(0, indices), [1] * 4, mode="reflect").float()
    rows = (padded[:, :, :-2] + padded[:, :, 2:]).mul_(side).add_(padded[:, :, 1:-1] * (1 - 2 * side))
    blurred = (rows[..., :-2] + rows[..., 2:]).mul_(side).add_(rows[..., 1:-1] * (1 - 2 * side))
    return pixels.index_copy(0, indices, blurred.round_().to(pixels.dtype))
