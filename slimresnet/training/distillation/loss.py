"""What a network is to learn from its teachers: Hinton et al., 2015, "Distilling the Knowledge in a Neural Network"."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# Less than what a patch of one pixel takes of the label of a 64×64 image.
_TOLERANCE = 1e-4


def averaged_log_probabilities(logits: Sequence[Tensor], temperature: float) -> Tensor:
    """
    The logarithm of the mean of several networks' probabilities.

    Args:
        logits: of each network, float `[B, num_labels]`.
        temperature: what logits are divided by, above 0.

    Returns:
        float32 `[B, num_labels]`.
    """
    each = torch.stack([F.log_softmax(values.float() / temperature, dim=1) for values in logits])
    return each.logsumexp(dim=0) - math.log(len(logits))


def distillation_loss(
    logits: Tensor,
    log_probabilities: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    alpha: float,
    smoothing: float,
    class_weights: Tensor | None = None,
) -> Tensor:
    """
    The mean over a batch of `alpha · T² · KL(teacher ‖ student) + (1 − alpha) · cross entropy`.

    The factor T² keeps the gradient of the first part as large at any temperature (section 2 of the paper). An image
    whose label mixes classes has the first part alone, in full: what two half images show, the teacher sees and the
    mixed label only guesses.

    Args:
        logits: of the student, float `[B, num_labels]`.
        log_probabilities: of the teachers at the temperature, float32 `[B, num_labels]`.
        labels: distributions over the classes, float32 `[B, num_labels]`.
        temperature: T, above 0.
        alpha: share of the teachers in the loss, 0–1.
        smoothing: share of each label that is spread over all classes; it is not taken for a mixture.
        class_weights: of the classes in the cross entropy, float32 `[num_labels]`; None where all count the same.

    Returns:
        A scalar, float32.
    """
    logits = logits.float()
    divergence = F.kl_div(
        F.log_softmax(logits / temperature, dim=1), log_probabilities, reduction="none", log_target=True
    ).sum(dim=1)
    taught = temperature**2 * divergence
    if alpha == 1:
        return taught.mean()
    of_one_class = 1 - smoothing + smoothing / labels.shape[1]
    weight = torch.where(labels.amax(dim=1) > of_one_class - _TOLERANCE, alpha, 1.0)
    of_labels = F.cross_entropy(logits, labels, weight=class_weights, reduction="none")
    return torch.lerp(of_labels, taught, weight).mean()
