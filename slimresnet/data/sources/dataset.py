"""Reading a split of an image-classification dataset, through `datasets`, from the Hub or a folder.

Two sources with one method, `read`: `StreamedImages` decodes on the way, `ResidentImages` holds a uint8 tensor.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from datasets import ClassLabel, DatasetBuilder, Features, Image, IterableDataset, load_dataset_builder
from fsspec.core import split_protocol, strip_protocol
from huggingface_hub.errors import HTTPError
from PIL import UnidentifiedImageError
from PIL.Image import Image as PILImage
from PIL.Image import Resampling, fromarray
from torch import Tensor

from slimresnet.data.device import to_device
from slimresnet.data.images import FORMATS, open_picture
from slimresnet.data.sources.diagnosis import (
    DATASET_FLAG,
    explain_capitals,
    explain_columns,
    explain_missing_split,
    explain_opening,
    packed_images,
)
from slimresnet.data.sources.diagnosis import (
    SAMPLE_FOLDER as SAMPLE_FOLDER,
)
from slimresnet.data.sources.folders import files_by_split, read_folder
from slimresnet.errors import SlimResNetError, first_line, printable
from slimresnet.recipe.settings import ALL_SPLITS, TRAIN_SPLIT

_ROWS_PER_CHUNK = 1000
_ARCHIVE_PROTOCOLS = frozenset({"zip", "tar", "gzip", "bz2", "lz4", "xz", "zstd"})  # which read what the rest names


class DatasetError(SlimResNetError):
    """The data cannot be used; the message, one line, names the flag, the column or the row, and says what to do."""


@dataclass(frozen=True)
class ImageSplit:
    """
    One split of a dataset: what is known before any image is decoded.

    Attributes:
        labels: class numbers, int64 `[num_rows]`, each in `0 … len(label_names) - 1`.
        label_names: names of the classes.
        images: where the images are read from.
        fingerprint: a digest of the encoded images, the labels and the names, wherever they lie; None where the images
            are not those of a dataset.
    """

    labels: np.ndarray
    label_names: list[str]
    images: "StreamedImages | ResidentImages"
    fingerprint: str | None = None


class StreamedImages:
    """Images that are read from a stream and decoded when they are asked for."""

    def __init__(self, stream: IterableDataset, image_column: str, num_rows: int, image_size: int, description: str):
        self._stream = stream.select_columns([image_column]).cast_column(image_column, Image(decode=False))
        self._image_column = image_column
        self._num_rows = num_rows
        self._image_size = image_size
        self._description = description

    def read(self, batches: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """
        Decodes batches of rows, in any order.

        The stream is read forward once, as far as the next row asks. What is passed over and wanted later is held
        encoded (about 2.3 kB a CIFAR-10 image), the rest is neither kept nor decoded.

        Args:
            batches: row numbers, int64 `[B]` each; no row twice.

        Yields:
            RGB pixels, uint8 `[B, 3, image_size, image_size]`, for each batch.

        Raises:
            DatasetError: an image cannot be decoded; the message has its row number.
        """
        wanted = np.zeros(self._num_rows, dtype=bool)
        for rows in batches:
            wanted[rows] = True
        chunks = self._encoded_chunks(wanted)
        held: dict[int, dict] = {}
        for rows in batches:
            images = []
            for row in rows.tolist():
                while row not in held:
                    held.update(next(chunks))
                images.append(self._decode(held.pop(row), row))
            yield torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()

    def _encoded_chunks(self, wanted: np.ndarray) -> Iterator[dict[int, dict]]:
        first = 0
        for table in read_tables(self._stream, self._description):
            offsets = np.flatnonzero(wanted[first : first + len(table)])
            encoded = table[self._image_column].take(offsets).to_pylist()
            yield dict(zip((first + offsets).tolist(), encoded, strict=True))
            first += len(table)
        raise DatasetError(f"{self._description} ended after {first} rows, where {self._num_rows} labels were read.")

    def _decode(self, encoded: dict | None, row: int) -> np.ndarray:
        try:
            return decode_image(encoded, self._image_size)
        except ValueError as error:
            raise DatasetError(
                f"row {row} of {self._description}{_file_of(encoded)} holds no image that can be decoded ({error}): "
                "repair or remove it."
            ) from error


def _file_of(encoded: dict | None) -> str:
    """The file that a row is, where it is one."""
    return f", {encoded['path']}," if encoded and encoded["path"] else ""


def decode_image(encoded: dict | None, image_size: int) -> np.ndarray:
    """
    The RGB pixels of an image, uint8 `[image_size, image_size, 3]`, resized (bilinear) where its size differs.

    Args:
        encoded: `bytes` or, if that is None, `path` of an image file, as `datasets` has it.

    Raises:
        ValueError: it cannot be decoded; the message says why, in one line.
    """
    try:
        if encoded is None or (encoded["bytes"] is None and encoded["path"] is None):
            raise ValueError("it is null")
        image = _eight_bits(open_picture(_bytes(encoded)))
        image = image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
    except Exception as error:  # Pillow raises a dozen types for a broken file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # whose message is an address in memory
            reason = f"its bytes are of no known image format: {', '.join(FORMATS)}"
        raise ValueError(reason) from error
    return resized(image, image_size)


def resized(image: PILImage, image_size: int) -> np.ndarray:
    """An RGB image as uint8 `[image_size, image_size, 3]`, bilinear where its size differs."""
    if image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Resampling.BILINEAR)
    return np.asarray(image)


def _eight_bits(image: PILImage) -> PILImage:
    """Pillow clips what is brighter than 255 where it converts to RGB; 16 bits are scaled instead."""
    if image.mode.startswith("I;16"):
        return fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its mode, {image.mode}, does not say how bright white is")
    return image


class ResidentImages:
    """All images of a split as one uint8 tensor `[num_rows, 3, image_size, image_size]` on a device."""

    def __init__(self, images: StreamedImages, num_rows: int, device: torch.device):
        chunks = np.split(np.arange(num_rows), range(_ROWS_PER_CHUNK, num_rows, _ROWS_PER_CHUNK))
        self.pixels = torch.cat([pixels.to(device) for pixels in images.read(chunks)])

    def read(self, batches: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """Yields `[B, 3, image_size, image_size]` uint8 for each batch of row numbers, as `StreamedImages.read`."""
        for rows in batches:
            yield self.pixels.index_select(0, to_device(rows, self.pixels.device))


def shared_name(dataset_name: str) -> str:
    """A dataset's name as others may know it: of a local one its last part, and not where it lies; it is UTF-8."""
    path = Path(dataset_name)
    return printable(path.resolve().name if path.exists() else dataset_name)


def open_builder(
    dataset_name: str, config_name: str | None = None, revision: str | None = None, *, flag: str = DATASET_FLAG
) -> DatasetBuilder:
    """
    What `datasets` knows of a dataset before it reads any of it; arguments as `open_split`.

    Args:
        flag: what gave the name, for the message.

    Raises:
        DatasetError: there is no such dataset, or one of the Hub names files of this machine for its own.
    """
    try:
        is_folder = dataset_name.strip() and Path(dataset_name).is_dir()
        found = files_by_split(read_folder(Path(dataset_name))) if is_folder else None
    except OSError as error:
        raise DatasetError(
            f"{flag} {dataset_name} cannot be read ({error.filename}: {error.strerror}): give a folder that can."
        ) from error
    try:
        if found is not None:
            builder_name, data_files = found
            return load_dataset_builder(builder_name, data_files=data_files)
        builder = load_dataset_builder(dataset_name, config_name, revision=revision)
    except Exception as error:  # `datasets` raises its own, fsspec's, httpx's and OSErrors
        raise DatasetError(explain_opening(error, dataset_name, config_name, revision, flag)) from error
    if not is_folder and (files := [file for file in _data_files(builder) if _is_local(file)]):
        raise DatasetError(
            f"{flag} {dataset_name} is on the Hub, but its README.md names a file of this machine, {files[0]}, under "
            "configs and data_files: give another one."
        )
    return builder


def _data_files(builder: DatasetBuilder) -> list[str]:
    return [str(file) for of_split in (builder.config.data_files or {}).values() for file in of_split]


def _is_local(file: str) -> bool:
    """Whether a part of a chain, as `zip://image.png::archive.zip` is one, lies on this machine."""
    return any(split_protocol(part)[0] in (None, "file", "local") for part in file.split("::"))


def open_stream(builder: DatasetBuilder, dataset_name: str, split: str) -> IterableDataset:
    """
    The rows of a split, nothing read yet; arguments as `open_split`.

    Whoever decodes its images asks the `place_checker` first.

    Raises:
        DatasetError: no such split, or its columns have no types.
    """
    if reason := explain_capitals(dataset_name):
        raise DatasetError(reason)
    splits = [str(name) for name in builder.config.data_files or {}]
    asked_for = [] if split == ALL_SPLITS else [part.strip() for part in split.split("+")]
    missing = [part for part in asked_for if part not in splits]
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


def _damage(error: Exception, description: str) -> str:
    """Why rows cannot be read: a sentence of the kind of error; of one that tells nothing, its own words."""
    if isinstance(error, HTTPError | ConnectionError | TimeoutError):
        return f"{description} cannot be read to its end, since the connection broke ({first_line(error)}): try again."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{description} cannot be read: {error.filename}: {error.strerror}."
    if isinstance(error, UnicodeEncodeError):
        return f"{description} has a name that is no UTF-8 ({printable(error.object)}): rename the file or folder."
    return f"{description} cannot be read to its end ({first_line(error)}): if a file of it is damaged, get it anew."


def open_split(
    dataset_name: str,
    split: str,
    *,
    image_size: int,
    config_name: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    resident_on: torch.device | None = None,
) -> ImageSplit:
    """
    Opens a split and reads its labels; with `resident_on`, its images too, onto that device.

    Args:
        dataset_name: a dataset on the Hub, or a local folder; anything `datasets.load_dataset` takes.
        split: its name, such as `"train"`.
        image_size: height and width that images are resized to (bilinear) where they differ.
        config_name, revision: as `load_dataset` takes them.
        image_column, label_column: names of the columns; None for the only one that holds images, class labels.
        resident_on: where to hold all images as one tensor; None to stream.

    Raises:
        DatasetError: no such dataset, split or column, fewer than two classes, a label out of range, files that number
            the classes in different ways, or a file that is in the split twice or in the training split too.
    """
    builder = open_builder(dataset_name, config_name, revision)
    stream = open_stream(builder, dataset_name, split)
    files = _check_files(builder, dataset_name, split)
    description = f"split {split!r} of {dataset_name}"
    kinds = {type(feature) for feature in stream.features.values()}
    if not {Image, ClassLabel} <= kinds and (reason := explain_columns(builder, dataset_name)):
        raise DatasetError(reason)
    image_column = find_column(stream.features, Image, image_column, "--image_column_name", description)
    label_column = find_column(stream.features, ClassLabel, label_column, "--label_column_name", description)
    label_names = [str(name) for name in stream.features[label_column].names]  # numbers, in a card without quotes
    if unprintable := [printable(name) for name in label_names if printable(name) != name]:
        raise DatasetError(
            f"{description} has a class whose name is no UTF-8, {unprintable[0]}: rename its folder, or the class."
        )
    if len(label_names) < 2:
        raise DatasetError(f"column {label_column} of {description} names {len(label_names)} classes: two are needed.")
    _check_names(builder, files, label_column, label_names)
    check_place = place_checker(builder, dataset_name)
    labels, fingerprint = _read_rows(stream, image_column, label_column, label_names, description, check_place)
    images = StreamedImages(stream, image_column, len(labels), image_size, description)
    if resident_on is not None:
        images = ResidentImages(images, len(labels), resident_on)
    return ImageSplit(labels, label_names, images, fingerprint)


def find_column(features: Features, kind: type, name: str | None, flag: str, description: str) -> str:
    """
    The only column of a kind, `Image` or `ClassLabel`, or of them the one called `name`.

    Raises:
        DatasetError: there is none, or several and no name; the message has the `flag` that names one.
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


def read_tables(stream: IterableDataset, description: str) -> Iterator:
    """Arrow tables of up to `_ROWS_PER_CHUNK` rows."""
    try:
        for table in stream.with_format("arrow").iter(batch_size=_ROWS_PER_CHUNK):
            table.validate(full=True)  # Parquet is read without a look at whether text is text
            yield table
    except Exception as error:  # Arrow, thrift, fsspec and httpx raise their own
        raise DatasetError(_damage(error, description)) from error


def _check_files(builder: DatasetBuilder, dataset_name: str, split: str) -> list[str]:
    """
    The data files of a split, which may be a sum of splits.

    Raises:
        DatasetError: one counts twice, or is one of another split as well.
    """
    of_splits = {str(name): list(files) for name, files in (builder.config.data_files or {}).items()}
    asked_for = list(of_splits) if split == ALL_SPLITS else [part.strip() for part in split.split("+")]
    files = [file for part in asked_for for file in of_splits.get(part, [])]
    twice = [file for file, count in Counter(files).items() if count > 1]
    others = {name: set(other) for name, other in of_splits.items() if name not in asked_for}
    shared = {
        f"in {'the training split' if name == TRAIN_SPLIT else f'split {name!r}'} and in": [
            f for f in files if f in other
        ]
        for name, other in others.items()
    }
    for where, found in {"twice in": twice, **shared}.items():
        # Images are in one split each; a list of their labels may be one for all.
        found = [file for file in found if not Path(file).name.startswith("metadata.")]
        if found:
            raise DatasetError(
                f"{found[0]} is {where} split {split!r} of {dataset_name} ({len(found)} files are). `datasets` takes "
                "words such as train, test, val and dev for a split wherever a path has them, in the name of a class "
                "too: rename such folders and files, or list the files of each split in the dataset's README.md, under "
                "configs and data_files."
            )
    return files


def _check_names(builder: DatasetBuilder, files: list[str], column: str, label_names: list[str]) -> None:
    """
    Looks into each file for the classes that it names: `datasets` reads all by the names of the first.

    Raises:
        DatasetError: a file cannot be read, or names other classes, or names them in another order.
    """
    read_schema = {"parquet": pyarrow.parquet.read_schema, "arrow": _read_arrow_schema}.get(builder.info.builder_name)
    for file in files if read_schema else []:
        try:
            with fsspec.open(file, "rb") as opened:
                feature = Features.from_arrow_schema(read_schema(opened)).get(column)
        except Exception as error:  # Arrow, JSON, fsspec and httpx raise their own
            raise DatasetError(f"{file} cannot be read ({first_line(error)}): get it anew.") from error
        if isinstance(feature, ClassLabel) and [str(name) for name in feature.names] != label_names:
            raise DatasetError(
                f"{file} numbers the classes of column {column} as {', '.join(map(str, feature.names))}, where "
                f"{builder.dataset_name} has {', '.join(label_names)}: write its files anew, with one order for all."
            )


def _read_arrow_schema(file) -> pyarrow.Schema:
    try:
        return pyarrow.ipc.open_stream(file).schema
    except pyarrow.ArrowInvalid:  # the format that begins with a magic number
        file.seek(0)
        return pyarrow.ipc.open_file(file).schema


def place_checker(builder: DatasetBuilder, dataset_name: str) -> Callable[[dict | None, str], None]:
    """
    What looks at where a row's image lies, if not in the row: a dataset of others may name any file of this machine.

    Raises, when called with the image and what its row is called:
        DatasetError: it is neither one of the dataset's files, or in one, nor in its folder.
    """
    files = {*_data_files(builder)}
    folder = Path(dataset_name).resolve()

    def is_own(path: str) -> bool:
        *archives, file = path.split("::")  # as in zip://image.png::archive.zip, of which fsspec opens the first
        if any(split_protocol(each)[0] not in _ARCHIVE_PROTOCOLS for each in archives):
            return False
        if file in files:
            return True
        if "\0" in file or split_protocol(file)[0] is not None:
            return False
        # As fsspec reads a name: `file:/place` and `~/place` are no names in this folder.
        return folder.is_dir() and Path(strip_protocol(file)).resolve().is_relative_to(folder)

    def check(encoded: dict | None, row: str) -> None:
        if encoded is None or encoded["bytes"] is not None or encoded["path"] is None:
            return
        if not is_own(encoded["path"]):
            raise DatasetError(
                f"{row} names an image file outside of the dataset, {encoded['path']}: write the image into the row, "
                "as `to_parquet` does, or put the file into the dataset's folder."
            )

    return check


def _read_rows(
    stream: IterableDataset,
    image_column: str,
    label_column: str,
    label_names: list[str],
    description: str,
    check_place: Callable[[dict | None, str], None],
) -> tuple[np.ndarray, str]:
    """The labels of a split, checked, and its fingerprint; images are read, but not decoded."""
    encoded = stream.select_columns([image_column, label_column]).cast_column(image_column, Image(decode=False))
    digest = hashlib.blake2b(json.dumps(label_names).encode(), digest_size=16)
    parts, num_rows = [], 0
    for table in read_tables(encoded, description):
        for row, image in enumerate(table[image_column].to_pylist(), start=num_rows):
            check_place(image, f"row {row} of {description}")
            content = _content(image, f"row {row} of {description}")
            digest.update(len(content).to_bytes(8, "little") + content)
        parts.append(table[label_column].fill_null(-1).to_numpy())
        num_rows += len(table)
    if not parts:
        raise DatasetError(f"{description} has no rows.")
    labels = np.concatenate(parts).astype(np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= len(label_names)))
    if len(wrong):
        raise DatasetError(
            f"row {wrong[0]} of {description} has no label in 0 … {len(label_names) - 1} (it says {labels[wrong[0]]}; "
            f"{len(wrong)} rows are like it): correct or remove them."
        )
    digest.update(labels.astype("<i8").tobytes())
    return labels, digest.hexdigest()


def _content(encoded: dict | None, description: str) -> bytes:
    """The bytes of an image file, wherever they lie; none where the row is null, which only decoding complains of."""
    if encoded is None or (encoded["bytes"] is None and encoded["path"] is None):
        return b""
    try:
        return _bytes(encoded)
    except Exception as error:  # fsspec and httpx raise their own
        raise DatasetError(
            f"{description} holds no image that can be read ({first_line(error)}): repair or remove the row."
        ) from error


def _bytes(encoded: dict) -> bytes:
    if encoded["bytes"] is not None:
        return encoded["bytes"]
    with fsspec.open(encoded["path"], "rb") as file:
        return file.read()
