"""A dataset on the Hub or in a local folder, through `datasets`: a stream, decoded as its images are asked for."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from datasets import ClassLabel, Image
from torch import Tensor

from slimresnet.data.sources.builder import open_builder
from slimresnet.data.sources.checks import (
    check_files,
    check_label_names,
    check_numbering,
    place_checker,
    read_label_names,
    read_labels,
)
from slimresnet.data.sources.columns import find_column
from slimresnet.data.sources.decoding import decode_image
from slimresnet.data.sources.diagnosis import explain_layout
from slimresnet.data.sources.rows import EncodedRows, open_stream
from slimresnet.data.sources.source import DatasetError, ImageSplit, SplitRequest


class StreamedImages:
    """An `ImageSource` that reads rows forward, and decodes those that are asked for."""

    uses_workers = True

    def __init__(self, rows: EncodedRows, num_rows: int, image_size: int):
        self._rows, self._num_rows, self._image_size = rows, num_rows, image_size

    def read(self, batches: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """
        Decodes batches of rows, as `ImageSource.read`.

        The stream is read forward once, as far as the next row asks. Rows that are passed over but wanted later are
        held encoded (about 2.3 kB a CIFAR-10 image). All other rows are neither kept nor decoded.
        """
        wanted = np.zeros(self._num_rows, dtype=bool)
        for rows in batches:
            wanted[rows] = True
        chunks = self._encoded_chunks(wanted)
        held: dict[int, dict | None] = {}
        for rows in batches:
            images = []
            for row in rows.tolist():
                while row not in held:
                    held.update(next(chunks))
                images.append(self._decode(held.pop(row), row))
            yield torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()

    def _encoded_chunks(self, wanted: np.ndarray) -> Iterator[dict[int, dict | None]]:
        num_read = 0
        for first, table in self._rows.tables():
            offsets = np.flatnonzero(wanted[first : first + len(table)])
            encoded = table[self._rows.image_column].take(offsets).to_pylist()
            yield dict(zip((first + offsets).tolist(), encoded, strict=True))
            num_read = first + len(table)
        raise DatasetError(
            f"{self._rows.description} ended after {num_read} rows, where {self._num_rows} labels were read."
        )

    def _decode(self, encoded: dict | None, row: int) -> np.ndarray:
        try:
            return decode_image(encoded, self._image_size)
        except ValueError as error:
            file = f", {encoded['path']}," if encoded and encoded["path"] else ""
            raise DatasetError(
                f"row {row} of {self._rows.description}{file} holds no image that can be decoded ({error}): "
                "repair or remove it."
            ) from error


def open_split(request: SplitRequest) -> ImageSplit:
    """
    As `DatasetOpener.open_split`.

    Raises:
        DatasetError: no such dataset, split or column, fewer than two classes, a label out of range, a class that
            training lacks, files that number the classes in different ways, or a file that is in the split twice or
            in the training split too.
    """
    name = request.dataset_name
    dataset = open_builder(name, request.config_name, request.revision)
    stream = open_stream(dataset, name, request.split)
    files = check_files(dataset, name, request.split)
    description = f"split {request.split!r} of {name}"
    if reason := explain_layout(dataset, name, request.split):
        raise DatasetError(reason)
    image_column = find_column(stream.features, Image, request.image_column, "--image_column_name", description)
    label_column = find_column(stream.features, ClassLabel, request.label_column, "--label_column_name", description)
    feature = stream.features.get(label_column)
    numbered = {}
    if isinstance(feature, ClassLabel):
        label_names = [str(each) for each in feature.names]  # numbers, in a card without quotes
        check_numbering(dataset.kind, name, files, label_column, label_names)
    else:
        label_names = read_label_names(dataset, name, request.split, label_column)
        numbered[label_column] = label_names
    check_label_names(label_names, label_column, description)
    rows = EncodedRows(stream, image_column, description, numbered)
    labels, fingerprint = read_labels(rows, label_column, label_names, place_checker(dataset))
    return ImageSplit(labels, label_names, StreamedImages(rows, len(labels), request.image_size), fingerprint)


def split_names(dataset_name: str, config_name: str | None, revision: str | None) -> list[str]:
    """As `DatasetOpener.split_names`."""
    return list(open_builder(dataset_name, config_name, revision).files)
