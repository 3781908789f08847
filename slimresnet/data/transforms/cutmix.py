"""CutMix: Yun et al., 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features"."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from slimresnet.data.device import to_device
from slimresnet.data.randomness import Draws, JoinedDraws
from slimresnet.data.transforms.masks import box_mask, paste
from slimresnet.data.transforms.transform import LabelTransform


@dataclass(frozen=True)
class CutMix(LabelTransform):
    """
    Pastes patches of other images, and mixes the labels in proportion.

    Each sample has its own chance, λ and box. A sample's partner is its neighbour: samples `2i` and `2i + 1` of a batch
    paste into each other (the order is random already). So the pairs of a global batch are the same however many
    processes share it, if the batch of each is even. The odd last sample takes from the one before it; a single sample
    stays as it is. To paste uint8 pixels gives the same numbers as pasting normalised ones, and moves a quarter of the
    bytes.

    Attributes:
        cutmix_prob: probability that a sample is mixed; 0 for none.
        cutmix_alpha: λ is drawn from Beta(alpha, alpha); positive.
    """

    cutmix_prob: float
    cutmix_alpha: float

    def __call__(self, pixels: Tensor, targets: Tensor, draws: Draws | JoinedDraws) -> tuple[Tensor, Tensor]:
        if not self.cutmix_prob:
            return pixels, targets
        drawn = draws.uniform("cutmix", 4)
        boxes = cutmix_boxes(drawn[:, 1:], self.cutmix_alpha, *pixels.shape[-2:])
        boxes[drawn[:, 0] >= self.cutmix_prob] = 0
        partner = partners(len(targets), targets.device)
        mixed = paste(pixels, pixels.index_select(0, partner), box_mask(boxes, pixels))
        return mixed, torch.lerp(targets, targets.index_select(0, partner), pasted_share(boxes, pixels))


def pasted_share(boxes: np.ndarray, pixels: Tensor) -> Tensor:
    """1 − λ corrected to the pixels that were really pasted: float32 `[B, 1]`."""
    top, bottom, left, right = boxes.T
    area = to_device((bottom - top) * (right - left), pixels.device)
    return (area / (pixels.shape[2] * pixels.shape[3])).unsqueeze(1)


def partners(batch_size: int, device: torch.device | None = None) -> Tensor:
    """The sample that each sample takes its patch from, int64 `[batch_size]`."""
    indices = torch.arange(batch_size, device=device)
    return (indices ^ 1).where(indices ^ 1 < batch_size, indices - 1).clamp(min=0)


def cutmix_boxes(drawn: np.ndarray, alpha: float, height: int, width: int) -> np.ndarray:
    """
    Boxes of sides √(1 − λ) of the image's around a uniform centre, clipped at the border (appendix A of the paper).

    Args:
        drawn: uniform numbers for λ and for the centre's row and column, `[B, 3]`.
        alpha: λ is the quantile of Beta(alpha, alpha) at the first number of each row.

    Returns:
        top, bottom, left, right, int64 `[B, 4]`; bottom and right are exclusive.
    """
    ratio = np.sqrt(1 - betaincinv(alpha, alpha, drawn[:, 0]))
    edges = []
    for size, centre in ((height, drawn[:, 1]), (width, drawn[:, 2])):
        half = (size * ratio).astype(np.int64) // 2
        middle = (centre * size).astype(np.int64)
        edges += [np.maximum(middle - half, 0), np.minimum(middle + half, size)]
    return np.stack(edges, axis=1)
