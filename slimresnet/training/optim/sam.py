"""Sharpness-aware minimisation: Foret et al., 2021, "Sharpness-aware minimization for efficiently improving
generalization"."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from slimresnet.recipe.settings import Recipe


def is_sharpness_aware(recipe: Recipe, epoch: int, num_epochs: int) -> bool:
    """
    Whether `epoch`, counted from 0, of `num_epochs` has steps that look at the weights around.

    The last few suffice: Zhou et al., 2025, "Sharpness-aware minimization efficiently selects flatter minima late in
    training".
    """
    if not recipe.sam_rho:
        return False
    return recipe.num_final_sam_epochs is None or epoch >= num_epochs - recipe.num_final_sam_epochs


@contextmanager
def worst_weights(model: nn.Module, loss: Tensor, rho: float) -> Iterator[None]:
    """
    Within the block `model` has the weights that, to first order, raise its `loss` the most at a distance of `rho`.

    That is its weights, plus `rho` times the direction of the loss's gradient (equation 2, for p = 2). After the block
    weights and buffers are what they were, bit for bit, so that BatchNorm's statistics are those of the weights
    themselves; gradients made within the block stay.

    Args:
        loss: a scalar that `model` just gave; its graph is used up. Where it is scaled, the weights are the same.
        rho: Euclidean distance over all weights together.
    """
    weights: list[Tensor] = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = list(torch.autograd.grad(loss, weights))
    values = [*weights, *model.buffers()]
    before = [value.detach().clone() for value in values]
    with torch.no_grad():
        torch._foreach_mul_(gradients, rho / get_total_norm(gradients).clamp(min=1e-12))
        torch._foreach_add_(weights, gradients)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(values, before)
