"""Which columns of a dataset hold its images and its labels, and what the labels are."""

from collections.abc import Iterable
from typing import Any

import pyarrow
import pyarrow.compute
from datasets import ClassLabel, Features, Image, LargeList, List, Value

from slimresnet.data.sources.source import DatasetError

_CALLED_LABELS = ("label", "labels", "class", "target", "category", "cls")
_NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_FLOATS = ("float16", "float32", "float64")
_TEXT, _BYTES = ("string", "large_string"), ("binary", "large_binary")


def find_column(features: Features, kind: type, name: str | None, flag: str, description: str) -> str:
    """
    The name of the only column of images, with `kind` `Image`, or of class labels, with `ClassLabel`.

    Where no column is an `Image`, images may be bytes, or bytes and a path; where none is a `ClassLabel`, labels may be
    text, whole numbers or booleans, in a field `json.label` too. Of several such, the one that is called as labels are
    is taken. Where none is called so, a column of lists is taken that holds class labels, or is called so. With `name`,
    the column of that name, if it is one of any sort.

    Raises:
        DatasetError: there is no such column, or there are several and no name; the message has the `flag`.
    """
    flat = flat_features(features)
    holds = ", ".join(f"{column} ({_type_of(feature)})" for column, feature in flat.items())
    typed = [column for column, feature in flat.items() if isinstance(feature, kind)]
    others = [column for column, feature in flat.items() if _may_be(kind, column, feature)]
    lists = _lists_of_labels(flat) if kind is ClassLabel else []
    candidates = typed or _labelled_lists(flat, lists, others) or others
    or_such = "nor one of text or whole numbers, " if kind is ClassLabel else ""
    if not candidates and name not in lists:
        hint = " An archive needs a .cls, .txt or .json beside each image, of its name." if "__key__" in flat else ""
        raise DatasetError(
            f"{description} has no {kind.__name__} column, {or_such}which is needed. It holds {holds}.{hint}"
        )
    if name is not None:
        if name not in (*typed, *others, *lists):
            raise DatasetError(
                f"{flag} {name} is no {kind.__name__} column of {description}, {or_such}which holds {holds}."
            )
        return name
    if len(candidates) > 1 and not typed:
        likely = [each for each in candidates if is_called_labels(each)]
        candidates = likely if len(likely) == 1 else candidates
    if len(candidates) > 1:
        called = kind.__name__ if typed else "possible " + ("label" if kind is ClassLabel else "image")
        raise DatasetError(
            f"{description} has {len(candidates)} {called} columns: name one with {flag}. It holds {holds}."
        )
    return candidates[0]


def is_called_labels(column: str) -> bool:
    """Whether a column, or a field of one, is called as labels are."""
    return column.rpartition(".")[2].lower() in _CALLED_LABELS


def holds_images(features: Features) -> bool:
    """Whether a column may hold images."""
    return any(isinstance(each, Image) or _may_be(Image, name, each) for name, each in features.items())


def holds_text(features: Features) -> bool:
    """Whether a column holds text, which may be paths."""
    return any(isinstance(each, Value) and each.dtype in _TEXT for each in features.values())


def element_of(feature: Any) -> Any:
    """What the lists of a column hold; None where it holds no lists."""
    return feature.feature if isinstance(feature, List | LargeList) else None


def label_column_names(names: str, features: Features, description: str) -> list[str]:
    """
    The columns of `--label_column_name a,b,c`, each of which holds 0 and 1, or true and false, for one class.

    Raises:
        DatasetError: there is no such column, one holds something else, or one is named twice.
    """
    flat, columns = flat_features(features), [name.strip() for name in names.split(",")]
    if doubled := next((column for column in columns if columns.count(column) > 1), None):
        raise DatasetError(f"--label_column_name {names} names column {doubled or names} twice: name each class once.")
    for column in columns:
        if getattr(flat.get(column), "dtype", None) not in (*_NUMBERS, *_FLOATS, "bool"):
            holds = ", ".join(f"{each} ({_type_of(feature)})" for each, feature in flat.items())
            raise DatasetError(
                f"--label_column_name {names}: {column or 'a name between commas'} is no column of 0 and 1 of "
                f"{description}, which holds {holds}."
            )
    return columns


def label_values(column: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    """The labels in a column, one after another: where it holds lists, what all of them hold."""
    kind = column.type
    is_list = pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind)
    return pyarrow.compute.list_flatten(column) if is_list else column


def top_column(column: str, features: Features) -> str:
    """The column that a field such as `json.label` lies in; the column itself where it is one."""
    return column if column in features else column.partition(".")[0]


def column_of(table: pyarrow.Table, column: str) -> pyarrow.ChunkedArray:
    """A column of a table, or a field of one."""
    if column in table.column_names:
        return table[column]
    top, _, field = column.partition(".")
    return pyarrow.compute.struct_field(table[top], field.split("."))


def class_names(columns: Iterable[pyarrow.ChunkedArray]) -> list[str]:
    """The classes that labels name, in order: whole numbers by their value, all else as text."""
    uniques = [column.unique().drop_null() for column in columns]
    if uniques and all(pyarrow.types.is_integer(each.type) for each in uniques):
        return [str(number) for number in sorted({number for each in uniques for number in each.to_pylist()})]
    return sorted({text for each in uniques for text in _texts(each).to_pylist()})


def number_labels(column: pyarrow.ChunkedArray, label_names: list[str]) -> pyarrow.ChunkedArray:
    """The class number of each label, int64; null where it is none of these classes."""
    names = pyarrow.array(label_names, pyarrow.string())
    return pyarrow.compute.index_in(_texts(column), value_set=names).cast(pyarrow.int64())


def _texts(labels):
    return labels.cast(pyarrow.string())


def flat_features(features: Features) -> dict[str, Any]:
    """The columns, and the fields of those that have some, as `json.label`."""
    flat: dict[str, Any] = {}
    for name, feature in features.items():
        flat[name] = feature
        if isinstance(feature, dict) and not _may_be(Image, name, feature):
            flat |= {f"{name}.{field}": each for field, each in feature.items()}
    return flat


def _lists_of_labels(flat: dict[str, Any]) -> list[str]:
    """The columns of lists whose elements may be labels."""
    return [
        column
        for column, feature in flat.items()
        if isinstance(element := element_of(feature), ClassLabel) or _may_be(ClassLabel, column, element)
    ]


def _labelled_lists(flat: dict[str, Any], lists: list[str], others: list[str]) -> list[str]:
    """The columns of lists that are labels by type or by name; none where another column has such a name."""
    if any(map(is_called_labels, others)):
        return []
    typed = [column for column in lists if isinstance(element_of(flat[column]), ClassLabel)]
    return typed or [column for column in lists if is_called_labels(column)]


def _may_be(kind: type, name: str, feature) -> bool:
    """Whether a column that is no `Image` may hold images, or one that is no `ClassLabel` labels."""
    if kind is Image:
        fields = feature if isinstance(feature, dict) else {}
        dtypes = {field: getattr(each, "dtype", None) for field, each in fields.items()}
        return getattr(feature, "dtype", None) in _BYTES or (
            "bytes" in dtypes and {*dtypes} <= {"bytes", "path"} and dtypes["bytes"] in _BYTES
        )
    is_label = isinstance(feature, Value) and feature.dtype in (*_TEXT, *_NUMBERS, "bool")
    return is_label and not name.startswith("__")  # as webdataset calls what it adds


def _type_of(feature) -> str:
    return feature.dtype if isinstance(feature, Value) else type(feature).__name__
