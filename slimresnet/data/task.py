"""What a label says: one class of an image, or all classes that it shows; everything that depends on it asks here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modeling_slimresnet import SlimResNetConfig


@dataclass(frozen=True)
class Task:
    """
    What depends on what a label is.

    Attributes:
        problem_type: as the config of a network has it.
        main_score: name of the score that says which of two networks is better, 0–1.
        targets: labels of a batch and the number of classes, to what is trained on, float32 `[B, num_labels]`.
        chance: the target, by the number of classes, of a label that says nothing: what label smoothing moves to.
        probabilities: logits `[N, num_labels]` to probabilities of the same shape, 0–1.
        loss: the mean loss, a scalar in nats, of logits `[N, num_labels]` and labels.
        count: labels, and the number of classes, to the number of images of each class, int64 `[num_labels]`.
    """

    problem_type: Literal["single_label_classification", "multi_label_classification"]
    main_score: Literal["accuracy", "mean_average_precision"]
    targets: Callable[[Tensor, int], Tensor]
    chance: Callable[[int], float]
    probabilities: Callable[[Tensor], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    count: Callable[[np.ndarray, int], np.ndarray]

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may be of several classes, or of none."""
        return self is MULTI_LABEL


SINGLE_LABEL = Task(
    problem_type="single_label_classification",
    main_score="accuracy",
    targets=lambda labels, num_labels: F.one_hot(labels, num_labels).float(),
    chance=lambda num_labels: 1 / num_labels,
    probabilities=lambda logits: logits.softmax(dim=1),
    loss=F.cross_entropy,
    count=lambda labels, num_labels: np.bincount(labels, minlength=num_labels),
)
"""Labels are class numbers, int64 `[N]`."""

MULTI_LABEL = Task(
    problem_type="multi_label_classification",
    main_score="mean_average_precision",
    targets=lambda labels, num_labels: labels.float(),
    chance=lambda num_labels: 0.5,
    probabilities=torch.sigmoid,
    loss=lambda logits, labels: F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype)),
    count=lambda labels, num_labels: labels.sum(axis=0, dtype=np.int64),
)
"""Labels are 0 or 1 for each class, uint8 `[N, num_labels]`."""


TASKS = (SINGLE_LABEL, MULTI_LABEL)
PROBLEM_TYPES = tuple(task.problem_type for task in TASKS)
"""What the config of a network may have."""


def task_of(labels: np.ndarray | Tensor) -> Task:
    """The task whose labels these are."""
    return SINGLE_LABEL if labels.ndim == 1 else MULTI_LABEL


def task_of_network(config: SlimResNetConfig | Any) -> Task:
    """The task of a network that was trained."""
    return MULTI_LABEL if config.problem_type == MULTI_LABEL.problem_type else SINGLE_LABEL
