"""The rows of a split as a stream, their images encoded: what training, evaluation and prediction read."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import pyarrow
from datasets import Image, IterableDataset, concatenate_datasets
from huggingface_hub.errors import HTTPError

from slimresnet.data.sources.columns import column_of, number_labels, top_column
from slimresnet.data.sources.diagnosis import explain_missing_split
from slimresnet.data.sources.opened import OpenedDataset, parts_of_split
from slimresnet.data.sources.source import DatasetError
from slimresnet.errors import first_line, printable

_ROWS_PER_TABLE = 1000


class EncodedRows:
    """
    The rows of a split; each reading of them starts anew.

    Args:
        stream: the rows, as `open_stream` gives them.
        image_column: name of the column that holds the images.
        description: what the split is called in messages.
        label_names: the classes of columns that are no `ClassLabel`, by the name of the column.
    """

    def __init__(
        self,
        stream: IterableDataset,
        image_column: str,
        description: str,
        label_names: Mapping[str, list[str]] = MappingProxyType({}),
    ):
        self._stream, self.image_column, self.description = stream, image_column, description
        self._label_names = dict(label_names)

    def tables(self, *other_columns: str) -> Iterator[tuple[int, pyarrow.Table]]:
        """
        Reads the images, not decoded, and other columns beside them.

        Yields:
            The number of a table's first row, and the table, of up to `_ROWS_PER_TABLE` rows. A column of
            `label_names` holds class numbers, null where a row has none of these classes.

        Raises:
            DatasetError: the rows cannot be read to their end.
        """
        tops = [top_column(column, self._stream.features) for column in other_columns]
        selected = self._stream.select_columns([self.image_column, *tops])
        encoded = selected.cast_column(self.image_column, Image(decode=False)).with_format("arrow")
        first = 0
        try:
            for table in encoded.iter(batch_size=_ROWS_PER_TABLE):
                table.validate(full=True)  # Parquet is read without a look at whether text is text
                numbers = {
                    column: number_labels(column_of(table, column), names)
                    for column, names in self._label_names.items()
                    if column in other_columns
                }
                table = table.drop_columns([column for column in numbers if column in table.column_names])
                for column, numbered in numbers.items():
                    table = table.append_column(column, numbered)
                yield first, table
                first += len(table)
        except Exception as error:  # Arrow, thrift, fsspec and httpx raise their own
            raise DatasetError(explain_damage(error, self.description)) from error


def open_stream(dataset: OpenedDataset, dataset_name: str, split: str) -> IterableDataset:
    """
    Opens the rows of a split, and reads none of them.

    Whoever decodes images of the stream asks the `place_checker` first.

    Args:
        dataset: what `open_builder` opened.
        dataset_name, split: as in `SplitRequest`.

    Raises:
        DatasetError: there is no such split, or the split's columns have no types.
    """
    parts = [dataset.own_name(part) for part in parts_of_split(split, dataset.files)]
    missing = [part for part in parts if part not in dataset.files]
    if dataset.files and missing:
        raise DatasetError(explain_missing_split(dataset_name, missing[0], dataset))
    try:
        streams = [dataset.stream(part) for part in parts or [split]]
        stream = concatenate_datasets(streams) if len(streams) > 1 else streams[0]
    except Exception as error:  # `datasets` raises its own, Arrow's, fsspec's and httpx's
        raise DatasetError(explain_damage(error, f"split {split!r} of {dataset_name}")) from error
    if stream.features is None:
        raise DatasetError(
            f"split {split!r} of {dataset_name} does not say what its columns hold: give one with typed columns."
        )
    return stream


def explain_damage(error: Exception, description: str) -> str:
    """A sentence on why rows cannot be read, by the kind of the error; other errors are quoted."""
    if isinstance(error, HTTPError | ConnectionError | TimeoutError):
        return f"{description} cannot be read to its end, since the connection broke ({first_line(error)}): try again."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{description} cannot be read: {error.filename}: {error.strerror}."
    if isinstance(error, UnicodeEncodeError):
        return f"{description} has a name that is no UTF-8 ({printable(error.object)}): rename the file or folder."
    return f"{description} cannot be read to its end ({first_line(error)}): if a file of it is damaged, get it anew."
