"""A recipe from text: from a YAML file, a shipped one by its name, the folder of a run, words of a command line."""

import dataclasses
import difflib
import json
import os
from argparse import ArgumentTypeError
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from transformers.hf_argparser import string_to_bool

from slimresnet.recipe.checks import RecipeError, SettingType
from slimresnet.recipe.settings import OF_ONE_START, SETTINGS, Recipe, setting_types
from slimresnet.run_folder.names import CONFIG_NAME, RECIPE_NAME, RESULTS_NAME

Texts = dict[str, list[str]]
"""Values as a command line has them: for each setting one word, or several."""


def recipe_of_texts(texts: Mapping[str, list[str]]) -> Recipe:
    """
    The recipe that has these values, and the defaults beside them.

    Raises:
        RecipeError: a value cannot be read as what its setting is, or as `Recipe`.
    """
    return Recipe(**{name: _value(name, setting_types()[name], words) for name, words in texts.items()})


def _value(name: str, kind: SettingType, words: list[str]) -> Any:
    if kind.is_optional and words == ["null"]:
        return None
    if kind.is_sequence:
        return tuple(_scalar(name, kind, word) for word in words)
    if len(words) != 1:
        raise RecipeError(f"--{name} takes one value, got {len(words)}: {' '.join(words)}.")
    return _scalar(name, kind, words[0])


def _scalar(name: str, kind: SettingType, word: str) -> Any:
    if kind.or_auto and word == "auto":
        return word
    try:
        return string_to_bool(word) if kind.of is bool else _number_of(word) if kind.or_share else kind.of(word)
    except (ArgumentTypeError, ValueError):
        raise RecipeError(f"--{name} must be {kind.words}, got {word}.") from None


def _number_of(word: str) -> int | float:
    """A number of images, or a share of them."""
    try:
        return int(word)
    except ValueError:
        return float(word)


def find_config(name: str) -> Path:
    """
    The recipe file that `--config` means: a path, or the name of a recipe that ships with this package.

    Raises:
        RecipeError: it is neither.
    """
    path, shipped = Path(name), shipped_recipes()
    try:
        if path.exists() and not (path.is_dir() and name in shipped):
            return path
    except OSError as error:  # a name that no file can have
        raise RecipeError(f"--config {name} cannot be read: {error.strerror}.") from error
    if name.removesuffix(".yaml") in shipped:
        return shipped[name.removesuffix(".yaml")]
    otherwise = f"give a file, or one of {', '.join(shipped)}."
    raise RecipeError(f"--config {name} is not there: {_suggestion(name, shipped, otherwise)}")


def shipped_recipes() -> dict[str, Path]:
    """The recipes that ship with this package, by name."""
    return _shipped("*.yaml")


def find_network(name: str) -> str:
    """
    What `--config_name` means: the name of a network that ships with this package, as its file; else as it stands.

    A file, or a folder with a config.json, goes before the network of its name. A name with a slash may be of the Hub.

    Raises:
        RecipeError: it is one word, and no file, folder or network of that name is there.
    """
    path, shipped = Path(name), shipped_networks()
    known = name.removesuffix(".json")
    if known in shipped and not (path.is_file() or (path / CONFIG_NAME).is_file()):
        return str(shipped[known])
    if name and path.name == name and not os.path.lexists(path):
        otherwise = f"give a config.json, its folder, or one of {', '.join(shipped)}."
        raise RecipeError(
            f"--config_name {name} cannot be used: it is not there: {_suggestion(name, shipped, otherwise)}"
        )
    return name


def shipped_networks() -> dict[str, Path]:
    """The configs of networks that ship with this package, by name."""
    return _shipped("networks/*.json")


def _shipped_weights(name: str) -> str:
    """Weights of the repository that a shipped recipe names, from wherever it is called; never a name on the Hub."""
    beside = Path(__file__).parents[2] / name
    return str(beside) if beside.is_dir() and not Path(name).is_dir() else name


def _shipped(pattern: str) -> dict[str, Path]:
    package = Path(__file__).parents[1]
    folders = (package / "configuration", package.parent / "configuration")  # as installed, and in the repository
    folder = next((each for each in folders if each.is_dir()), package)
    return {file.stem: file for file in sorted(folder.glob(pattern))}


def texts_of_config(name: str) -> Texts:
    """
    The values in the recipe file that `--config` means.

    Where it is the recipe of a finished run, what that run found out is no part of what was asked: this run is to find
    out for itself.

    Raises:
        RecipeError: there is none, it is no flat mapping of names to values, or has an unknown name (the nearest one is
            suggested) or what is of one start alone.
    """
    path = find_config(name)
    settings = _read_settings(path)
    for each in OF_ONE_START:
        if settings.pop(each, None):
            raise RecipeError(
                f"{path}: {each} is of one start of a run, and not of a recipe: take the line out, and give "
                f"--{each} beside --config where this start is to have it."
            )
    if (weights := settings.get("model_name_or_path")) and path in shipped_recipes().values():
        settings["model_name_or_path"] = _shipped_weights(weights)
    found = _found_by_run(path.parent) if path.name == RECIPE_NAME else set()
    return _texts({name: value for name, value in settings.items() if name not in found}, path)


def recipe_of_file(path: Path) -> Recipe:
    """
    Reads a recipe file; what an earlier version kept in it of how a run was started is left out.

    Raises:
        RecipeError: as `texts_of_config`, or a value cannot be used.
    """
    settings = {name: value for name, value in _read_settings(path).items() if name not in OF_ONE_START}
    return recipe_of_texts(_texts(settings, path))


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


def refuse_unknown_data(folder: Path, dataset_name: str | None) -> None:
    """
    Refuses to open data for a folder that does not say which, where nobody else says it either.

    Raises:
        RecipeError: there is neither a recipe nor a `dataset_name`.
    """
    if dataset_name is None and not (folder / RECIPE_NAME).is_file():
        raise RecipeError(
            f"MODEL {folder} has no {RECIPE_NAME} that says what it was trained on: name the data with --dataset_name."
        )


def _found_by_run(folder: Path) -> set[str]:
    """What an earlier version put into a run's recipe though the run, or its machine, had decided on it."""
    try:
        results = json.loads((folder / RESULTS_NAME).read_text(encoding="utf-8"))
        chosen = {name.strip() for name in results.get("eval_chose", "").split(",")}
    except (OSError, ValueError, AttributeError):
        return set()
    found = chosen & {"tta", "temperature"}
    if "train_precision" not in results:  # of a version that wrote everything as its machine had resolved it
        found |= {"mixed_precision", "channels_last", "torch_compile", "cuda_graphs", "per_device_train_batch_size"}
    return found


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"--config {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"--config {path} is no YAML: {error}.") from error
    if not isinstance(settings, dict):
        raise RecipeError(f"--config {path} must hold a mapping of names to values.")
    for name in settings:
        if name not in SETTINGS:
            hint = _suggestion(str(name).replace("-", "_"), SETTINGS, "--help lists the names there are.")
            raise RecipeError(f"{path}: unknown recipe key {name}: {hint}")
    return settings


def _texts(settings: dict[str, Any], path: Path) -> Texts:
    """Values of a file as a command line has them: one way of reading serves both."""
    texts = {}
    for name, value in settings.items():
        values = value if isinstance(value, list) else [value]
        if any(isinstance(item, dict | list) for item in values) or values == []:
            raise RecipeError(f"{path}: {name} must be a value or a flat list of values, got {value}.")
        if value is None and not setting_types()[name].is_optional:
            continue  # as if it were not there
        # YAML reads a bare no as false: `yes` and `no` are right for both a switch and a choice.
        words = {True: "yes", False: "no", None: "null"}
        texts[name] = [words[item] if item is None or isinstance(item, bool) else str(item) for item in values]
    return texts


def _suggestion(name: str, names: Mapping, otherwise: str) -> str:
    """The end of a sentence on an unknown name: the nearest known name, or `otherwise`."""
    nearest = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {nearest[0]}?" if nearest else otherwise
