"""A dataset on the Hub or in a local folder, through `datasets`: a stream, decoded as its images are asked for."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from datasets import ClassLabel, Features, Image
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
from slimresnet.data.sources.columns import element_of, find_column, flat_features
from slimresnet.data.sources.decoding import PixelFormat, decode_image
from slimresnet.data.sources.diagnosis import explain_layout
from slimresnet.data.sources.labels import Labels, column_a_class, lists_of_classes, one_class
from slimresnet.data.sources.opened import OpenedDataset
from slimresnet.data.sources.rows import EncodedRows, open_stream
from slimresnet.data.sources.source import DatasetError, ImageSplit, SplitRequest


class StreamedImages:
    """An `ImageSource` that reads rows forward, and decodes those that are asked for."""

    uses_workers = True

    def __init__(self, rows: EncodedRows, num_rows: int, pixel_format: PixelFormat):
        self._rows, self._num_rows, self._pixel_format = rows, num_rows, pixel_format

    def read(self, batches: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """
        Decodes batches of rows, as `ImageSource.read`.

        The stream is read forward once, as far as the next row asks. Rows that are passed over but wanted later are
        held encoded (about 2.3 kB a CIFAR-10 image), up to the last time. All other rows are neither kept nor decoded.
        """
        uses_left = np.zeros(self._num_rows, dtype=np.int64)
        for rows in batches:
            np.add.at(uses_left, rows, 1)
        chunks = self._encoded_chunks(uses_left > 0)
        held: dict[int, dict | None] = {}
        for rows in batches:
            images = []
            for row in rows.tolist():
                while row not in held:
                    held.update(next(chunks))
                uses_left[row] -= 1
                images.append(self._decode(held[row] if uses_left[row] else held.pop(row), row))
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
            return decode_image(encoded, self._pixel_format)
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
    labels, numbered = _labels(dataset, request, stream.features, files, description)
    check_label_names(labels.names, request.label_column or labels.columns[0], description)
    rows = EncodedRows(stream, image_column, description, numbered)
    found = read_labels(rows, labels, place_checker(dataset))
    images = StreamedImages(rows, len(found.labels), request.pixel_format)
    return ImageSplit(found.labels, labels.names, images, found.fingerprint, found.contents, found.headers)


def _labels(
    dataset: OpenedDataset, request: SplitRequest, features: Features, files: list[str], description: str
) -> tuple[Labels, dict[str, list[str]]]:
    """The labels of a split, and the classes of the column that `EncodedRows` is to number, by its name."""
    name, flat = request.dataset_name, flat_features(features)
    asked_for = request.label_column
    if asked_for is not None and "," in asked_for and asked_for not in flat:
        return column_a_class(asked_for, features, description), {}
    column = find_column(features, ClassLabel, asked_for, "--label_column_name", description)
    element = element_of(flat[column])
    feature = element or features.get(column)
    if isinstance(feature, ClassLabel):
        label_names = [str(each) for each in feature.names]  # numbers, in a card without quotes
        check_numbering(dataset.kind, name, files, column, label_names)
    else:
        label_names = read_label_names(dataset, name, request.split, column)
    if element is not None:
        return lists_of_classes(column, label_names, features), {}
    return one_class(column, label_names), {} if isinstance(feature, ClassLabel) else {column: label_names}


def split_names(dataset_name: str, config_name: str | None, revision: str | None) -> list[str]:
    """As `DatasetOpener.split_names`."""
    return list(open_builder(dataset_name, config_name, revision).files)
