"""mixup: Zhang et al., 2018, "mixup: Beyond Empirical Risk Minimization"."""

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor


def mixup_share(drawn: np.ndarray, alpha: float) -> np.ndarray:
    """
    1 − λ, the share of the other image.

    Args:
        drawn: uniform numbers in [0, 1), `[B]`.
        alpha: λ is the quantile of Beta(alpha, alpha) at each number.

    Returns:
        float32 `[B]`, in 0–1.
    """
    return (1 - betaincinv(alpha, alpha, drawn)).astype(np.float32)


def blend(pixels: Tensor, others: Tensor, share: Tensor) -> Tensor:
    """
    `(1 − share) · pixels + share · others`, rounded to the nearest value.

    Rounding moves a pixel by at most half of one in 255 values, which is what the file of a photograph rounds away too.
    Labels are mixed by the exact share.

    Args:
        pixels, others: uint8 `[B, C, H, W]`.
        share: float32 `[B, 1]`, in 0–1; images with a share of 0 stay as they are.
    """
    return torch.lerp(pixels.float(), others.float(), share[:, :, None, None]).round_().to(pixels.dtype)
