"""What becomes of a recipe where an image may be of several classes."""

import dataclasses

from modeling_slimresnet import SlimResNetConfig
from slimresnet.data.sources.source import ImageSplit
from slimresnet.data.task import MULTI_LABEL
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import Recipe

_SCORES = (MULTI_LABEL.main_score, "loss")  # of validation, where an image may be of several classes


def fit_task(recipe: Recipe, config: SlimResNetConfig, train: ImageSplit) -> Recipe:
    """
    The recipe with the score that says which epoch is best, where it leaves that at its default.

    Args:
        config: of the network. It gets the problem type of the labels, whatever it had.
        train: the training split.

    Raises:
        RecipeError: a setting has no meaning for what the labels of the training split say.
    """
    config.problem_type = train.task.problem_type
    best_by = recipe.metric_for_best_model
    if not train.task.is_multi_label:
        if best_by == MULTI_LABEL.main_score:
            raise RecipeError(
                f"--metric_for_best_model {best_by} is for images of several classes, and each of "
                f"{recipe.dataset_name} has one: choose accuracy."
            )
        return recipe
    of_one_class = {
        "teacher_name_or_path": recipe.teacher_name_or_path,
        "class_weights": recipe.class_weights,
        "balanced_sampling": recipe.balanced_sampling,
    }
    if asked := next((name for name, value in of_one_class.items() if value), None):
        raise RecipeError(
            f"--{asked} is for images of one class each, and those of {recipe.dataset_name} may have several: leave it "
            "out."
        )
    if best_by == Recipe.metric_for_best_model:
        return dataclasses.replace(recipe, metric_for_best_model=MULTI_LABEL.main_score)
    if best_by not in _SCORES:
        raise RecipeError(
            f"--metric_for_best_model {best_by} is for images of one class each, and those of {recipe.dataset_name} "
            f"may have several: choose {' or '.join(_SCORES)}."
        )
    return recipe
