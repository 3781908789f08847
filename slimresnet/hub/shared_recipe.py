"""A run's recipe as others get it: what was trained, and nothing of where things lie on this machine."""

import dataclasses
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from slimresnet.recipe.reading import read_recipe
from slimresnet.recipe.settings import Recipe
from slimresnet.run_folder.names import CONFIG_NAME, RESULTS_NAME
from slimresnet.run_folder.reading import read_json


def shared_recipe(folder: Path, license: str | None = None) -> Recipe:
    """
    The recipe of a finished folder without a path of this machine.

    A local dataset, local weights to start from and a local teacher go by their folders' own names. The network's
    config is the `config.json` beside the recipe. Output folder, repository and tracker are left out: whoever trains by
    the recipe has their own, or none.

    Args:
        license: licence of the weights, where it differs from the recipe's.
    """
    recipe, results = read_recipe(folder), read_json(folder / RESULTS_NAME)
    return dataclasses.replace(
        recipe,
        dataset_name=results.get("train_dataset") or _own_name(recipe.dataset_name),
        config_name=recipe.config_name and CONFIG_NAME,
        model_name_or_path=results.get("train_started_from"),
        teacher_name_or_path=results.get("train_teacher"),
        output_dir=Recipe.output_dir,
        hub_model_id=None,
        report_to="none",
        license=license or recipe.license,
    )


def _own_name(dataset_name: str) -> str:
    """The name of a dataset that the run did not record: as it is where the Hub could have it, else its last part."""
    try:
        validate_repo_id(dataset_name)
    except HFValidationError:
        return Path(dataset_name).resolve().name
    return dataset_name
