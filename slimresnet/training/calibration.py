"""The temperature that the head of a finished network is divided by, so that every client gets calibrated logits."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.data.opening import TrainingData
from slimresnet.evaluation.rows import LEFT_OUT, TEST_SIZE
from slimresnet.formats.trained import OF_TRAIN, ModelError, explain_error, explain_unfinished, load_config
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.plan import DEFAULT_TOTAL_TRAIN_BATCH_SIZE
from slimresnet.recipe.reading import read_recipe
from slimresnet.recipe.settings import RESIZE_MODE, SETTINGS, Recipe
from slimresnet.run_folder.names import CONFIG_NAME, RECIPE_NAME, RESULTS_NAME
from slimresnet.run_folder.ownership import prepare_to_read
from slimresnet.run_folder.reading import read_json
from slimresnet.run_folder.schemas import SOURCES
from slimresnet.training.class_weights import ClassWeights
from slimresnet.training.distillation.teachers import Teacher
from slimresnet.training.pretrained import Pretrained

HELD_OUT_IMAGES, TWIN, GIVEN = SOURCES
# What two runs of one recipe may have apart: a twin holds images out, and has other draws.
LEAST_SHARE = 0.75  # of a run's images that its twin has to be trained on: fewer make a network too sure of them
_OWN_TO_A_RUN = ("validation_size", "max_eval_samples", "seed")


class Calibration(NamedTuple):
    """
    What a head is divided by.

    Attributes:
        temperature: above 0.
        source: `"held_out"`: fitted on the run's own held-out images; `"twin"`: on those of a run of the same recipe;
            `"recipe"`: given by the recipe.
        samples: number of the images that it was fitted on; None where it was given.
    """

    temperature: float
    source: str
    samples: int | None = None

    def facts(self) -> dict[str, float | str | int]:
        """The entries of `all_results.json`."""
        samples = {} if self.samples is None else {"calibration_samples": self.samples}
        return {"calibration_temperature": self.temperature, "calibration_source": self.source, **samples}


@torch.no_grad()
def divide_head(network: SlimResNetForImageClassification, temperature: float) -> None:
    """Divides the logits of a network, in place: the weights and the bias of its classifier."""
    for parameter in network.classifier.parameters():
        parameter.div_(temperature)


def calibration_of_twin(
    folder: Path,
    recipe: Recipe,
    config: SlimResNetConfig,
    data: TrainingData,
    pretrained: Pretrained | None,
    teachers: Sequence[Teacher],
    class_weights: ClassWeights | None = None,
) -> Calibration:
    """
    The temperature of a finished run that `--calibration_run` names, for a run that begins now.

    Args:
        recipe: of the run that begins.
        config: of its network.
        data: what it is trained on.
        pretrained: what it starts from.
        teachers: what it learns from.
        class_weights: how it weighs classes.

    Raises:
        RecipeError: the folder is no finished run, fitted no temperature on held-out images of its own, or was trained
            by another recipe, with another network, or on other data.
        FolderError: files of the folder are changing places, or cannot be read.
    """
    _check_finished(folder)
    results = read_json(folder / RESULTS_NAME)
    if results.get("calibration_source") != HELD_OUT_IMAGES or "calibration_temperature" not in results:
        raise RecipeError(
            f"--calibration_run {folder} fitted no temperature on held-out images of its own: give a run of this "
            "recipe with a --validation_size above 0, trained by this version."
        )
    differing = _differences(folder, recipe, config)
    if results.get("train_data_fingerprint") != data.train.fingerprint:
        differing.append(f"the training images or their labels, {results.get('train_dataset')} there")
    seed = read_recipe(folder).seed
    if data.cuts_test and seed != recipe.seed:
        differing.append(f"seed {seed} there, {recipe.seed} here, which cuts other test images")
    differing += _other_cuts(results, data)
    starts = results.get("train_started_from_digest"), pretrained and pretrained.digest
    if starts[0] != starts[1]:
        differing.append("the weights that it started from")
    there, here = results.get("train_samples", 0), len(data.train_rows)
    if there < LEAST_SHARE * here:
        differing.append(f"{there:,} training images there, {here:,} here")
    # A twin's teacher may be another network, which left the twin's held-out images out: its size is compared.
    sizes = results.get("train_teacher_parameters", 0), sum(teacher.num_parameters for teacher in teachers)
    if sizes[0] != sizes[1]:
        differing.append(f"teachers of {sizes[0]:,} parameters there, of {sizes[1]:,} here")
    asked = results.get("train_class_weights"), class_weights.asked if class_weights else None
    if asked[0] != asked[1]:
        differing.append(f"class weights {asked[0]} there, {asked[1]} here")
    if differing:
        raise RecipeError(
            f"--calibration_run {folder} is of another recipe ({'; '.join(differing)}), and a temperature fits the "
            "recipe that it was fitted for alone: give a run of this one."
        )
    return Calibration(results["calibration_temperature"], TWIN, results.get("calibration_samples"))


def _check_finished(folder: Path) -> None:
    if not folder.is_dir():
        raise RecipeError(f"--calibration_run {folder} is no folder: give that of a finished run.")
    prepare_to_read(folder)
    if reason := explain_unfinished(folder):
        raise RecipeError(f"--calibration_run {reason}")
    missing = [name for name in (RESULTS_NAME, RECIPE_NAME, CONFIG_NAME) if not (folder / name).is_file()]
    if missing:
        raise RecipeError(f"--calibration_run {folder} holds no {missing[0]}: give the folder of a finished run.")


def _differences(folder: Path, recipe: Recipe, config: SlimResNetConfig) -> list[str]:
    """The settings and fields of the network that a twin has other than the run that begins, each with both values."""
    there, here = _decisive(read_recipe(folder)), _decisive(recipe)
    try:
        network = load_config(folder)
    except ModelError as error:
        raise RecipeError(f"--calibration_run {explain_error(error, str(folder), OF_TRAIN)}") from error
    there |= {field: getattr(network, field) for field in SlimResNetConfig.__annotations__}
    here |= {field: getattr(config, field) for field in SlimResNetConfig.__annotations__}
    return [f"{name} {there[name]} there, {here[name]} here" for name in here if there[name] != here[name]]


def _other_cuts(results: dict, data: TrainingData) -> list[str]:
    """What makes a twin cut other test images off the training split at the same seed, with both numbers."""
    if not data.cuts_test:
        return []
    cuts = {
        "test images": (results.get(TEST_SIZE), len(data.divided.test)),
        "training images left out": (results.get(LEFT_OUT), data.divided.num_in_others),
    }
    return [
        f"{there} {what} there, {here} here, which cuts other test images"
        for what, (there, here) in cuts.items()
        if there != here
    ]


def _decisive(recipe: Recipe) -> dict:
    """The settings that decide what is learnt, by name."""
    if recipe.total_train_batch_size is None:
        recipe = dataclasses.replace(recipe, total_train_batch_size=DEFAULT_TOTAL_TRAIN_BATCH_SIZE)
    return {
        name: value
        for name, value in (recipe.to_dict() | {"resize_mode": recipe.resize_mode or RESIZE_MODE}).items()
        if SETTINGS[name].affects == "weights" and name not in _OWN_TO_A_RUN
    }
