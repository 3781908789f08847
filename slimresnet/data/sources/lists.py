"""Rows that name picture files: those of folders of classes, and those of lists in CSV, JSON or Parquet."""

import posixpath
from collections import defaultdict
from typing import Any

import datasets.config
import fsspec
import pyarrow
import pyarrow.compute
from datasets import Dataset, DatasetInfo, Features, Image, Value, load_dataset_builder
from datasets.data_files import DataFilesDict, DataFilesList
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from datasets.table import InMemoryTable

from slimresnet.data.sources.columns import is_called_labels
from slimresnet.data.sources.folders import Folder, extension, is_picture
from slimresnet.data.sources.layouts import TABLES, Layout, find_splits
from slimresnet.data.sources.source import DatasetError
from slimresnet.data.sources.spellings import in_order, spelt_split
from slimresnet.errors import first_line, printable
from slimresnet.hub_errors import is_cache_error

LABEL_COLUMN = "label"
PREDICTION_COLUMNS = ("ID", "Labels")  # as predict.py calls them
_IMAGE_COLUMN, _FILE_NAME, _SPLIT = ImageFolder.BASE_COLUMN_NAME, "file_name", "split"
_ROWS_AT_ONCE = 10_000


def rows_of_classes(folder: Folder, layout: Layout, split: str) -> Dataset:
    """
    The pictures of a split, with the names of their classes as text; without labels where they lie in no classes.

    Raises:
        UnicodeEncodeError: a name is no UTF-8.
    """
    names = layout.splits[split]
    columns = {_IMAGE_COLUMN: _encoded([folder.place(name) for name in names])}
    labels = [layout.classes.get(name) for name in names]
    if all(label is not None for label in labels):
        columns[LABEL_COLUMN] = pyarrow.array(labels, pyarrow.string())
    return _dataset(pyarrow.table(columns), {_IMAGE_COLUMN})


def rows_of_lists(folder: Folder, layout: Layout) -> dict[str, tuple[Dataset, list[str]]]:
    """
    The rows of all lists by split, each with the places of its pictures.

    A text column is one of pictures where its values end as names of pictures do. A path is relative to the list, to
    the folder, or the end of the path of one file alone. Where no name of a list says its split, a column called split
    does, or else the folder that the picture lies in.

    Raises:
        DatasetError: no list names pictures, or a row names none that lies in the folder.
    """
    find = _Finder(folder)
    found: dict[str, list[pyarrow.Table]] = defaultdict(list)
    read = {name: _read_list(folder, name) for names in layout.splits.values() for name in names}
    for name, table in read.items():
        if called := next((column for column in table.column_names if is_picture(column) and find(column, name)), None):
            raise DatasetError(
                f"the first line of {printable(name)} is a row, {printable(called)}: put a line of the names of "
                f"columns above it, such as {_FILE_NAME},{LABEL_COLUMN}."
            )
    naming = {name: columns for name, table in read.items() if (columns := _columns_of_paths(table))}
    if not naming:
        raise DatasetError(_names_no_pictures(folder, read))
    for split, names in layout.splits.items():
        for name in filter(naming.get, names):
            table = _located(read[name], name, naming[name], find)
            parts = {split: table} if layout.says_splits else _by_row(folder, table, naming[name])
            for part, rows in parts.items():
                found[part].append(rows)
    tables = {split: pyarrow.concat_tables(found[split], promote_options="permissive") for split in in_order(found)}
    images = {column for columns in naming.values() for column in columns}
    return {
        split: (_pictures_of(table, images, folder), _places(table, images, folder)) for split, table in tables.items()
    }


def refuse_contradictions(folder: Folder, layout: Layout) -> None:
    """
    Refuses a list that says of pictures in folders of classes what their folders do not: a split, or another class.

    A list that cannot be read is passed over, as is one that names none of the pictures, and one of predictions.

    Raises:
        DatasetError: there is such a list.
    """
    split_of = {name: split for split, names in layout.splits.items() for name in names}
    find = _Finder(folder)
    for name in layout.unread:
        try:
            table = _read_list(folder, name)
        except (DatasetError, pyarrow.ArrowException):
            continue
        if (*table.column_names[:2],) == PREDICTION_COLUMNS or not (columns := _columns_of_paths(table)):
            continue
        named = [path and find(path, name) for path in table[columns[0]].to_pylist()]
        rows = [row for row, picture in enumerate(named) if picture in layout.classes]
        table = table.take(pyarrow.array(rows, pyarrow.int64())).drop_columns(columns)
        pictures = [str(named[row]) for row in rows]
        splits, classes = [split_of[each] for each in pictures], [layout.classes[each] for each in pictures]
        if said := _contradiction(table, splits, classes):
            suffix = ".csv" if TABLES[extension(name)] == "csv" else ".jsonl"
            raise DatasetError(
                f"{printable(str(folder.root / name))} gives pictures {said} than their folders: name it "
                f"metadata{suffix} if it is right, give the list itself as --dataset_name, or take it away."
            )


def _contradiction(table: pyarrow.Table, splits: list[str], classes: list[str]) -> str | None:
    """What a list says otherwise of pictures than these splits and classes, in words; None where it agrees."""
    if _SPLIT in table.column_names and _is_text(table[_SPLIT].type):
        said = [spelt_split(split or "") or split for split in table[_SPLIT].to_pylist()]
        if any(split not in (None, of_folder) for split, of_folder in zip(said, splits, strict=True)):
            return f"other splits (column {_SPLIT})"
    for column in filter(is_called_labels, table.column_names):
        if pyarrow.types.is_nested(table[column].type):
            continue
        labels = zip(table[column].to_pylist(), classes, strict=True)
        pairs = {(label, each) for label, each in labels if label is not None}
        # Numbers, and names in another spelling, agree where each stands for one folder.
        is_one_to_one = all(len({pair[side] for pair in pairs}) == len(pairs) for side in (0, 1))
        if not is_one_to_one or any(label != each and label in classes for label, each in pairs):
            return f"other labels (column {printable(column)})"
    return None


class _Finder:
    """
    Finds the file in a folder that a row of a list means.

    Where a file stands for the whole, the folder that holds it is not listed: it may be anybody's home.
    """

    def __init__(self, folder: Folder):
        self._root, self._names = folder.root.absolute(), {*folder.visible}
        self._is_alone = folder.path.is_file() and not folder.members
        self._called = defaultdict(list)
        for name in folder.visible:
            self._called[posixpath.basename(name)].append(name)

    def __call__(self, path: str, table: str) -> str | None:
        """The name of the file of a path in a table; None where there is none, or several."""
        path = posixpath.normpath(path.replace("\\", "/"))
        for name in (posixpath.join(posixpath.dirname(table), path), path.removeprefix(f"{self._root.as_posix()}/")):
            name = posixpath.normpath(name)
            is_inside = not name.startswith(("/", "../")) and "\0" not in name
            if name in self._names or (self._is_alone and is_inside and (self._root / name).is_file()):
                return name
        ending = [name for name in self._called[posixpath.basename(path)] if name.endswith(f"/{path}")]
        return ending[0] if len(ending) == 1 else None


def _read_list(folder: Folder, name: str) -> pyarrow.Table:
    kind, place = TABLES[extension(name)], folder.place(name)
    try:
        builder = load_dataset_builder(
            kind,
            data_files=DataFilesDict(train=DataFilesList([place], [])),
            **(_options_of_csv(place) if kind == "csv" else {}),
        )
        stream = builder.as_streaming_dataset(split="train").with_format("arrow")
        tables = [table.replace_schema_metadata(None) for table in stream.iter(batch_size=_ROWS_AT_ONCE)]
    except Exception as error:  # `datasets` raises its own, Arrow's, pandas' and OSErrors
        if is_cache_error(error, datasets.config.HF_DATASETS_CACHE):
            raise
        raise DatasetError(
            f"{printable(place)} cannot be read ({first_line(error)}): write it anew, text in UTF-8."
        ) from error
    if not tables:
        raise DatasetError(f"{printable(place)} has no rows: add some, or take it away.")
    whole = pyarrow.concat_tables(tables, promote_options="permissive")
    for index, column in enumerate(whole.columns):
        whole = whole.set_column(index, whole.column_names[index], _whole_numbers(column))
    return whole.select([column for column in whole.column_names if not column.startswith("Unnamed: ")])  # an index


def _options_of_csv(place: str) -> dict[str, Any]:
    """How pandas reads a file: a class may be called NA or null, and only what is empty is no value."""
    with fsspec.open(place, "rb") as file:
        first = file.readline()
    found = [separator for separator in (b",", b"\t", b";") if separator in first]
    return {"sep": (found or [b","])[0].decode(), "keep_default_na": False, "na_values": [""]}


def _whole_numbers(column: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    """Whole numbers as such, which pandas makes floats where a row has none; other columns as they are."""
    if not pyarrow.types.is_floating(column.type):
        return column
    column = pyarrow.compute.if_else(pyarrow.compute.is_nan(column), None, column)
    try:
        return column.cast(pyarrow.int64())
    except pyarrow.ArrowInvalid:
        return column


def _is_text(kind: pyarrow.DataType) -> bool:
    return pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)


def _columns_of_paths(table: pyarrow.Table) -> list[str]:
    found = []
    for column in table.column_names:
        if _is_text(table[column].type):
            first = next((value.as_py() for value in table[column] if value.is_valid), None)
            if column == _FILE_NAME or (first is not None and is_picture(first)):
                found.append(column)
    return found


def _located(table: pyarrow.Table, name: str, columns: list[str], find: _Finder) -> pyarrow.Table:
    """The table with the names of files in the folder for paths."""
    for column in columns:
        names: list[str | None] = []
        for row, path in enumerate(table[column].to_pylist()):
            names.append(None if path is None else find(path, name))
            if path is not None and names[-1] is None:
                raise DatasetError(
                    f"row {row} of {printable(name)} names an image file, {printable(path)}, that is not in the folder "
                    "of the dataset or is there several times: correct the path, which counts from the list, or add "
                    "the file."
                )
        table = table.set_column(table.column_names.index(column), column, pyarrow.array(names, pyarrow.string()))
    return table


def _by_row(folder: Folder, table: pyarrow.Table, columns: list[str]) -> dict[str, pyarrow.Table]:
    rows: dict[str, list[int]] = defaultdict(list)
    if _SPLIT in table.column_names and _is_text(table[_SPLIT].type):
        for row, split in enumerate(table[_SPLIT].to_pylist()):
            rows[spelt_split(split or "") or split or ""].append(row)
        if "" in rows:
            raise DatasetError(f"row {rows[''][0]} of a list of {folder.path} has nothing in column {_SPLIT}: fill it.")
        table = table.drop_columns([_SPLIT])
    else:
        names = [name or "" for name in table[columns[0]].to_pylist()]
        found = find_splits(folder, sorted({*names} - {""}))
        split_of = {name: split for split, of_split in found[1].items() for name in of_split} if found else {}
        for row, name in enumerate(names):
            rows[split_of.get(name, "train")].append(row)
    return {split: table.take(of_split) for split, of_split in rows.items()}


def _places(table: pyarrow.Table, images: set[str], folder: Folder) -> list[str]:
    first = next(column for column in table.column_names if column in images)
    return [folder.place(name) for name in table[first].to_pylist() if name is not None]


def _pictures_of(table: pyarrow.Table, images: set[str], folder: Folder) -> Dataset:
    for column in images & {*table.column_names}:
        places = [name and folder.place(name) for name in table[column].to_pylist()]
        table = table.set_column(table.column_names.index(column), column, _encoded(places))
    names = [_IMAGE_COLUMN if column == _FILE_NAME else column for column in table.column_names]
    return _dataset(table.rename_columns(names), {_IMAGE_COLUMN if each == _FILE_NAME else each for each in images})


def _encoded(places: list[str | None]) -> pyarrow.Array:
    return Image().cast_storage(pyarrow.array(places, pyarrow.string()))


def _dataset(table: pyarrow.Table, images: set[str]) -> Dataset:
    """A table in memory as a dataset; a fingerprint by its content would take long, and has no use here."""
    features = Features.from_arrow_schema(table.schema)
    features = Features({name: Image() if name in images else _short(each) for name, each in features.items()})
    rows = InMemoryTable(table.cast(features.arrow_schema))
    return Dataset(rows, info=DatasetInfo(features=features), fingerprint="rows")


def _short(feature):
    """Text in the type that all else has: pandas writes large_string."""
    return Value("string") if isinstance(feature, Value) and feature.dtype == "large_string" else feature


def _names_no_pictures(folder: Folder, read: dict[str, pyarrow.Table]) -> str:
    name, table = next(iter(read.items()))
    columns = ", ".join(map(printable, table.column_names)) or "none"
    others = f" (nor do {len(read) - 1} more)" if len(read) > 1 else ""
    hint = "its first line has to name the columns; " if any(map(is_picture, table.column_names)) else ""
    return (
        f"{printable(str(folder.root / name))} names no pictures{others}: of its columns, {columns}, none holds paths "
        f"such as cat/1.png; {hint}give a column {_FILE_NAME} of paths beside one of labels, or lay the images out as "
        "SPLIT/CLASS/IMAGE, such as train/cat/1.png."
    )
