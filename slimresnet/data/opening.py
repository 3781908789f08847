"""The data that a recipe names, and which rows of it are trained on, validated on and tested on."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from slimresnet.data.loader import Loading, TrainingLoader
from slimresnet.data.partition import Rows, Splits, partition
from slimresnet.data.sources.dataset import open_split, split_names
from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.data.sources.source import ImageSplit
from slimresnet.data.sources.spellings import spelt_split
from slimresnet.data.splits import random_subset
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import TRAIN_SPLIT, VALIDATION_SPLIT, Recipe


@dataclass(frozen=True)
class TrainingData:
    """
    The splits, and which of their rows are trained on, validated on and tested on.

    Attributes:
        train, validation, test: as `Splits`.
        train_rows, validation_rows, test_rows: row numbers, int64, ascending: as many as the recipe uses.
        divided: all rows, of which these are.
        spare_split: the data's own validation split where it is not used.
    """

    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit
    train_rows: np.ndarray
    validation_rows: np.ndarray
    test_rows: np.ndarray
    divided: Rows
    spare_split: str | None

    @property
    def validates_on_own(self) -> bool:
        """Whether the validation rows are of a split of their own, and not cut from the training split."""
        return self.validation is not self.train

    @property
    def cuts_test(self) -> bool:
        """Whether the test rows are cut from the training split."""
        return self.test is self.train

    @property
    def sizes(self) -> dict[str, int]:
        """The settings `validation_size` and, where it is used, `test_size`, as numbers of images."""
        sizes = {"validation_size": len(self.divided.validation)}
        return sizes | ({"test_size": len(self.divided.test)} if self.cuts_test else {})

    @property
    def copies(self) -> str | None:
        """What copies of pictures changed of the training rows, in words that two runs can be compared by."""
        left_out, copies = self.divided.num_in_others, self.divided.num_copies
        return f"{left_out} left out, {copies} copies" if left_out or copies else None


def open_recipe_split(
    recipe: Recipe, split: str, pixel_format: PixelFormat, resident_on: torch.device | None = None
) -> ImageSplit:
    """
    A split of the dataset that the recipe names; `resident_on` as in `open_split`.

    Raises:
        DatasetError: as `open_split`.
    """
    return open_split(
        recipe.dataset_name,
        split,
        image_size=pixel_format.image_size,
        resize_mode=pixel_format.resize_mode,
        num_channels=pixel_format.num_channels,
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


def open_splits(
    recipe: Recipe, names: Sequence[str], pixel_format: PixelFormat, resident_on: torch.device | None = None
) -> Splits:
    """
    Opens the splits that a recipe trains, validates and tests on.

    Args:
        names: as `names_of_splits` gives them.
        resident_on: as in `open_split`.

    Raises:
        DatasetError: as `open_split`.
        RecipeError: a split holds the images of another one, or has other classes; `--test_size` is of no use.
    """
    if recipe.test_size != "auto" and not cuts_test(recipe, names):
        raise RecipeError(
            f"--test_size {recipe.test_size} cuts test images from the training split, and {recipe.dataset_name} is "
            f"tested on a split of its own, {recipe.test_split}: leave --test_size out."
        )
    opened = partial(open_recipe_split, recipe, pixel_format=pixel_format, resident_on=resident_on)
    train = opened(TRAIN_SPLIT)
    test = train if cuts_test(recipe, names) else opened(recipe.test_split)
    validation = opened(VALIDATION_SPLIT) if own_validation(recipe, names) else train
    others = {
        f"--test_split {recipe.test_split}": (test, "name another split"),
        f"split {VALIDATION_SPLIT}": (validation, "give a --validation_size, which takes its place"),
    }
    for name, (split, way_out) in others.items():
        if split is not train and split.fingerprint == train.fingerprint:
            raise RecipeError(
                f"{name} of {recipe.dataset_name} holds the very images of the training split: {way_out}."
            )
        if split.label_names != train.label_names:
            raise RecipeError(f"{name} of {recipe.dataset_name} names other classes than the training split.")
    if validation is not train and validation.fingerprint == test.fingerprint:
        raise RecipeError(
            f"--test_split {recipe.test_split} of {recipe.dataset_name} holds the very images of its split "
            f"{VALIDATION_SPLIT}, which choices are made on: give a --validation_size, which takes its place."
        )
    return Splits(train, validation, test)


def open_data(recipe: Recipe, loading: Loading, pixel_format: PixelFormat) -> TrainingData:
    """
    Opens the splits, and cuts what the data does not have off the training split: test first, then validation.

    Raises:
        DatasetError: as `open_splits` and `partition`.
        RecipeError: as `open_splits`.
    """
    names = names_of_splits(recipe)
    splits = open_splits(recipe, names, pixel_format, None if recipe.streaming else loading.device)
    rows = partition(recipe, splits)
    is_spare = splits.validation is splits.train and _has_validation(recipe, names)
    return TrainingData(
        *splits,
        train_rows=random_subset(rows.train, recipe.max_train_samples, recipe.seed),
        validation_rows=random_subset(rows.validation, recipe.max_eval_samples, recipe.seed),
        test_rows=random_subset(rows.test, recipe.max_eval_samples, recipe.seed),
        divided=rows,
        spare_split=VALIDATION_SPLIT if is_spare else None,
    )


def _has_validation(recipe: Recipe, names: Sequence[str]) -> bool:
    parts = [part.strip() for part in recipe.test_split.split("+")]
    tested = [spelt_split(part) or part for part in parts]  # `val` means the split validation, too
    return VALIDATION_SPLIT in names and VALIDATION_SPLIT not in tested


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
        balanced=recipe.balanced_sampling,
        copies=recipe.augmented_copies,
    )
