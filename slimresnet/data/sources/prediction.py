"""Images to predict on, wherever they lie: a file, a folder of files, a dataset, a pickle as Kaggle hands it out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Image
from PIL.Image import fromarray

from slimresnet.data.sources import hub_and_folder
from slimresnet.data.sources.builder import open_builder
from slimresnet.data.sources.checks import place_checker
from slimresnet.data.sources.columns import find_column
from slimresnet.data.sources.dataset import find_opener
from slimresnet.data.sources.decoding import decode_image, resized
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

_PICKLE_START = b"\x80"  # of every protocol from 2 on


class NamedImage(NamedTuple):
    """An image's name, and its RGB pixels, uint8 `[image_size, image_size, 3]`, or the reason why there are none."""

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
    """

    stream: Iterator[NamedImage]
    count: int | None
    passed_over: str = ""


def open_images(
    source: str,
    image_size: int,
    *,
    split: str = "test",
    config_name: str | None = None,
    image_column: str | None = None,
) -> Images:
    """
    Opens what to predict on.

    Args:
        source: an image file; a folder or ZIP file, whose image files are taken in the order of their names, or a split
            of it where it has tables of images or splits; a table; a dataset on the Hub or of another source; or a
            pickle of a dict of `data`, uint8 `[N, 3072]` (channels first) or `[N, H, W, 3]`, and `ids`, `[N]`.
        split, config_name, image_column: as in `SplitRequest`, where `source` is a dataset.

    Raises:
        DatasetError: `source` is none of these, or cannot be read.
    """
    opener = find_opener(source)
    if opener is not hub_and_folder:
        return _from_split(opener.open_split(SplitRequest(source, split, image_size, config_name, None, image_column)))
    path = Path(source)
    try:
        if path.is_dir() or (path.is_file() and extension(path.name) in (*TABLES, ZIP)):
            folder = read_folder(path) if path.is_dir() else read_file(path)
            folder = folder if folder.pictures else open_archives(folder)
            if _is_dataset(folder):
                return _from_dataset(source, image_size, split, config_name, image_column)
            return _from_folder(folder, image_size)
        if path.is_file():
            with path.open("rb") as file:
                is_pickle = file.read(1) == _PICKLE_START
            if is_pickle:
                return _from_pickle(path, image_size)
            return Images(iter([_from_file(path, printable(path.name), image_size)]), 1)
    except OSError as error:
        raise DatasetError(f"INPUT {source} cannot be read ({error.filename}: {error.strerror}).") from error
    if path.exists():
        raise DatasetError(f"INPUT {source} is neither a file nor a folder: give one of them.")
    if looks_like_path(source) or is_picture(source) or extension(source) in (".pkl", ".pickle"):
        raise DatasetError(
            f"INPUT {source} is not there{nearest(source)}: give an image, a folder of them or of Parquet files, a "
            "dataset on the Hub, or a Kaggle pickle."
        )
    return _from_dataset(source, image_size, split, config_name, image_column)


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


def _from_file(file: Path, name: str, image_size: int) -> NamedImage:
    if not file.is_file():  # reading from a pipe would wait for ever
        return NamedImage(name, None, "it is no file, or a link to none")
    try:
        return NamedImage(name, decode_image({"bytes": file.read_bytes(), "path": None}, image_size))
    except OSError as error:
        return NamedImage(name, None, error.strerror or str(error))
    except ValueError as error:
        return NamedImage(name, None, str(error))


def _from_listed(folder: Folder, name: str, image_size: int) -> NamedImage:
    if name not in folder.members:
        return _from_file(folder.path / name, printable(name), image_size)
    try:
        return NamedImage(printable(name), decode_image({"bytes": None, "path": folder.place(name)}, image_size))
    except ValueError as error:
        return NamedImage(printable(name), None, str(error))


def _from_folder(folder: Folder, image_size: int) -> Images:
    pictures = [name for name in folder.visible if is_picture(name)]
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
        (_from_listed(folder, name, image_size) for name in pictures),
        len(pictures),
        kinds and passed_over,
    )


def _from_dataset(
    source: str, image_size: int, split: str, config_name: str | None, image_column: str | None
) -> Images:
    description = f"split {split!r} of {source}"
    dataset = open_builder(source, config_name, flag="INPUT")
    stream = open_stream(dataset, source, split)
    image_column = find_column(stream.features, Image, image_column, "--image_column_name", description)
    rows = EncodedRows(stream, image_column, description)
    check_place, names = place_checker(dataset), names_of_places(dataset)

    def read() -> Iterator[NamedImage]:
        for first, table in rows.tables():
            for row, image in enumerate(table[image_column].to_pylist(), start=first):
                check_place(image, f"row {row} of {description}")
                name = printable(names.get(image and image["path"], str(row)))
                try:
                    yield NamedImage(name, decode_image(image, image_size))
                except ValueError as error:
                    yield NamedImage(name, None, str(error))

    sizes = stream.info.splits
    return Images(read(), sizes[split].num_examples if sizes and split in sizes else None)


def _from_split(split: ImageSplit) -> Images:
    rows = np.arange(len(split.labels))
    pixels = split.images.read(list(rows.reshape(-1, 1)))
    named = (NamedImage(str(row), image[0].permute(1, 2, 0).numpy()) for row, image in zip(rows, pixels, strict=True))
    return Images(named, len(rows))


def _from_pickle(file: Path, image_size: int) -> Images:
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
            yield NamedImage(name, resized(fromarray(pixels), image_size))

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
