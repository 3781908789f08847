"""Which rows a figure is of: the prefixes of names in `all_results.json`, and the facts beside the figures."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slimresnet.data.opening import TrainingData, open_recipe_split
from slimresnet.data.sources.dataset import shared_name, split_names
from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.data.sources.source import ImageSplit
from slimresnet.data.splits import random_subset, stratified_split
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import TRAIN_SPLIT, Recipe

HELD_OUT = "held_out"  # the rows that a run kept back from its training split
VALIDATION = "validation"  # the held-out rows too, where the data has no split of this name
HELD_OUT_PREFIX, TEST_PREFIX = "eval", "test"
TIMES_SCORED = "test_times_scored"
_TRAIN_PREFIX = "train_split"  # of the training split as something to score
_RESERVED = (HELD_OUT_PREFIX, TEST_PREFIX, "train")  # first words of what a run itself has to say


@dataclass(frozen=True)
class ScoredRows:
    """
    Rows to score.

    Attributes:
        split: the split that the rows are of.
        rows: row numbers, int64, ascending.
        prefix: beginning of the names of figures: `eval` for the held-out rows of a run, `test` for its test split.
            Other rows have other prefixes, which begin with none of `eval`, `test` and `train`.
        dataset: name of the data, without a path of this machine.
        split_name: name of the split in the data.
    """

    split: ImageSplit
    rows: np.ndarray
    prefix: str
    dataset: str
    split_name: str

    @property
    def are_held_out(self) -> bool:
        """Whether the run held the rows out of its training, so that choices may be made on them."""
        return self.prefix == HELD_OUT_PREFIX

    @property
    def are_trained_on(self) -> bool:
        """Whether the rows are of the split that the run was trained on."""
        return self.prefix == _TRAIN_PREFIX

    def facts(self, prefix: str) -> dict[str, str | int | None]:
        """Dataset, split, size and fingerprint behind figures whose names begin with `prefix`."""
        return {
            f"{prefix}_dataset": self.dataset,
            f"{prefix}_split": self.split_name,
            f"{prefix}_num_rows": len(self.split.labels),
            f"{prefix}_fingerprint": self.split.fingerprint,
        }


def training_facts(recipe: Recipe, data: TrainingData) -> dict[str, str | bool | None]:
    """The data of a run. A run records it: on another machine its folder may be elsewhere, or be another one."""
    return {
        "train_dataset": shared_name(recipe.dataset_name),
        "train_dataset_is_local": Path(recipe.dataset_name).exists(),
        "train_data_fingerprint": data.train.fingerprint,
    }


def rows_of_run(recipe: Recipe, data: TrainingData) -> tuple[ScoredRows, ScoredRows]:
    """The held-out rows of a run, which may be none, and its test rows."""
    dataset = shared_name(recipe.dataset_name)
    return (
        ScoredRows(data.train, data.validation_rows, HELD_OUT_PREFIX, dataset, TRAIN_SPLIT),
        ScoredRows(data.test, data.test_rows, TEST_PREFIX, dataset, recipe.test_split),
    )


def open_rows(
    asked_for: str | None, recipe: Recipe, run: Recipe | None, results: dict, pixel_format: PixelFormat
) -> ScoredRows:
    """
    The rows that `--split` means, of the data that a recipe names.

    Args:
        asked_for: name of a split, or `held_out` for the held-out rows of the run. `validation` means those too where
            the data has no split of that name. None is the split that the recipe tests on.
        run: the recipe that the model was trained with; None where it is not known.
        results: `all_results.json` of the run. The fingerprints there say whether data is the run's own, wherever the
            data lies. Without fingerprints the names in both recipes say so.
        pixel_format: what pictures are made into.

    Raises:
        DatasetError: as `open_split`.
        RecipeError: there are no held-out rows, or `held_out` has two meanings.
    """
    splits: list[str] = []
    if asked_for in (HELD_OUT, VALIDATION):
        splits = split_names(recipe.dataset_name, recipe.dataset_config_name, recipe.dataset_revision)
    if asked_for == HELD_OUT and HELD_OUT in splits:
        raise RecipeError(f"--split {HELD_OUT} is a split of {recipe.dataset_name} too: rename that one.")
    held_out = asked_for in (HELD_OUT, VALIDATION) and asked_for not in splits
    name = TRAIN_SPLIT if held_out else asked_for or recipe.test_split
    split = open_recipe_split(recipe, name, pixel_format)
    rows, prefix = np.arange(len(split.labels)), _prefix(split, name, recipe, run, results)
    if held_out:
        if prefix != _TRAIN_PREFIX:
            raise RecipeError(
                f"--split {asked_for} means the images that the run held out of its training, and "
                f"{recipe.dataset_name} is not known to be its data: name one of the splits there "
                f"({', '.join(splits)})."
            )
        _, rows = stratified_split(split.labels, recipe.validation_size, recipe.seed)
        if not len(rows):
            raise RecipeError(f"--split {asked_for}: the model was trained without one (--validation_size 0).")
        prefix = HELD_OUT_PREFIX
    rows = random_subset(rows, recipe.max_eval_samples, recipe.seed)
    dataset = shared_name(recipe.dataset_name)
    if prefix in (HELD_OUT_PREFIX, TEST_PREFIX, _TRAIN_PREFIX):  # a copy goes by the name of the run's own data
        dataset = results.get("train_dataset", dataset)
    return ScoredRows(split, rows, prefix, dataset, name)


def _prefix(split: ImageSplit, name: str, recipe: Recipe, run: Recipe | None, results: dict) -> str:
    """The prefix of a whole split. For its arguments see `open_rows`."""
    same_names = run is not None and _names_of_data(recipe) == _names_of_data(run)

    def is_that_of_run(fact: str, split_of_run: str | None) -> bool:
        return split.fingerprint == results[fact] if fact in results else same_names and name == split_of_run

    test_split = run.test_split if run else None
    if is_that_of_run("test_fingerprint", test_split):
        return TEST_PREFIX
    if is_that_of_run("train_data_fingerprint", TRAIN_SPLIT):
        return _TRAIN_PREFIX
    if same_names and name not in (TRAIN_SPLIT, test_split):
        return free_prefix(name)
    return free_prefix(shared_name(recipe.dataset_name).split("/")[-1], name)


def free_prefix(*names: str) -> str:
    """A prefix made of names, in small letters, digits and `_`. No name that a run itself writes begins with it."""
    prefix = "_".join(re.sub(r"\W+", "_", name.lower()).strip("_") or "data" for name in names)
    return unreserved(prefix)


def unreserved(prefix: str) -> str:
    """The prefix; with `_split` at its end where a name that a run itself writes could begin with it."""
    return f"{prefix}_split" if prefix.split("_")[0] in _RESERVED else prefix


def is_fact_of_training(name: str) -> bool:
    """Whether a name in `all_results.json` tells of training, and so is no score."""
    return name in ("epoch", "total_flos") or (name.startswith("train_") and "_split_" not in name)


def count_test(scored: ScoredRows, results: dict) -> dict[str, int]:
    """The number of times that the test rows were scored, this one included; nothing where nobody counted."""
    if scored.prefix != TEST_PREFIX or TIMES_SCORED not in results:
        return {}
    return {TIMES_SCORED: results[TIMES_SCORED] + 1}


def _names_of_data(recipe: Recipe) -> dict:
    path = Path(recipe.dataset_name)
    names = ("dataset_config_name", "dataset_revision", "image_column_name", "label_column_name")
    return {name: getattr(recipe, name) for name in names} | {"path": path.resolve() if path.exists() else str(path)}
