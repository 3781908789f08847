"""Which rows a figure is of: the prefixes of names in `all_results.json`, and the facts beside the figures."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from slimresnet.data.opening import (
    TrainingData,
    cuts_test,
    names_of_splits,
    open_recipe_split,
    open_splits,
    own_validation,
)
from slimresnet.data.partition import Rows, Splits, partition
from slimresnet.data.sources.dataset import shared_name
from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.data.sources.source import DatasetError, ImageSplit
from slimresnet.data.splits import random_subset
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import TRAIN_SPLIT, VALIDATION_SPLIT, Recipe

HELD_OUT = "held_out"  # the rows that a run kept back from training; VALIDATION_SPLIT means them too
HELD_OUT_PREFIX, TEST_PREFIX = "eval", "test"
TIMES_SCORED = "test_times_scored"
VALIDATION_SIZE = "train_validation_size"  # images that a run held out; runs of earlier versions do not say
TEST_SIZE = "train_test_size"  # images that a run cut off its training split to test on
LEFT_OUT = "train_left_out_samples"  # training images that are in another split too
VALIDATION_LEFT_OUT = "train_validation_left_out_samples"  # images of its own validation split that are tested on
_SIZES = (VALIDATION_SIZE, TEST_SIZE, LEFT_OUT, VALIDATION_LEFT_OUT)
# Held-out images that the weights which a run started from, or a teacher, had been trained on.
STARTED_FROM_SAW, TEACHER_SAW = "train_started_from_saw_held_out", "train_teacher_saw_held_out"
_TRAIN_PREFIX = "train_split"  # of the training split as something to score
_OF_DATA = ("dataset_config_name", "dataset_revision", "image_column_name", "label_column_name")
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


def training_facts(recipe: Recipe, data: TrainingData) -> dict[str, str | bool | int | None]:
    """The data of a run. A run records it: on another machine its folder may be elsewhere, or be another one."""
    return {
        "train_dataset": shared_name(recipe.dataset_name),
        "train_dataset_is_local": Path(recipe.dataset_name).exists(),
        "train_data_fingerprint": data.train.fingerprint,
        **_facts_of_rows(Splits(data.train, data.validation, data.test), data.divided),
    }


def _facts_of_rows(splits: Splits, rows: Rows) -> dict[str, int]:
    """
    How many images a run held out, cut off to test on, and left out since they are in another split.

    A number is there where it means something: one of images that are cut, and one of copies where these are known.
    """
    sizes = (
        len(rows.validation),
        len(rows.test) if splits.test is splits.train else None,
        rows.num_in_others,
        rows.num_validation_in_test,
    )
    return {name: size for name, size in zip(_SIZES, sizes, strict=True) if size is not None}


def rows_of_run(recipe: Recipe, data: TrainingData) -> tuple[ScoredRows, ScoredRows]:
    """The held-out rows of a run, which may be none, and its test rows."""
    dataset = shared_name(recipe.dataset_name)
    return (
        ScoredRows(
            data.validation,
            data.validation_rows,
            HELD_OUT_PREFIX,
            dataset,
            VALIDATION_SPLIT if data.validates_on_own else TRAIN_SPLIT,
        ),
        ScoredRows(
            data.test, data.test_rows, TEST_PREFIX, dataset, TRAIN_SPLIT if data.cuts_test else recipe.test_split
        ),
    )


def open_rows(
    asked_for: str | None, recipe: Recipe, run: Recipe | None, results: dict, pixel_format: PixelFormat
) -> ScoredRows:
    """
    The rows that `--split` means, of the data that a recipe names.

    Args:
        asked_for: name of a split, or `held_out` for the held-out rows of the run. `validation` means those too where
            the data has no split of that name. None is the split that the recipe tests on; where the data has none,
            the rows that the run cut from its training split to test on.
        run: the recipe that the model was trained with; None where it is not known.
        results: `all_results.json` of the run. The fingerprints there say whether data is the run's own, wherever the
            data lies. Without fingerprints the names in both recipes say so.
        pixel_format: what pictures are made into.

    Raises:
        DatasetError: as `open_split`.
        RecipeError: there are no held-out rows, or `held_out` has two meanings; or rows of the run are meant, and the
            data is another one.
    """
    names, name = names_of_splits(recipe), asked_for or recipe.test_split
    if name == HELD_OUT and HELD_OUT in names:
        raise RecipeError(f"--split {HELD_OUT} is a split of {recipe.dataset_name} too: rename that one.")
    data = _Data(names, recipe, run, results, pixel_format)
    if name == recipe.test_split and cuts_test(recipe, names):
        found = data.cut_test(name)
    elif name == HELD_OUT or (name == VALIDATION_SPLIT and name not in names):
        found = data.held_out(name)
    else:
        found = data.divided(name)
    return replace(found, rows=random_subset(found.rows, recipe.max_eval_samples, recipe.seed))


def open_training_rows(recipe: Recipe, run: Recipe | None, results: dict, pixel_format: PixelFormat) -> ScoredRows:
    """The rows that a run trains on, of its own training split; of other data the whole training split."""
    return _Data(names_of_splits(recipe), recipe, run, results, pixel_format).divided(TRAIN_SPLIT)


def rows_trained_on(
    recipe: Recipe, data: TrainingData, run: Recipe, results: dict, pixel_format: PixelFormat
) -> np.ndarray:
    """
    The rows of a training split that a finished run was trained on, int64; all of them where that is not known.

    Args:
        recipe, data: which data it is, and its splits as another run opened them.
        run: recipe of the finished run, whose training split has the fingerprint of `data.train`.
        results: its `all_results.json`.
        pixel_format: what pictures are made into.
    """
    there = replace(run, **{name: getattr(recipe, name) for name in ("dataset_name", *_OF_DATA)})
    opened = _Data(names_of_splits(there), there, run, results, pixel_format)
    try:
        splits = opened.splits()
        rows = opened.rows(splits)
    except (DatasetError, RecipeError):  # splits of that run are not here
        return np.arange(len(data.train.labels))
    if not opened.is_as_recorded(splits, rows):
        return np.arange(len(data.train.labels))
    if saw_held_out(results) and splits.validation is splits.train:  # what its own start was trained on counts too
        return np.concatenate([rows.train, rows.validation])
    return rows.train


def saw_held_out(results: dict) -> bool:
    """Whether held-out images of a run were trained on before, so that they say too little of other images."""
    return bool(results.get(STARTED_FROM_SAW) or results.get(TEACHER_SAW))


@dataclass(frozen=True)
class _Data:
    """Data that a recipe names. `names` are those of its splits, all others as in `open_rows`."""

    names: list[str]
    recipe: Recipe
    run: Recipe | None
    results: dict
    pixel_format: PixelFormat

    def whole(self, name: str) -> ScoredRows:
        """All rows of a split."""
        split = open_recipe_split(self.recipe, name, self.pixel_format)
        return self.named(split, np.arange(len(split.labels)), self.prefix(split, name), name)

    def divided(self, name: str) -> ScoredRows:
        """The rows of a split; of a split that the run trained or chose on, those that it trained or chose on."""
        found = self.whole(name)
        is_whole = found.are_held_out and self.results and not self.results.get(VALIDATION_LEFT_OUT)
        if is_whole or not (found.are_trained_on or found.are_held_out):
            return found
        if found.are_trained_on and TRAIN_SPLIT not in self.names:  # it has another name here
            return found
        splits = self.splits()
        rows = self.rows(splits)
        if found.are_trained_on:
            is_same = splits.train.fingerprint == found.split.fingerprint
            return replace(found, rows=rows.train) if is_same else found
        if splits.validation.fingerprint != found.split.fingerprint or not self.is_as_recorded(splits, rows):
            raise self._of_others(name, "chose on")
        return replace(found, rows=rows.validation)

    def held_out(self, asked_for: str) -> ScoredRows:
        """The rows that the run held out of its training, or the validation split that the run chose on."""
        missing = f"--split {asked_for}: the model was trained without one"
        if self.recipe.validation_size == 0:
            raise RecipeError(f"{missing} (--validation_size 0).")
        if own_validation(self.recipe, self.names):
            scored = self.divided(VALIDATION_SPLIT)
            if not scored.are_held_out:
                raise self._of_others(asked_for, "chose on")
            if not len(scored.rows):
                raise RecipeError(f"{missing}: the images of its validation split are all in its test split too.")
            return scored
        splits, rows = self._of_run(asked_for, "held out of its training")
        if not len(rows.validation):
            raise RecipeError(f"{missing}: its images were too few.")
        return self.named(splits.train, rows.validation, HELD_OUT_PREFIX, TRAIN_SPLIT)

    def cut_test(self, asked_for: str) -> ScoredRows:
        """The rows that the run cut from its training split to test on."""
        splits, rows = self._of_run(asked_for, "cut from its training split to test on")
        return self.named(splits.test, rows.test, TEST_PREFIX, TRAIN_SPLIT)

    def splits(self) -> Splits:
        """The splits that the recipe trains, validates and tests on."""
        return open_splits(self.recipe, self.names, self.pixel_format)

    def rows(self, splits: Splits) -> Rows:
        """Their rows, as the run divided them."""
        # A run that did not record how many images it held out knew of no copies. One that did not record how many
        # images of its validation split were tested on kept them.
        return partition(
            self.recipe,
            splits,
            knows_copies=not self.results or VALIDATION_SIZE in self.results,
            keeps_tested_validation=bool(self.results) and VALIDATION_LEFT_OUT not in self.results,
        )

    def _of_run(self, asked_for: str, purpose: str) -> tuple[Splits, Rows]:
        """The splits of a run's own data, and their rows; `purpose` says what the rows are that are asked for."""
        splits = self.splits()
        if self.prefix(splits.train, TRAIN_SPLIT) != _TRAIN_PREFIX:
            raise self._of_others(asked_for, purpose)
        rows = self.rows(splits)
        if not self.is_as_recorded(splits, rows):
            raise self._of_others(asked_for, purpose)
        return splits, rows

    def is_as_recorded(self, splits: Splits, rows: Rows) -> bool:
        """Whether the other splits are as they were too, as far as the rows of the training split depend on them."""
        if not self.results:
            return True
        if VALIDATION_SIZE not in self.results:
            return splits.test is not splits.train
        if (rows.num_in_others or rows.num_validation_in_test) and self.results.get(
            "test_fingerprint"
        ) != splits.test.fingerprint:
            return False
        found = _facts_of_rows(splits, rows)
        return all(self.results.get(name) == found.get(name) for name in _SIZES)

    def _of_others(self, asked_for: str, purpose: str) -> RecipeError:
        return RecipeError(
            f"--split {asked_for} means the images that the run {purpose}, and {self.recipe.dataset_name} is not known "
            f"to be its data: name one of the splits there ({', '.join(self.names)})."
        )

    def named(self, split: ImageSplit, rows: np.ndarray, prefix: str, name: str) -> ScoredRows:
        """The rows, with the name of their data."""
        dataset = shared_name(self.recipe.dataset_name)
        if prefix in (HELD_OUT_PREFIX, TEST_PREFIX, _TRAIN_PREFIX):  # a copy goes by the name of the run's own data
            dataset = self.results.get("train_dataset", dataset)
        return ScoredRows(split, rows, prefix, dataset, name)

    def prefix(self, split: ImageSplit, name: str) -> str:
        """The prefix of a whole split."""
        same_names = self.run is not None and _names_of_data(self.recipe) == _names_of_data(self.run)

        def is_that_of_run(fact: str, split_of_run: str | None) -> bool:
            if fact in self.results:
                return split.fingerprint == self.results[fact]
            return same_names and name == split_of_run

        test_split = self.run.test_split if self.run else None
        chosen_on = VALIDATION_SPLIT if self.run and own_validation(self.run, self.names) else None
        # First: rows for test and validation may be cut from the training split, and then have its fingerprint.
        if is_that_of_run("train_data_fingerprint", TRAIN_SPLIT):
            return _TRAIN_PREFIX
        if is_that_of_run("test_fingerprint", test_split):
            return TEST_PREFIX
        if is_that_of_run("eval_fingerprint", chosen_on):
            return HELD_OUT_PREFIX
        if same_names and name not in (TRAIN_SPLIT, test_split):
            return free_prefix(name)
        return free_prefix(shared_name(self.recipe.dataset_name).split("/")[-1], name)


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
    return {name: getattr(recipe, name) for name in _OF_DATA} | {"path": path.resolve() if path.exists() else str(path)}
