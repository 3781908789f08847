"""The labels of rows as numbers: one class a row, or 0 and 1 for each class, from lists or from a column a class."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow
import pyarrow.compute
from datasets import ClassLabel, Features

from slimresnet.data.sources.columns import column_of, element_of, flat_features, label_column_names, number_labels
from slimresnet.data.sources.source import DatasetError
from slimresnet.errors import printable

_ANSWERS = (["0", "1"], ["false", "true"])  # in place of the names of classes, a row of them for each image
NO_LABEL = -(2**63)
"""The class number of a row that has none."""


@dataclass(frozen=True)
class Labels:
    """
    Where the labels of a split are, and how they become numbers.

    Attributes:
        columns: the columns, or fields of some, that are read.
        names: of the classes.
        read: a table with these columns, the number of its first row, and what the split is called, to labels as
            `ImageSplit` has them. A class number that is out of range is left as it is, and a null is `NO_LABEL`.
    """

    columns: list[str]
    names: list[str]
    read: Callable[[pyarrow.Table, int, str], np.ndarray]


def one_class(column: str, names: list[str]) -> Labels:
    """Labels of one class a row, from a column of class numbers that `EncodedRows` gives."""
    return Labels([column], names, partial(_class_numbers, column))


def lists_of_classes(column: str, names: list[str], features: Features) -> Labels:
    """Labels from a column of lists: of class numbers, where it holds a `ClassLabel`, or of names or numbers."""
    is_numbered = isinstance(element_of(flat_features(features)[column]), ClassLabel)
    return Labels([column], names, partial(_listed, column, names, is_numbered))


def column_a_class(columns: str, features: Features, description: str) -> Labels:
    """
    Labels from a column of 0 and 1, or of true and false, for each class; the names of the columns are the classes'.

    Args:
        columns: their names, with commas between them.

    Raises:
        DatasetError: there is no such column, or it holds something else.
    """
    names = label_column_names(columns, features, description)
    return Labels(names, names, partial(_zeros_and_ones, names))


def _class_numbers(column: str, table: pyarrow.Table, first: int, description: str) -> np.ndarray:
    return table[column].cast(pyarrow.int64()).fill_null(NO_LABEL).to_numpy()


def _listed(
    column: str, names: list[str], is_numbered: bool, table: pyarrow.Table, first: int, description: str
) -> np.ndarray:
    lists = column_of(table, column).combine_chunks()
    if lists.null_count:
        row = first + lists.is_null().to_numpy(zero_copy_only=False).argmax()
        raise DatasetError(
            f"row {row} of {description} has nothing in column {column}: an empty list says that an image is of no "
            "class; correct or remove it."
        )
    rows = pyarrow.compute.list_parent_indices(lists).to_numpy()
    values = pyarrow.compute.list_flatten(lists)
    numbered = values if is_numbered else number_labels(values, names)
    numbers = numbered.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    wrong = np.flatnonzero((numbers < 0) | (numbers >= len(names)))
    if len(wrong):
        value = values[int(wrong[0])].as_py()
        said = "nothing" if value is None else printable(str(value))
        raise DatasetError(
            f"row {first + rows[wrong[0]]} of {description} names a class in column {column} that is none of the "
            f"{len(names)} there are (it says {said}): correct or remove it."
        )
    labels = np.zeros((len(lists), len(names)), np.uint8)
    labels[rows, numbers] = 1
    repeats = labels.sum() < len(numbers)  # as the objects of a picture may
    if repeats and not is_numbered and names in _ANSWERS:
        raise DatasetError(
            f"column {column} of {description} holds rows of 0 and 1, which name no classes: give a column for each "
            "class, and their names with commas to --label_column_name, or lists of the names of classes."
        )
    return labels


def _zeros_and_ones(columns: list[str], table: pyarrow.Table, first: int, description: str) -> np.ndarray:
    labels = np.empty((len(table), len(columns)), np.uint8)
    for number, column in enumerate(columns):
        values = column_of(table, column).cast(pyarrow.float64()).fill_null(np.nan).to_numpy()
        wrong = np.flatnonzero((values != 0) & (values != 1))
        if len(wrong):
            value = values[wrong[0]]
            said = "nothing" if np.isnan(value) else f"{value:g}"
            raise DatasetError(
                f"row {first + wrong[0]} of {description} has neither 0 nor 1 in column {column} (it says {said}): "
                "correct or remove it, or take the column out of --label_column_name."
            )
        labels[:, number] = values
    return labels
