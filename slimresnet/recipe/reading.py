"""A recipe from a YAML file, from the command line, from the folder of a run."""

import dataclasses
import difflib
import sys
from argparse import Action
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, get_args

import yaml
from transformers.hf_argparser import HfArgumentParser

from slimresnet.recipe.settings import OF_ONE_START, Recipe, RecipeError
from slimresnet.run_folder.names import RECIPE_NAME

_OPTIONAL = {each.name for each in dataclasses.fields(Recipe) if type(None) in get_args(each.type)}


class _Parser(HfArgumentParser):
    def _get_values(self, action: Action, arg_strings: list[str]) -> object:
        # What YAML writes for a setting that is not set; a flag can so take back what the file sets.
        if arg_strings == ["null"] and action.dest in _OPTIONAL:
            return None
        return super()._get_values(action, arg_strings)

    def error(self, message: str) -> NoReturn:
        raise RecipeError(f"{message}.")


def parse_recipe(arguments: Sequence[str] | None = None) -> Recipe:
    """
    Reads `--config FILE.yaml` and the flags beside it; a flag wins over the file.

    Args:
        arguments: as on the command line; None for `sys.argv`.

    Raises:
        RecipeError: an unknown name (the nearest one is suggested), a wrong type, a value out of range, or a file that
            is no flat mapping of names to values.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = _Parser(Recipe, allow_abbrev=False, description="Train a SlimResNet. A flag wins over the --config file.")
    parser.add_argument("--config", help="A recipe: a YAML file of the same names as the flags.")
    # The file's values become arguments in front of the others, so that one parser checks both.
    known, _ = parser.parse_known_args(arguments)
    settings = {} if known.config is None else _read_settings(Path(known.config))
    for name in OF_ONE_START:
        if settings.pop(name, None):
            raise RecipeError(
                f"{known.config}: {name} is of one start of a run, and not of a recipe: take the line out, and give "
                f"--{name} beside --config where this start is to have it."
            )
    return _parse(parser, [*_as_words(settings, known.config), *arguments])


def recipe_of_file(path: Path) -> Recipe:
    """
    Reads the recipe of a run; what an earlier version kept in it of how the run was started is left out.

    Raises:
        RecipeError: as `parse_recipe`.
    """
    settings = {name: value for name, value in _read_settings(path).items() if name not in OF_ONE_START}
    return _parse(_Parser(Recipe, allow_abbrev=False), _as_words(settings, path))


def _parse(parser: "_Parser", arguments: list[str]) -> Recipe:
    recipe, *_, unknown = parser.parse_args_into_dataclasses(
        arguments, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        raise RecipeError(_unknown_name(unknown[0], prefix="--"))
    return recipe


def _read_settings(path: Path) -> dict:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"--config {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"--config {path} is no YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(settings, dict):
        raise RecipeError(f"--config {path} must hold a mapping of names to values.")
    return settings


def _as_words(settings: dict, path: Path | str) -> list[str]:
    """Settings of a file as the command line has them."""
    names = _names()
    arguments = []
    for name, value in settings.items():
        if name not in names:
            raise RecipeError(f"{path}: {_unknown_name(str(name))}")
        values = value if isinstance(value, list) else [value]
        if any(isinstance(item, dict | list) for item in values) or values == []:
            raise RecipeError(f"{path}: {name} must be a value or a flat list of values, got {value}.")
        if value is None and name not in _OPTIONAL:
            continue  # as if it were not there
        # YAML reads a bare no as false: `yes` and `no` are right for both a switch and a choice.
        words = {True: "yes", False: "no", None: "null"}
        texts = [words[item] if item is None or isinstance(item, bool) else str(item) for item in values]
        arguments += [f"--{name}={texts[0]}"] if len(texts) == 1 else [f"--{name}", *texts]
    return arguments


def _names() -> list[str]:
    return [each.name for each in dataclasses.fields(Recipe)]


def _unknown_name(text: str, prefix: str = "") -> str:
    if prefix and not text.startswith(prefix):
        return f"unexpected argument {text!r}: flags start with {prefix}."
    name = text.removeprefix(prefix).split("=")[0]
    nearest = difflib.get_close_matches(name.replace("-", "_"), _names(), n=1)
    hint = f"did you mean {prefix}{nearest[0]}?" if nearest else "--help lists the names there are."
    return f"unknown {'flag' if prefix else 'recipe key'} {prefix}{name}: {hint}"


def read_recipe(folder: Path) -> Recipe:
    """
    The recipe of a finished run.

    Raises:
        RecipeError: it cannot be read.
    """
    return recipe_of_file(folder / RECIPE_NAME)


def read_recipe_with(folder: Path, **settings) -> Recipe:
    """
    The recipe of a trained folder, the default one where it has none, with those settings that are not None.

    Raises:
        RecipeError: it cannot be read, or a setting is out of range.
    """
    recipe = read_recipe(folder) if (folder / RECIPE_NAME).is_file() else Recipe()
    return dataclasses.replace(recipe, **{name: value for name, value in settings.items() if value is not None})
