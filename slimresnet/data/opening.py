"""The data that a recipe names, and which rows of it are trained on, validated on and tested on."""

from dataclasses import dataclass

import numpy as np
import torch

from slimresnet.data.loader import Loading, TrainingLoader
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.data.sources.source import ImageSplit
from slimresnet.data.splits import random_subset, stratified_split
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import TRAIN_SPLIT, Recipe


@dataclass(frozen=True)
class TrainingData:
    """The splits, and which of their rows are trained on, validated on and tested on."""

    train: ImageSplit
    test: ImageSplit
    train_rows: np.ndarray
    validation_rows: np.ndarray
    test_rows: np.ndarray


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


def open_data(recipe: Recipe, loading: Loading, pixel_format: PixelFormat) -> TrainingData:
    """
    Opens the training split and the test split, and cuts the validation rows off the training split.

    Raises:
        DatasetError: as `open_split` and `stratified_split`.
        RecipeError: the test split is the training split, or has other classes.
    """
    resident_on = None if recipe.streaming else loading.device
    train = open_recipe_split(recipe, TRAIN_SPLIT, pixel_format, resident_on)
    test = open_recipe_split(recipe, recipe.test_split, pixel_format, resident_on)
    if test.fingerprint == train.fingerprint:
        raise RecipeError(
            f"--test_split {recipe.test_split} of {recipe.dataset_name} holds the very images of the training split: "
            "name another split."
        )
    if test.label_names != train.label_names:
        raise RecipeError(
            f"--test_split {recipe.test_split} of {recipe.dataset_name} names other classes than the training split."
        )
    train_rows, validation_rows = stratified_split(train.labels, recipe.validation_size, recipe.seed)
    return TrainingData(
        train,
        test,
        train_rows=random_subset(train_rows, recipe.max_train_samples, recipe.seed),
        validation_rows=random_subset(validation_rows, recipe.max_eval_samples, recipe.seed),
        test_rows=random_subset(np.arange(len(test.labels)), recipe.max_eval_samples, recipe.seed),
    )


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
