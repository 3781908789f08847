"""Images that a run holds out or tests on, and that the weights it starts from or its teachers were trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slimresnet.data.opening import TrainingData
from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.data.sources.source import ImageSplit
from slimresnet.evaluation.rows import STARTED_FROM_SAW, TEACHER_SAW, rows_trained_on
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.reading import read_recipe
from slimresnet.recipe.settings import Recipe
from slimresnet.run_folder.names import RECIPE_NAME
from slimresnet.run_folder.reading import read_results
from slimresnet.training.distillation.teachers import Teacher
from slimresnet.training.pretrained import Pretrained

_CUTS = ("seed", "test_size", "validation_size", "test_split")  # settings that say which test images are cut


@dataclass(frozen=True)
class SeenHeldOut:
    """
    Numbers of the held-out images that were trained on before. Choices that such images decide would be too sure.

    Attributes:
        by_start: those that the weights which the run starts from were trained on.
        by_teachers: those that a teacher was trained on.
    """

    by_start: int = 0
    by_teachers: int = 0

    def facts(self) -> dict[str, int]:
        """The entries of `all_results.json`; none where nothing was seen."""
        facts = {STARTED_FROM_SAW: self.by_start, TEACHER_SAW: self.by_teachers}
        return {name: count for name, count in facts.items() if count}

    def describe(self) -> list[str]:
        """A line for each network that saw some."""
        seen = {"what it starts from": self.by_start, "a teacher": self.by_teachers}
        return [
            f"seen     {whose} was trained on {count:,} of the held-out images: these fit no temperature, no threshold"
            for whose, count in seen.items()
            if count
        ]


def find_seen(
    recipe: Recipe,
    data: TrainingData,
    pixel_format: PixelFormat,
    pretrained: Pretrained | None,
    teachers: Sequence[Teacher],
) -> SeenHeldOut:
    """
    Counts the held-out images that a start or a teacher was trained on, as far as the files of their runs tell.

    Args:
        recipe: of the run that begins.
        data: what it is trained on.
        pixel_format: what pictures are made into.

    Raises:
        RecipeError: a network was trained on images that the run cuts off the training split to test on; or the recipe
            of its run cannot be read.
        FolderError: the results of its run cannot be read.
    """

    def seen(flag: str, folder: Path | None) -> np.ndarray:
        if folder is None:
            return np.zeros(len(data.divided.validation), dtype=bool)
        return _are_seen(flag, folder, recipe, data, pixel_format)

    by_start = seen("--model_name_or_path", pretrained.folder if pretrained else None)
    by_teachers = [seen("--teacher_name_or_path", teacher.folder) for teacher in teachers]
    return SeenHeldOut(int(by_start.sum()), int(np.any(by_teachers, axis=0).sum()) if by_teachers else 0)


def _are_seen(flag: str, folder: Path, recipe: Recipe, data: TrainingData, pixel_format: PixelFormat) -> np.ndarray:
    """Whether the run in a folder was trained on each of the held-out images, bool; errors as `find_seen`."""
    results, rows = read_results(folder), data.divided
    is_same_data = results.get("train_data_fingerprint", "") == data.train.fingerprint
    if not is_same_data or not (folder / RECIPE_NAME).is_file():
        return np.zeros(len(rows.validation), dtype=bool)
    run = read_recipe(folder)
    trained_on = rows_trained_on(recipe, data, run, results, pixel_format)
    num_tested = int(_are_among(data.test, rows.test, data.train, trained_on).sum()) if data.cuts_test else 0
    if num_tested:
        differing = [name for name in _CUTS if getattr(run, name) != getattr(recipe, name)]
        settings = " ".join(f"--{name} {getattr(run, name)}" for name in differing)
        way_out = f"give {settings}, as that run has it" if differing else "start from other weights"
        if not differing and flag.startswith("--teacher"):
            way_out = "give another teacher"
        raise RecipeError(
            f"{flag} {folder} was trained on {num_tested:,} of the {len(rows.test):,} images that this run cuts off "
            f"the training split to test on: {way_out}."
        )
    return _are_among(data.validation, rows.validation, data.train, trained_on)


def _are_among(split: ImageSplit, rows: np.ndarray, train: ImageSplit, trained_on: np.ndarray) -> np.ndarray:
    """Whether the pictures of rows are among those of rows of the training split, bool `[len(rows)]`."""
    if split.contents is not None and train.contents is not None:
        return np.isin(split.contents[rows], train.contents[trained_on])
    return np.isin(rows, trained_on) if split is train else np.zeros(len(rows), dtype=bool)
