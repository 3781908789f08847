"""CutMix: Yun et al., 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features"."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional as F

from slimresnet.data.device import to_device
from slimresnet.data.randomness import Draws, JoinedDraws
from slimresnet.data.transforms.augmentation import box_mask, paste


@dataclass(frozen=True)
class CutMixCollator:
    """
    Makes the model's inputs of a batch: patches of other images pasted in, pixels normalised, labels turned into
    distributions. (To paste before the pixels are normalised gives the same numbers, and moves a quarter of the bytes.)

    Each sample has its own chance, λ and box. Its partner is its neighbour: samples `2i` and `2i + 1` of a batch paste
    into each other (the order is random already), so that the pairs of a global batch are the same however many
    processes share it, if the batch of each is even. The odd last sample takes from the one before it, a single sample
    stays as it is.

    Attributes:
        num_labels: number of classes.
        normalize: uint8 `[B, C, H, W]` to the model's `pixel_values`.
        alpha: λ is drawn from Beta(alpha, alpha); positive.
        prob: probability that a sample is mixed; 0 for none.
        label_smoothing: share of every label that is spread over all classes (Szegedy et al., 2016, section 7).
    """

    num_labels: int
    normalize: Callable[[Tensor], Tensor]
    alpha: float = 1.0
    prob: float = 1.0
    label_smoothing: float = 0.0

    def __call__(self, pixels: Tensor, labels: Tensor, draws: Draws | JoinedDraws) -> dict[str, Tensor]:
        """
        Args:
            pixels: uint8 `[B, C, H, W]`.
            labels: class numbers, int64 `[B]`.

        Returns:
            `pixel_values` `[B, C, H, W]`, and `labels`, float32 `[B, num_labels]`; rows sum to 1.
        """
        targets = F.one_hot(labels, self.num_labels).float()
        if self.prob:
            drawn = draws.uniform("cutmix", 4)
            boxes = cutmix_boxes(drawn[:, 1:], self.alpha, *pixels.shape[-2:])
            boxes[drawn[:, 0] >= self.prob] = 0
            partner = partners(len(labels), labels.device)
            pixels = paste(pixels, pixels.index_select(0, partner), box_mask(boxes, pixels))
            targets = torch.lerp(targets, targets.index_select(0, partner), pasted_share(boxes, pixels))
        if self.label_smoothing:
            targets = torch.lerp(targets, torch.full_like(targets, 1 / self.num_labels), self.label_smoothing)
        return {"pixel_values": self.normalize(pixels), "labels": targets}


def pasted_share(boxes: np.ndarray, pixels: Tensor) -> Tensor:
    """1 − λ corrected to the pixels that were really pasted: float32 `[B, 1]`."""
    top, bottom, left, right = boxes.T
    area = to_device((bottom - top) * (right - left), pixels.device)
    return (area / (pixels.shape[2] * pixels.shape[3])).unsqueeze(1)


def partners(batch_size: int, device: torch.device | None = None) -> Tensor:
    """The sample that each sample takes its patch from, int64 `[batch_size]`."""
    indices = torch.arange(batch_size, device=device)
    return (indices ^ 1).where(indices ^ 1 < batch_size, indices - 1).clamp(min=0)


def cutmix_boxes(shape: np.ndarray, alpha: float, height: int, width: int) -> np.ndarray:
    """
    Boxes of sides √(1 − λ) of the image's around a uniform centre, clipped at the border (appendix A of the paper).

    Args:
        shape: uniform numbers for λ and for the centre's row and column, `[B, 3]`.
        alpha: λ is the quantile of Beta(alpha, alpha) at the first of them.

    Returns:
        top, bottom, left, right, int64 `[B, 4]`; bottom and right are exclusive.
    """
    ratio = np.sqrt(1 - betaincinv(alpha, alpha, shape[:, 0]))
    edges = []
    for size, centre in ((height, shape[:, 1]), (width, shape[:, 2])):
        half = (size * ratio).astype(np.int64) // 2
        middle = (centre * size).astype(np.int64)
        edges += [np.maximum(middle - half, 0), np.minimum(middle + half, size)]
    return np.stack(edges, axis=1)
