"""CutMix: Yun et al., 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features"."""

import numpy as np
from scipy.special import betaincinv
from torch import Tensor

from slimresnet.data.device import to_device


def pasted_share(boxes: np.ndarray, pixels: Tensor) -> Tensor:
    """1 − λ corrected to the pixels that were really pasted: float32 `[B, 1]`."""
    top, bottom, left, right = boxes.T
    area = to_device((bottom - top) * (right - left), pixels.device)
    return (area / (pixels.shape[2] * pixels.shape[3])).unsqueeze(1)


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
