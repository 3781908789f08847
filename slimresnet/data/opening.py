"""The data that a recipe names, and which rows of it are trained on, validated on and tested on."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from slimresnet.data.loader import Loading, TrainingLoader
from slimresnet.data.partition import partition
from slimresnet.data.sources.dataset import open_split, split_names
from slimresnet.data.sources.source import ImageSplit
from slimresnet.data.splits import random_subset
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import TRAIN_SPLIT, VALIDATION_SPLIT, Recipe


class Found(NamedTuple):
    """
    What the settings of the splits came to, whatever part of the images the recipe then uses.

    Attributes:
        validation_size: number of the images that are held out; 0 for none.
        test_size: number of the images that are cut from the training split to test on; None where the data has a test
            split of its own.
        num_in_others: training images that are left out, since their pictures are in another split; None where nothing
            says which pictures are the same.
        num_copies: rows of the training split that hold the picture of an earlier row.
        spare_split: the data's own validation split where it is not used.
    """

    validation_size: int
    test_size: int | None
    num_in_others: int | None
    num_copies: int
    spare_split: str | None


@dataclass(frozen=True)
class TrainingData:
    """
    The splits, and which of their rows are trained on, validated on and tested on.

    Attributes:
        train: the training split.
        validation: the split that `validation_rows` are of: the data's own validation split, or `train` itself.
        test: the split that `test_rows` are of: the data's own test split, or `train` itself.
        train_rows, validation_rows, test_rows: row numbers, int64, ascending.
        found: what the settings of the splits came to.
    """

    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit
    train_rows: np.ndarray
    validation_rows: np.ndarray
    test_rows: np.ndarray
    found: Found


def open_recipe_split(
    recipe: Recipe, split: str, image_size: int, resident_on: torch.device | None = None
) -> ImageSplit:
    """
    A split of the dataset that the recipe names; `resident_on` as in `open_split`.

    Raises:
        DatasetError: as `open_split`.
    """
    return open_split(
        recipe.dataset_name,
        split,
        image_size=image_size,
        config_name=recipe.dataset_config_name,
        revision=recipe.dataset_revision,
        image_column=recipe.image_column_name,
        label_column=recipe.label_column_name,
        resident_on=resident_on,
    )


def names_of_splits(recipe: Recipe) -> list[str]:
    """
    The names of the splits of the dataset that the recipe names.

    Raises:
        DatasetError: there is no such dataset.
    """
    return split_names(recipe.dataset_name, recipe.dataset_config_name, recipe.dataset_revision)


def cuts_test(recipe: Recipe, names: Sequence[str]) -> bool:
    """
    Whether the test images are cut from the training split: the data has no split of the default name.

    Another name that is not there is a mistake, and opening it says so.

    Args:
        names: as `names_of_splits` gives them.
    """
    return recipe.test_split == Recipe.test_split and TRAIN_SPLIT in names and recipe.test_split not in names


def own_validation(recipe: Recipe, names: Sequence[str]) -> bool:
    """Whether the recipe validates on the data's own validation split; `names` as `names_of_splits` gives them."""
    return recipe.validation_size == "auto" and _has_validation(recipe, names)


def open_data(recipe: Recipe, loading: Loading, image_size: int, *, keep_copies_together: bool = True) -> TrainingData:
    """
    Opens the splits, and cuts what the data does not have off the training split: test first, then validation.

    Args:
        keep_copies_together: whether rows of one picture are on one side, and training images whose pictures are in
            another split left out; False finds the rows of a run of an earlier version.

    Raises:
        DatasetError: as `open_split` and `stratified_split`.
        RecipeError: a split holds the images of the training split, or has other classes; `--test_size` is of no use;
            there is nothing to choose the best epoch on.
    """
    names = names_of_splits(recipe)
    opened = partial(
        open_recipe_split, recipe, image_size=image_size, resident_on=None if recipe.streaming else loading.device
    )
    if recipe.test_size != "auto" and not cuts_test(recipe, names):
        raise RecipeError(
            f"--test_size {recipe.test_size} cuts test images from the training split, and {recipe.dataset_name} has "
            f"a split {recipe.test_split} of its own: leave --test_size out."
        )
    train = opened(TRAIN_SPLIT)
    test = train if cuts_test(recipe, names) else opened(recipe.test_split)
    validation = opened(VALIDATION_SPLIT) if own_validation(recipe, names) else train
    others = [
        (f"--test_split {recipe.test_split}", test, "name another split"),
        (f"split {VALIDATION_SPLIT}", validation, "give a --validation_size, and it is not used"),
    ]
    _check_others(recipe, train, [other for other in others if other[1] is not train])
    rows = partition(recipe, train, validation, test, keep_copies_together)
    found = Found(
        validation_size=len(rows.validation),
        test_size=len(rows.test) if test is train else None,
        num_in_others=rows.num_in_others,
        num_copies=0 if train.contents is None else len(train.contents) - len(np.unique(train.contents)),
        spare_split=VALIDATION_SPLIT if validation is train and _has_validation(recipe, names) else None,
    )
    if recipe.load_best_model_at_end and not found.validation_size:
        raise RecipeError(
            f"--load_best_model_at_end chooses on validation, and {recipe.dataset_name} has too few images to hold any "
            "out: leave it out."
        )
    return TrainingData(
        train,
        validation,
        test,
        train_rows=random_subset(rows.train, recipe.max_train_samples, recipe.seed),
        validation_rows=random_subset(rows.validation, recipe.max_eval_samples, recipe.seed),
        test_rows=random_subset(rows.test, recipe.max_eval_samples, recipe.seed),
        found=found,
    )


def _has_validation(recipe: Recipe, names: Sequence[str]) -> bool:
    tested = [part.strip() for part in recipe.test_split.split("+")]
    return VALIDATION_SPLIT in names and VALIDATION_SPLIT not in tested


def _check_others(recipe: Recipe, train: ImageSplit, others: Sequence[tuple[str, ImageSplit, str]]) -> None:
    """Refuses a split, given with its name and a way out, that is the training split or has other classes."""
    for name, split, way_out in others:
        if split.fingerprint == train.fingerprint:
            raise RecipeError(
                f"{name} of {recipe.dataset_name} holds the very images of the training split: {way_out}."
            )
        if split.label_names != train.label_names:
            raise RecipeError(f"{name} of {recipe.dataset_name} names other classes than the training split.")


def build_training_loader(recipe: Recipe, data: TrainingData, loading: Loading, batch_size: int) -> TrainingLoader:
    """The training rows in the recipe's order, `batch_size` of them at once."""
    return TrainingLoader(
        data.train,
        data.train_rows,
        loading,
        seed=recipe.seed,
        batch_size=batch_size,
        accumulation=recipe.gradient_accumulation_steps,
        shuffle_buffer_size=recipe.shuffle_buffer_size,
        copies=recipe.augmented_copies,
    )
