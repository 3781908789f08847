"""The rows of a split as a stream, their images encoded: what training, evaluation and prediction read."""

from collections.abc import Iterator

import pyarrow
from datasets import DatasetBuilder, Features, Image, IterableDataset
from huggingface_hub.errors import HTTPError

from slimresnet.data.sources.builder import data_files, parts_of_split
from slimresnet.data.sources.diagnosis import (
    explain_capitals,
    explain_columns,
    explain_missing_split,
    packed_images,
)
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
    """

    def __init__(self, stream: IterableDataset, image_column: str, description: str):
        self._stream, self.image_column, self.description = stream, image_column, description

    def tables(self, *other_columns: str) -> Iterator[tuple[int, pyarrow.Table]]:
        """
        Reads the images, not decoded, and other columns beside them.

        Yields:
            The number of a table's first row, and the table, of up to `_ROWS_PER_TABLE` rows.

        Raises:
            DatasetError: the rows cannot be read to their end.
        """
        selected = self._stream.select_columns([self.image_column, *other_columns])
        encoded = selected.cast_column(self.image_column, Image(decode=False)).with_format("arrow")
        first = 0
        try:
            for table in encoded.iter(batch_size=_ROWS_PER_TABLE):
                table.validate(full=True)  # Parquet is read without a look at whether text is text
                yield first, table
                first += len(table)
        except Exception as error:  # Arrow, thrift, fsspec and httpx raise their own
            raise DatasetError(_damage(error, self.description)) from error


def open_stream(builder: DatasetBuilder, dataset_name: str, split: str) -> IterableDataset:
    """
    Opens the rows of a split, and reads none of them.

    Whoever decodes images of the stream asks the `place_checker` first.

    Args:
        builder: builder of the dataset.
        dataset_name, split: as in `SplitRequest`.

    Raises:
        DatasetError: there is no such split, or the split's columns have no types.
    """
    if reason := explain_capitals(dataset_name):
        raise DatasetError(reason)
    splits = list(data_files(builder))
    missing = [part for part in parts_of_split(split, data_files(builder)) if part not in splits]
    if splits and missing:
        raise DatasetError(explain_missing_split(dataset_name, missing[0], splits))
    infers_labels = builder.info.features is None
    try:
        stream = builder.as_streaming_dataset(split=split)
    except Exception as error:  # `datasets` raises its own, Arrow's, fsspec's and httpx's
        raise DatasetError(_damage(error, f"split {split!r} of {dataset_name}")) from error
    if stream.features is None:
        raise DatasetError(
            explain_columns(builder, dataset_name)
            or f"split {split!r} of {dataset_name} does not say what its columns hold: give one with typed columns."
        )
    if infers_labels and (reason := packed_images(builder, stream.features, dataset_name)):
        raise DatasetError(reason)
    return stream


def find_column(features: Features, kind: type, name: str | None, flag: str, description: str) -> str:
    """
    The name of the only column of a kind, `Image` or `ClassLabel`; with `name`, of the column of that name.

    Raises:
        DatasetError: there is no such column, or there are several and no name; the message has the `flag`.
    """
    columns = ", ".join(f"{column} ({type(feature).__name__})" for column, feature in features.items())
    candidates = [column for column, feature in features.items() if isinstance(feature, kind)]
    if not candidates:
        raise DatasetError(f"{description} has no {kind.__name__} column, which is needed. It holds {columns}.")
    if name is None and len(candidates) != 1:
        raise DatasetError(
            f"{description} has {len(candidates)} {kind.__name__} columns: name one with {flag}. It holds {columns}."
        )
    name = name or candidates[0]
    if name not in candidates:
        raise DatasetError(f"{flag} {name} is no {kind.__name__} column of {description}, which holds {columns}.")
    return name


def _damage(error: Exception, description: str) -> str:
    """A sentence on why rows cannot be read, by the kind of the error; other errors are quoted."""
    if isinstance(error, HTTPError | ConnectionError | TimeoutError):
        return f"{description} cannot be read to its end, since the connection broke ({first_line(error)}): try again."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{description} cannot be read: {error.filename}: {error.strerror}."
    if isinstance(error, UnicodeEncodeError):
        return f"{description} has a name that is no UTF-8 ({printable(error.object)}): rename the file or folder."
    return f"{description} cannot be read to its end ({first_line(error)}): if a file of it is damaged, get it anew."
