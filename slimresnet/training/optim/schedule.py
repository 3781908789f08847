"""The learning rate as a pure function of the step: no interruption can break it."""

import math

from slimresnet.recipe.settings import Recipe


def learning_rates(recipe: Recipe, step: int, max_steps: int) -> dict[str, float]:
    """
    The learning rate of each group of weights at a step, by the name that it is logged under.

    `learning_rate` is that of SGD. `learning_rate_trunk` is there where stem and stages have a share of it, and
    `learning_rate_muon` and `learning_rate_norm_bias` where the recipe gives the convolutions to Muon, or BatchNorm's
    biases a rate of their own: all three are of stem and stages.
    """
    share = schedule(recipe, step, max_steps)
    rates = {"learning_rate": recipe.learning_rate * share}
    of_trunk = share * recipe.trunk_learning_rate_factor
    if recipe.trunk_learning_rate_factor != 1:
        rates["learning_rate_trunk"] = recipe.learning_rate * of_trunk
    if recipe.optim == "muon":
        rates["learning_rate_muon"] = recipe.muon_learning_rate * of_trunk
    if recipe.norm_bias_learning_rate is not None:
        rates["learning_rate_norm_bias"] = recipe.norm_bias_learning_rate * of_trunk
    return rates


def schedule(recipe: Recipe, step: int, max_steps: int) -> float:
    """
    The share of its peak that the learning rate has at optimiser step `step`, counted from 0, of a run of `max_steps`.

    The rate rises over `warmup_steps`, reaches its peak at the step after them, and then follows the schedule. That is
    transformers' `get_linear_schedule_with_warmup` (and `cosine`, `constant`), but for the rise: it starts one step
    higher, since a step at a rate of 0 does nothing. `linear` and `cosine` fall to 0 over the steps behind the warm-up
    (for the cosine: Loshchilov and Hutter, 2017, equation 5, without restarts). `multi_step` is multiplied by
    `lr_gamma` at each of `lr_milestones`; `hybrid` does that over the first half of the run, then follows a cosine from
    `lr_gamma` of the peak. Their milestones and halves are shares of the whole run, warm-up included, so that they fall
    on the same epochs with a warm-up and without.
    """
    warmup_steps = recipe.warmup_steps if recipe.warmup_steps >= 1 else math.ceil(recipe.warmup_steps * max_steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = step / max_steps
    progress_after_warmup = (step - warmup_steps) / (max_steps - warmup_steps)
    if recipe.lr_scheduler_type == "linear":
        return 1 - progress_after_warmup
    if recipe.lr_scheduler_type == "cosine":
        return _cosine(progress_after_warmup)
    if recipe.lr_scheduler_type == "multi_step":
        return _multi_step(progress, recipe)
    if recipe.lr_scheduler_type == "hybrid":
        return _multi_step(2 * progress, recipe) if progress < 0.5 else recipe.lr_gamma * _cosine(2 * progress - 1)
    return 1.0


def _cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def _multi_step(progress: float, recipe: Recipe) -> float:
    return recipe.lr_gamma ** sum(progress >= milestone for milestone in recipe.lr_milestones)
