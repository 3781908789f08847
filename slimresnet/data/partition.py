"""Which rows are trained on, validated on and tested on: what is cut off the training split, and what is left out."""

from typing import NamedTuple

import numpy as np

from slimresnet.data.sources.source import DatasetError, ImageSplit
from slimresnet.data.splits import Size, stratified_split
from slimresnet.recipe.settings import Recipe


class Splits(NamedTuple):
    """
    The splits of a run.

    Attributes:
        train: the training split.
        validation: the data's own validation split, or `train` itself where validation is cut from it.
        test: the data's own test split, or `train` itself where test is cut from it.
    """

    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit


class Rows(NamedTuple):
    """
    All rows of the splits of a run, int64, ascending.

    Attributes:
        train: rows of the training split that are trained on.
        validation, test: rows that are cut from the training split, or all rows of the data's own splits.
        num_in_others: training images that are left out, since their pictures are in another split; None where nothing
            says which pictures are the same.
        num_copies: rows of the training split that hold the picture of an earlier row, and are on its side.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    num_in_others: int | None
    num_copies: int


def partition(recipe: Recipe, splits: Splits, *, knows_copies: bool = True) -> Rows:
    """
    Divides the rows of a run: what the data does not have is cut off the training split, test first, then validation.

    Args:
        knows_copies: whether rows of one picture stay on one side, and training images whose pictures are in another
            split are left out; False finds the rows of a run of an earlier version.

    Raises:
        DatasetError: there are not enough images for a cut, or every training image is in another split too.
    """
    train, validation, test = splits
    contents = train.contents if knows_copies else None
    rows, num_in_others, num_copies = np.arange(len(train.labels)), None, 0
    if contents is not None:
        others = [each.contents for each in (validation, test) if each is not train and each.contents is not None]
        rows = np.flatnonzero(~np.isin(contents, np.concatenate([contents[:0], *others])))
        num_in_others, num_copies = len(contents) - len(rows), len(rows) - len(np.unique(contents[rows]))
    if not len(rows):
        raise DatasetError(
            f"every training image of {recipe.dataset_name} is in its validation or test split too: take the copies "
            "out of these."
        )

    def cut(rows: np.ndarray, size: Size, setting: str) -> tuple[np.ndarray, np.ndarray]:
        pictures = None if contents is None else contents[rows]
        kept, off = stratified_split(train.labels[rows], size, recipe.seed, contents=pictures, setting=setting)
        return rows[kept], rows[off]

    test_rows, validation_rows = np.arange(len(test.labels)), np.arange(len(validation.labels))
    if test is train:
        rows, test_rows = cut(rows, recipe.test_size, "test_size")
        if not len(test_rows):
            raise DatasetError(
                f"no test images can be cut from {recipe.dataset_name}, where no class has two pictures: give more "
                "images, or name a split with --test_split."
            )
    if validation is train:
        rows, validation_rows = cut(rows, recipe.validation_size, "validation_size")
    return Rows(rows, validation_rows, test_rows, num_in_others, num_copies)
