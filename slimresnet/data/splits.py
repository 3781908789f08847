"""The one cut of the training images into train and validation, and the subsets for quick runs."""

import numpy as np
from sklearn.model_selection import train_test_split

from slimresnet.data.randomness import sample_order
from slimresnet.data.sources.source import DatasetError


def stratified_split(labels: np.ndarray, validation_size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Cuts rows into train and validation so that each class has its share in both.

    Args:
        labels: class numbers, int64 `[num_rows]`.
        validation_size: rows that go to validation; 0 for none.
        seed: the cut is a function of `seed` and `labels`.

    Returns:
        Row numbers of train and of validation, int64, ascending.

    Raises:
        DatasetError: there are not enough rows, in total or of a class.
    """
    rows = np.arange(len(labels))
    if validation_size == 0:
        return rows, rows[:0]
    try:
        train, validation = train_test_split(rows, test_size=validation_size, stratify=labels, random_state=seed)
    except ValueError as error:
        raise DatasetError(
            f"--validation_size {validation_size} cannot be cut evenly by class from {len(labels)} training images "
            f"({error}): choose another size, or 0 for none."
        ) from error
    return np.sort(train), np.sort(validation)


def random_subset(rows: np.ndarray, size: int | None, seed: int) -> np.ndarray:
    """`size` of the rows, drawn by seed, ascending; all of them where `size` is None or larger."""
    if size is None or size >= len(rows):
        return rows
    return np.sort(rows[sample_order(seed, 0, len(rows), len(rows))[:size]])
