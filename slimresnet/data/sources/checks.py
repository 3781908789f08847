"""Checks of a dataset before it is used: whose its files are, how they number the classes, what its rows hold."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet
from datasets import ClassLabel, Features
from fsspec.core import split_protocol, strip_protocol

from slimresnet.data.sources.columns import class_names, column_of, element_of, label_values, top_column
from slimresnet.data.sources.decoding import read_bytes
from slimresnet.data.sources.headers import HeaderSample
from slimresnet.data.sources.labels import NO_LABEL, Labels
from slimresnet.data.sources.opened import LISTS, OpenedDataset, parts_of_split
from slimresnet.data.sources.rows import EncodedRows, explain_damage
from slimresnet.data.sources.source import DatasetError, PictureHeaders
from slimresnet.errors import first_line, printable
from slimresnet.recipe.settings import TRAIN_SPLIT

_ARCHIVE_PROTOCOLS = frozenset(
    {"zip", "tar", "gzip", "bz2", "lz4", "xz", "zstd"}
)  # archives, each of which holds the file named before it
_ADVICE_ON_SPLITS = (
    "`datasets` takes words such as train, test, val and dev for a split wherever a path has them, in the name of a "
    "class too: rename such folders and files, or list the files of each split in the dataset's README.md, under "
    "configs and data_files"
)


def check_files(dataset: OpenedDataset, dataset_name: str, split: str) -> list[str]:
    """
    The data files of a split, which may be a sum of splits.

    Args:
        dataset: what `open_builder` opened.
        dataset_name, split: as in `SplitRequest`.

    Raises:
        DatasetError: a file counts twice, or is one of another split as well.
    """
    parts = [dataset.own_name(part) for part in parts_of_split(split, dataset.files)]
    files = [file for part in parts for file in dataset.files.get(part, [])]
    suspects = {"twice in": [file for file, count in Counter(files).items() if count > 1]}
    for name, others in dataset.files.items():
        if name not in parts:
            where = "the training split" if name == TRAIN_SPLIT else f"split {name!r}"
            suspects[f"in {where} and in"] = [*set(files).intersection(others)]
    for where, found in suspects.items():
        # Images are in one split each; a list of their labels may be one for all.
        found = sorted(file for file in found if not Path(file).name.startswith("metadata."))
        if found:
            advice = "name each picture once" if dataset.kind == LISTS else _ADVICE_ON_SPLITS
            raise DatasetError(
                f"{found[0]} is {where} split {split!r} of {dataset_name} ({len(found)} files are): {advice}."
            )
    return files


def check_label_names(label_names: list[str], column: str, description: str) -> None:
    """
    Checks that names of classes can be those of a network.

    Raises:
        DatasetError: a name is no UTF-8, or there are fewer than two names.
    """
    if unprintable := [printable(name) for name in label_names if printable(name) != name]:
        raise DatasetError(
            f"{description} has a class whose name is no UTF-8, {unprintable[0]}: rename its folder, or the class."
        )
    if len(label_names) < 2:
        raise DatasetError(f"column {column} of {description} names {len(label_names)} classes: two are needed.")


def check_numbering(kind: str, dataset_name: str, files: list[str], column: str, label_names: list[str]) -> None:
    """
    Checks that all files number the classes alike: `datasets` reads all files by the numbering of the first.

    Raises:
        DatasetError: a file cannot be read, or names other classes, or names them in another order.
    """
    read_schema = {"parquet": pyarrow.parquet.read_schema, "arrow": _read_arrow_schema}.get(kind)
    if read_schema is None:
        return
    for file in files:
        try:
            with fsspec.open(file, "rb") as opened:
                feature = Features.from_arrow_schema(read_schema(opened)).get(column)
        except Exception as error:  # Arrow, JSON, fsspec and httpx raise their own
            raise DatasetError(f"{file} cannot be read ({first_line(error)}): get it anew.") from error
        feature = element_of(feature) or feature
        if isinstance(feature, ClassLabel) and [str(name) for name in feature.names] != label_names:
            raise DatasetError(
                f"{file} numbers the classes of column {column} as {', '.join(map(str, feature.names))}, where "
                f"{dataset_name} has {', '.join(label_names)}: write its files anew, with one order for all."
            )


def _read_arrow_schema(file) -> pyarrow.Schema:
    try:
        return pyarrow.ipc.open_stream(file).schema
    except pyarrow.ArrowInvalid:  # the format that begins with a magic number
        file.seek(0)
        return pyarrow.ipc.open_file(file).schema


def place_checker(dataset: OpenedDataset) -> Callable[[dict | None, str], None]:
    """
    Makes a check that an image file named by a row belongs to the dataset: a stranger's data may name any file.

    Returns:
        A function of an encoded image and a name for its row. The function raises DatasetError where the image file
        is neither one of the dataset's files, nor in one of these, nor in the dataset's folder.
    """
    files = {file for of_split in dataset.files.values() for file in of_split}
    root = dataset.root and dataset.root.resolve()

    def is_own(path: str) -> bool:
        if path in files:
            return True
        *archives, file = path.split("::")  # as in zip://image.png::archive.zip, of which fsspec opens the first
        if any(split_protocol(each)[0] not in _ARCHIVE_PROTOCOLS for each in archives):
            return False
        if file in files:
            return True
        if "\0" in file or split_protocol(file)[0] is not None:
            return False
        # fsspec reads the name: for fsspec `file:/place` and `~/place` are no names in this folder.
        return root is not None and Path(strip_protocol(file)).resolve().is_relative_to(root)

    def check(encoded: dict | None, row: str) -> None:
        if encoded is None or encoded["bytes"] is not None or encoded["path"] is None:
            return
        if not is_own(encoded["path"]):
            raise DatasetError(
                f"{row} names an image file outside of the dataset, {encoded['path']}: write the image into the row, "
                "as `to_parquet` does, or put the file into the dataset's folder."
            )

    return check


class ReadRows(NamedTuple):
    """What one reading of all rows of a split finds; as the attributes of `ImageSplit`."""

    labels: np.ndarray
    fingerprint: str
    contents: np.ndarray
    headers: PictureHeaders


def read_label_names(dataset: OpenedDataset, dataset_name: str, split: str, column: str) -> list[str]:
    """
    The classes that the labels of all splits name, for a column that is no `ClassLabel`.

    Raises:
        DatasetError: the rows cannot be read, or the split has a class that the training split never has.
    """
    found: dict[str, list[pyarrow.ChunkedArray]] = {}
    for part in dataset.files or parts_of_split(split, {}):
        stream = dataset.stream(part)
        top = top_column(column, stream.features)
        if top not in stream.features:  # a test split without labels
            continue
        try:
            tables = stream.select_columns([top]).with_format("arrow").iter(batch_size=10_000)
            found[part] = [label_values(column_of(table, column)).unique() for table in tables]
        except Exception as error:  # Arrow, fsspec and httpx raise their own
            raise DatasetError(explain_damage(error, f"split {part!r} of {dataset_name}")) from error
    label_names = class_names(labels for of_part in found.values() for labels in of_part)
    trained = {*class_names(found.get(TRAIN_SPLIT, []))}
    for part in [dataset.own_name(part) for part in parts_of_split(split, dataset.files)]:
        unknown = [name for name in class_names(found.get(part, [])) if name not in trained]
        if TRAIN_SPLIT in found and unknown:
            raise DatasetError(
                f"split {part!r} of {dataset_name} has images of class {printable(unknown[0])}, of which the training "
                f"split has none ({len(unknown)} classes are like it): correct their labels, or give training some."
            )
    return label_names


def read_labels(rows: EncodedRows, column: Labels, check_place: Callable[[dict | None, str], None]) -> ReadRows:
    """
    Reads the labels of a split and the bytes of its images, and decodes none.

    Raises:
        DatasetError: there are no rows, an image file cannot be read or lies elsewhere, or a label is out of range.
    """
    digest = hashlib.blake2b(json.dumps(column.names).encode(), digest_size=16)
    parts, contents, headers = [], bytearray(), HeaderSample()
    for first, table in rows.tables(*column.columns):
        for row, image in enumerate(table[rows.image_column].to_pylist(), start=first):
            check_place(image, f"row {row} of {rows.description}")
            content = _content(image, f"row {row} of {rows.description}")
            digest.update(len(content).to_bytes(8, "little") + content)
            contents += hashlib.blake2b(content, digest_size=8).digest()
            headers.add(content)
        parts.append(column.read(table, first, rows.description))
    if not parts:
        raise DatasetError(f"{rows.description} has no rows.")
    labels = np.concatenate(parts)
    if labels.ndim == 1:
        _check_range(labels, len(column.names), rows.description)
    digest.update(labels.astype(labels.dtype.newbyteorder("<")).tobytes())
    return ReadRows(labels, digest.hexdigest(), np.frombuffer(bytes(contents), "<u8"), headers.taken())


def _check_range(labels: np.ndarray, num_labels: int, description: str) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= num_labels))
    if len(wrong):
        first = labels[wrong[0]]
        raise DatasetError(
            f"row {wrong[0]} of {description} has no label in 0 … {num_labels - 1} (it says "
            f"{'nothing' if first == NO_LABEL else first}; {len(wrong)} rows are like it): correct or remove them."
        )


def _content(encoded: dict | None, description: str) -> bytes:
    """The bytes of an image file, wherever they lie; none where the row is null, which only decoding complains of."""
    try:
        return read_bytes(encoded) or b""
    except Exception as error:  # fsspec and httpx raise their own
        raise DatasetError(
            f"{description} holds no image that can be read ({first_line(error)}): repair or remove the row."
        ) from error
