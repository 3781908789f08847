"""Checks of arguments that several functions of this package take."""

from collections.abc import Iterable

from slimresnet.recipe.checks import RecipeError


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """
    Refuses a value that is none of an argument's choices.

    Args:
        name: the argument's name, without the dashes of its flag.

    Raises:
        RecipeError: `value` is not among `choices`.
    """
    choices = list(choices)
    if value not in choices:
        raise RecipeError(f"--{name} must be one of {', '.join(choices)}, got {value}.")


def check_precision(backend: str, mixed_precision: str) -> None:
    """
    Refuses `mixed_precision` with any backend but torch.

    Raises:
        RecipeError: the backend has a fixed precision.
    """
    if backend != "torch" and mixed_precision != "no":
        raise RecipeError(f"--mixed_precision is for --backend torch, not for {backend}: leave it out.")
