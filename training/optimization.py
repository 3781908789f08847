"""The optimiser, and the learning rate as a pure function of the step."""

import math

import torch
from torch import nn

from .recipe import Recipe


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD; where the recipe says so, BatchNorm's parameters and biases form a second group without weight decay."""
    parameters = list(model.parameters())
    groups = [{"params": parameters}]
    if not recipe.decay_norm_and_bias:
        groups = [
            {"params": [parameter for parameter in parameters if parameter.ndim > 1]},
            {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
        ]
    return torch.optim.SGD(
        groups,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )


def learning_rate(recipe: Recipe, step: int, max_steps: int) -> float:
    """
    The learning rate of optimiser step `step`, counted from 0, of a run of `max_steps`.

    `cosine` falls to 0 after the last step (Loshchilov and Hutter, 2017, equation 5, without restarts); `multi_step`
    is multiplied by `lr_gamma` at each of `lr_milestones`, shares of the run; `hybrid` does that over the first half of
    the run, then follows a cosine from `lr_gamma × learning_rate`. Over the first `warmup_steps` the result is scaled
    linearly, reaching its full height at the step after them.
    """
    progress = step / max_steps
    if recipe.lr_scheduler_type == "cosine":
        factor = _cosine(progress)
    elif recipe.lr_scheduler_type == "multi_step":
        factor = _multi_step(progress, recipe)
    elif recipe.lr_scheduler_type == "hybrid":
        factor = _multi_step(2 * progress, recipe) if progress < 0.5 else recipe.lr_gamma * _cosine(2 * progress - 1)
    else:
        factor = 1.0
    warmup_steps = recipe.warmup_steps if recipe.warmup_steps >= 1 else math.ceil(recipe.warmup_steps * max_steps)
    if step < warmup_steps:
        factor *= (step + 1) / (warmup_steps + 1)
    return recipe.learning_rate * factor


def _cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def _multi_step(progress: float, recipe: Recipe) -> float:
    return recipe.lr_gamma ** sum(progress >= milestone for milestone in recipe.lr_milestones)
