"""Which rows are trained on, validated on and tested on: what is cut off the training split, and what is left out."""

from typing import NamedTuple

import numpy as np

from slimresnet.data.sources.source import DatasetError, ImageSplit
from slimresnet.data.splits import Size, stratified_split
from slimresnet.recipe.settings import Recipe


class Rows(NamedTuple):
    """
    Rows of the splits of a run, int64, ascending, and the number of training images that are in none of them.

    Attributes:
        train: rows of the training split that are trained on.
        validation, test: rows of the splits that these are cut from, or all rows of the data's own.
        num_in_others: training images that are left out, since their pictures are in another split; None where nothing
            says which pictures are the same.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    num_in_others: int | None


def partition(
    recipe: Recipe, train: ImageSplit, validation: ImageSplit, test: ImageSplit, keep_copies_together: bool
) -> Rows:
    """
    Divides the rows of a run.

    Args:
        validation, test: the data's own splits, or `train` where they are cut from it, test first.
        keep_copies_together: as in `open_data`.

    Raises:
        DatasetError: there are not enough images for a cut, or no training image is in no other split.
    """
    contents = train.contents if keep_copies_together else None
    rows, num_in_others = np.arange(len(train.labels)), None
    if contents is not None:
        others = [each.contents for each in (validation, test) if each is not train and each.contents is not None]
        rows = np.flatnonzero(~np.isin(contents, np.concatenate([contents[:0], *others])))
        num_in_others = len(train.labels) - len(rows)
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
    return Rows(rows, validation_rows, test_rows, num_in_others)
