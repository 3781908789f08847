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
        validation, test: rows that are cut from the training split, or rows of the data's own splits: all of the test
            split, and of the validation split those whose pictures are not in the test split.
        num_in_others: training images that are left out, since their pictures are in another split; None where nothing
            says which pictures are the same.
        num_copies: rows of the training split that hold the picture of an earlier row, and are on its side.
        num_validation_in_test: images of the data's own validation split that are left out, since their pictures are in
            its test split; None where there are no two such splits, or nothing says which pictures are the same.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    num_in_others: int | None
    num_copies: int
    num_validation_in_test: int | None = None


def partition(
    recipe: Recipe, splits: Splits, *, knows_copies: bool = True, keeps_tested_validation: bool = False
) -> Rows:
    """
    Divides the rows of a run: what the data does not have is cut off the training split, test first, then validation.

    Args:
        knows_copies: whether rows of one picture stay on one side, and training images whose pictures are in another
            split are left out; False finds the rows of a run of an earlier version.
        keeps_tested_validation: whether images of the data's own validation split stay though they are tested on; True
            finds the rows of a run of an earlier version.

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
    num_validation_in_test = None
    if validation is train:
        rows, validation_rows = cut(rows, recipe.validation_size, "validation_size")
    elif not keeps_tested_validation and (is_tested := _are_in_test(validation, splits)) is not None:
        validation_rows, num_validation_in_test = np.flatnonzero(~is_tested), int(is_tested.sum())
    return Rows(rows, validation_rows, test_rows, num_in_others, num_copies, num_validation_in_test)


def _are_in_test(validation: ImageSplit, splits: Splits) -> np.ndarray | None:
    """Whether the picture of a validation row is in the data's own test split, bool `[num_rows]`; None as in `Rows`."""
    test = splits.test
    # What is cut from the training split to test on has no picture of validation: such training images are left out.
    if test is splits.train or validation.contents is None or test.contents is None:
        return None
    return np.isin(validation.contents, test.contents)
