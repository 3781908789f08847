"""Temperature scaling: one number that logits are divided by, so that confidence is as large as accuracy."""

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F


def fit_temperature(logits: Tensor, labels: np.ndarray) -> float:
    """
    The temperature, in e⁻³ – e³, that makes the cross entropy least (Guo et al., 2017, section 4.2).

    Args:
        logits: logits of validation images, float `[N, num_labels]`.
        labels: class numbers, int64 `[N]`.
    """
    targets = torch.from_numpy(labels)

    def loss(log_temperature: float) -> float:
        return F.cross_entropy(logits.double() / np.exp(log_temperature), targets).item()

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))
