"""Temperature scaling: one number that logits are divided by, so that confidence is as large as accuracy."""

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

_RANGE = (-3.0, 3.0)  # of the temperature's logarithm


def fit_temperature(logits: Tensor, labels: np.ndarray) -> float | None:
    """
    The temperature, in e⁻³ – e³, that makes the cross entropy least (Guo et al., 2017, section 4.2).

    Args:
        logits: logits of held-out images, float `[N, num_labels]`.
        labels: class numbers, int64 `[N]`.

    Returns:
        The temperature; None where no other is better than both ends of the range. So it is where all images are right,
        when confidence cannot be too large, and where logits tell nothing.
    """
    targets = torch.from_numpy(labels)

    def loss(log_temperature: float) -> float:
        return F.cross_entropy(logits.double() / np.exp(log_temperature), targets).item()

    best = float(minimize_scalar(loss, bounds=_RANGE, method="bounded").x)
    return None if min(map(loss, _RANGE)) <= loss(best) else float(np.exp(best))
