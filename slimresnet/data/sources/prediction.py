"""Images to predict on, wherever they lie: a file, a folder of files, a dataset, a pickle as Kaggle hands it out."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from datasets import Image, IterableDataset
from PIL.Image import fromarray

from slimresnet.data.sources import hub_and_folder
from slimresnet.data.sources.builder import open_builder
from slimresnet.data.sources.checks import place_checker
from slimresnet.data.sources.columns import find_column
from slimresnet.data.sources.dataset import find_opener
from slimresnet.data.sources.decoding import PixelFormat, decode_image, pixels_of
from slimresnet.data.sources.diagnosis import looks_like_path, nearest
from slimresnet.data.sources.folders import (
    ZIP,
    Folder,
    count_kinds,
    extension,
    is_hidden,
    is_picture,
    open_archives,
    read_file,
    read_folder,
)
from slimresnet.data.sources.layouts import PICTURES, TABLES, find_layout, find_splits
from slimresnet.data.sources.opened import names_of_places
from slimresnet.data.sources.pickles import read_pickle
from slimresnet.data.sources.rows import EncodedRows, open_stream
from slimresnet.data.sources.source import DatasetError, ImageSplit, SplitRequest
from slimresnet.errors import printable
from slimresnet.recipe.settings import TEST_SPLIT

_PICKLE_START = b"\x80"  # of every protocol from 2 on


class NamedImage(NamedTuple):
    """An image's name, and its pixels, uint8 `[image_size, image_size, num_channels]`, or why there are none."""

    name: str
    pixels: np.ndarray | None
    reason: str = ""


@dataclass(frozen=True)
class Images:
    """
    Images to predict on, each decoded when the stream comes to it.

    Attributes:
        count: number of images; None where it is not known beforehand.
        passed_over: a sentence on the files of a folder that are no pictures; empty where all are.
        files: names of the images, where each is a file; None where they are rows of a dataset, or of a pickle.
    """

    stream: Iterator[NamedImage]
    count: int | None
    passed_over: str = ""
    files: list[str] | None = None


def open_images(
    source: str,
    pixel_format: PixelFormat,
    *,
    split: str | None = None,
    config_name: str | None = None,
    image_column: str | None = None,
    id_column: str | None = None,
    natural_order: bool = False,
) -> Images:
    """
    Opens one INPUT of predict.py.

    Args:
        source: an image file; a folder or ZIP file, whose image files are taken in the order of their names, or a split
            of it where it has tables of images or splits; a table; a dataset on the Hub or of another source; or a
            pickle of a dict of `data`, uint8 `[N, 3072]` (channels first) or `[N, H, W, 3]`, and `ids`, `[N]`.
        pixel_format: what pictures are made into.
        split, config_name, image_column: as in `SplitRequest`, where `source` is a dataset. Without a split it is the
            one that the dataset has, or of several the test split.
        id_column: column of the dataset that names the images; None for the numbers of its rows.
        natural_order: takes the image files of a folder in the order of the numbers in their names, 2.png before
            10.png.

    Raises:
        DatasetError: `source` is none of these, or cannot be read.
    """
    opener = find_opener(source)
    if opener is not hub_and_folder:
        _refuse_id_column(source, id_column)
        return _from_split(
            opener.open_split(SplitRequest(source, split or TEST_SPLIT, pixel_format, config_name, None, image_column))
        )
    path = Path(source)
    try:
        if path.is_dir() or (path.is_file() and extension(path.name) in (*TABLES, ZIP)):
            folder = read_folder(path) if path.is_dir() else read_file(path)
            folder = folder if folder.pictures else open_archives(folder)
            if _is_dataset(folder):
                return _from_dataset(source, pixel_format, split, config_name, image_column, id_column)
            _refuse_id_column(source, id_column)
            return _from_folder(folder, pixel_format, natural_order)
        if path.is_file():
            _refuse_id_column(source, id_column)
            with path.open("rb") as file:
                is_pickle = file.read(1) == _PICKLE_START
            if is_pickle:
                return _from_pickle(path, pixel_format)
            name = printable(path.name)
            return Images((read_picture(path, each, pixel_format) for each in [name]), 1, files=[name])
    except OSError as error:
        raise DatasetError(f"INPUT {source} cannot be read ({error.filename}: {error.strerror}).") from error
    if path.exists():
        raise DatasetError(f"INPUT {source} is neither a file nor a folder: give one of them.")
    if looks_like_path(source) or is_picture(source) or extension(source) in (".pkl", ".pickle"):
        raise DatasetError(
            f"INPUT {source} is not there{nearest(source)}: give an image, a folder of them or of Parquet files, a "
            "dataset on the Hub, or a Kaggle pickle."
        )
    return _from_dataset(source, pixel_format, split, config_name, image_column, id_column)


def _refuse_id_column(source: str, id_column: str | None) -> None:
    if id_column is not None:
        raise DatasetError(
            f"--id_column_name is for a dataset of several columns, and INPUT {source} is none: leave the flag out."
        )


def _is_dataset(folder: Folder) -> bool:
    """Whether a folder has splits, or tables that hold images; a list beside pictures may be one of predictions."""
    layout = None if folder.names_its_splits else find_layout(folder)
    if layout is None:
        return folder.names_its_splits
    if layout.says_splits:
        return True
    if layout.lists_pictures:
        return not folder.pictures or find_splits(folder, folder.pictures) is not None
    return layout.kind != PICTURES


def read_picture(file: Path, name: str, pixel_format: PixelFormat) -> NamedImage:
    """An image file under a name; a file that is none has a reason in the place of pixels."""
    if not file.is_file():  # reading from a pipe would wait for ever
        return NamedImage(name, None, "it is no file, or a link to none")
    try:
        return NamedImage(name, decode_image({"bytes": file.read_bytes(), "path": None}, pixel_format))
    except OSError as error:
        return NamedImage(name, None, error.strerror or str(error))
    except ValueError as error:
        return NamedImage(name, None, str(error))


def natural_key(name: str) -> list[list[str | int]]:
    """What sorts paths by the numbers in them: `2.png` before `10.png`."""
    # Texts stand at even places and numbers at odd ones, so that like is compared with like.
    return [
        [int(piece) if place % 2 else piece for place, piece in enumerate(re.split(r"([0-9]+)", part))]
        for part in name.split("/")
    ]


def _read_listed(folder: Folder, name: str, pixel_format: PixelFormat) -> NamedImage:
    """An image file of a folder, or of a ZIP file."""
    if name not in folder.members:
        return read_picture(folder.path / name, printable(name), pixel_format)
    try:
        return NamedImage(printable(name), decode_image({"bytes": None, "path": folder.place(name)}, pixel_format))
    except ValueError as error:
        return NamedImage(printable(name), None, str(error))


def _from_folder(folder: Folder, pixel_format: PixelFormat, natural_order: bool) -> Images:
    pictures = [name for name in folder.visible if is_picture(name)]
    if natural_order:
        pictures.sort(key=natural_key)
    others = [name for name in folder.names if name not in {*pictures}]
    others += [f"{name}/" for name in folder.subfolders if is_hidden(f"{name}/")]
    alike = [name for name in folder.subfolders if is_picture(name) and not is_hidden(name)]
    kinds = ", ".join(filter(None, [count_kinds(others), f"folders named like pictures {len(alike)}" if alike else ""]))
    if not pictures:
        raise DatasetError(
            f"INPUT {folder.path} holds neither image files nor Parquet{kinds and f' ({kinds})'}: give a folder that "
            "does."
        )
    passed_over = f"passed over {len(others) + len(alike):,} entries of {folder.path}, which are no pictures ({kinds})"
    return Images(
        (_read_listed(folder, name, pixel_format) for name in pictures),
        len(pictures),
        kinds and passed_over,
        [printable(name) for name in pictures],
    )


def _from_dataset(
    source: str,
    pixel_format: PixelFormat,
    split: str | None,
    config_name: str | None,
    image_column: str | None,
    id_column: str | None,
) -> Images:
    dataset = open_builder(source, config_name, flag="INPUT")
    if split is None:
        split = next(iter(dataset.files)) if len(dataset.files) == 1 else TEST_SPLIT
    description = f"split {split!r} of {source}"
    stream = open_stream(dataset, source, split)
    read = rows_of_stream(
        stream,
        pixel_format,
        description,
        image_column,
        id_column,
        place_checker(dataset),
        names_of_places(dataset),
    )
    sizes = stream.info.splits
    return Images(read, sizes[split].num_examples if sizes and split in sizes else None)


def rows_of_stream(
    stream: IterableDataset,
    pixel_format: PixelFormat,
    description: str,
    image_column: str | None,
    id_column: str | None,
    check_place: Callable[[dict | None, str], None] = lambda image, row: None,
    names: Mapping[str | None, str] = MappingProxyType({}),
) -> Iterator[NamedImage]:
    """
    The images of a stream of rows; the columns are checked before the first of them is read.

    Args:
        description: what the rows are called in messages.
        image_column, id_column: as in `open_images`.
        check_place: called with each encoded image and the name of its row, before the image is opened.
        names: names of image files by their places. All other images are called by the numbers of their rows.

    Raises:
        DatasetError: there is no such column, or the rows cannot be read to their end.
    """
    image_column = find_column(stream.features, Image, image_column, "--image_column_name", description)
    if id_column is not None and id_column not in stream.features:
        raise DatasetError(
            f"--id_column_name {id_column} is no column of {description}, which holds {', '.join(stream.features)}."
        )
    rows = EncodedRows(stream, image_column, description)
    return _read_rows(rows, pixel_format, id_column, check_place, names)


def _read_rows(
    rows: EncodedRows,
    pixel_format: PixelFormat,
    id_column: str | None,
    check_place: Callable[[dict | None, str], None],
    names: Mapping[str | None, str],
) -> Iterator[NamedImage]:
    for first, table in rows.tables(*([] if id_column is None else [id_column])):
        ids = range(first, first + len(table)) if id_column is None else table[id_column].to_pylist()
        for row, (name, image) in enumerate(zip(ids, table[rows.image_column].to_pylist(), strict=True), start=first):
            if id_column is None:
                name = printable(names.get(image and image["path"], str(row)))
            if not isinstance(name, str | int):
                raise DatasetError(
                    f"--id_column_name {id_column} has neither text nor a whole number in row {row} of "
                    f"{rows.description}: name another column."
                )
            check_place(image, f"row {row} of {rows.description}")
            try:
                yield NamedImage(str(name), decode_image(image, pixel_format))
            except ValueError as error:
                yield NamedImage(str(name), None, str(error))


def _from_split(split: ImageSplit) -> Images:
    rows = np.arange(len(split.labels))
    pixels = split.images.read(list(rows.reshape(-1, 1)))
    named = (NamedImage(str(row), image[0].permute(1, 2, 0).numpy()) for row, image in zip(rows, pixels, strict=True))
    return Images(named, len(rows))


def _from_pickle(file: Path, pixel_format: PixelFormat) -> Images:
    try:
        content = read_pickle(file)
    except (OSError, ValueError) as error:
        raise DatasetError(f"INPUT {file} is a pickle that cannot be read: {error}.") from error
    try:
        named = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
        data, names = named["data"], _names(named["ids"])
        if not isinstance(data, np.ndarray):
            raise ValueError(f"data is a {type(data).__name__}")
        if data.dtype != np.uint8 or data.ndim not in (2, 4):
            raise ValueError(f"data is {data.dtype} {data.shape}")
        if data.ndim == 2:
            side = round((data.shape[1] / 3) ** 0.5)
            data = data.reshape(-1, 3, side, side).transpose(0, 2, 3, 1)
        if data.shape[3] != 3 or 0 in data.shape[1:] or len(names) != len(data):
            raise ValueError(f"data is {data.shape} as images, and there are {len(names)} ids")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"INPUT {file} must be a pickle of a dict of data, uint8 [N, 3072] or [N, H, W, 3], and ids, [N]; "
            f"{type(error).__name__}: {error}."
        ) from error

    def read() -> Iterator[NamedImage]:
        for name, pixels in zip(names, data, strict=True):
            try:
                yield NamedImage(name, pixels_of(fromarray(pixels), pixel_format))
            except ValueError as error:
                yield NamedImage(name, None, str(error))

    return Images(read(), len(data))


def _names(ids: Any) -> list[str]:
    """What a pickle calls its images; a number of more than 64 bits, or text that no file could hold, is refused."""
    ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
    if not isinstance(ids, list | tuple):
        raise ValueError(f"ids is a {type(ids).__name__}")
    names = [each.decode() if isinstance(each, bytes) else each for each in ids]
    for each in names:
        if isinstance(each, str):
            each.encode()
        elif not isinstance(each, int | float) or abs(each) >= 1 << 64:
            raise ValueError("ids are neither text nor numbers")
    return [str(each) for each in names]
