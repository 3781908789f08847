"""Checks of arguments that several functions of this package take."""

from collections.abc import Iterable

from slimresnet.recipe.checks import RecipeError


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """
    Holds an argument against the values that it may have.

    Args:
        name: of the argument, which is that of the flag.

    Raises:
        RecipeError: it has another value.
    """
    choices = list(choices)
    if value not in choices:
        raise RecipeError(f"--{name} must be one of {', '.join(choices)}, got {value}.")


def check_precision(backend: str, mixed_precision: str) -> None:
    """
    Holds what the network is to compute in against the program that runs it.

    Raises:
        RecipeError: the program has a precision of its own.
    """
    if backend != "torch" and mixed_precision != "no":
        raise RecipeError(f"--mixed_precision is for --backend torch, not for {backend}: leave it out.")
