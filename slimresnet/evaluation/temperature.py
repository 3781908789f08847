"""Temperature scaling: one number that logits are divided by, so that confidence is as large as accuracy."""

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from slimresnet.data.task import task_of

SEARCHED_TEMPERATURES = (0.05, 20.0)
"""The range that a temperature is sought in."""
LEAST_IMAGES = 50
"""Held-out images that a temperature is fitted on at least: five say how sure a network may be of those five."""


def fit_temperature(logits: Tensor, labels: np.ndarray) -> float | None:
    """
    The temperature, within `SEARCHED_TEMPERATURES`, that makes the task's loss least (Guo et al., 2017, section 4.2).

    Args:
        logits: logits of held-out images, float `[N, num_labels]`.
        labels: as `ImageSplit` has them.

    Returns:
        The temperature; None where there are fewer images than `LEAST_IMAGES`, or the loss is least at an end of the
        range, or flat: all images right, all wrong, or logits without information.
    """
    if len(labels) < LEAST_IMAGES:
        return None
    targets, task = torch.from_numpy(labels), task_of(labels)

    def loss(log_temperature: float) -> float:
        return task.loss(logits.double() / np.exp(log_temperature), targets).item()

    bounds = tuple(np.log(SEARCHED_TEMPERATURES))
    best = float(minimize_scalar(loss, bounds=bounds, method="bounded").x)
    return None if min(map(loss, bounds)) <= loss(best) else float(np.exp(best))
