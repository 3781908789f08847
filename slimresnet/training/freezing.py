"""Which parts of a network are trained, and which stay as they are."""

from collections.abc import Iterable

from torch import nn

from modeling_slimresnet import SlimResNetConfig
from slimresnet.recipe.checks import RecipeError

NOTHING, TRUNK = "none", "trunk"


def frozen_parts(config: SlimResNetConfig, freeze: str) -> list[str]:
    """
    Names of the parts of a classifier that `--freeze` keeps as they are: stem and stages, up to the one that it names.

    Args:
        freeze: `none`, `stem`, `stage1` and so on, or `trunk` for all but the head.

    Raises:
        RecipeError: the network has no such part.
    """
    names = config.stage_names
    choices = [NOTHING, *names[:-1], TRUNK]
    if freeze not in (*choices, names[-1]):
        raise RecipeError(f"--freeze must be one of {', '.join(choices)}, got {freeze}.")
    parts = ["slimresnet.embedder", *(f"slimresnet.encoder.stages.{stage}" for stage in range(len(config.depths)))]
    if freeze == NOTHING:
        return []
    return parts if freeze == TRUNK else parts[: names.index(freeze) + 1]


def freeze_parts(model: nn.Module, parts: Iterable[str]) -> None:
    """Leaves the weights of these parts of a network without gradients."""
    for part in parts:
        model.get_submodule(part).requires_grad_(False)


def keep_statistics(model: nn.Module, parts: Iterable[str]) -> None:
    """
    Has the BatchNorm of these parts normalise by the statistics that it has, and leave them as they are.

    `model.train()` sets all parts to training: this comes after it.
    """
    for part in parts:
        model.get_submodule(part).eval()
