"""What predict.py, or a program, gives to predict on: several paths, patterns and datasets, or objects in memory."""

import glob
import os
from collections.abc import Iterable, Sized
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import numpy as np
import PIL.Image

from slimresnet.data.images import upright
from slimresnet.data.sources.decoding import PixelFormat, decode_image, in_colour, pixels_of
from slimresnet.data.sources.prediction import (
    Images,
    NamedImage,
    natural_key,
    open_images,
    read_picture,
    rows_of_stream,
)
from slimresnet.data.sources.source import DatasetError
from slimresnet.errors import first_line, printable

Picture = str | PathLike[str] | bytes | PIL.Image.Image | np.ndarray
"""
An image: a path, the bytes of a file, an image of Pillow's in any mode, or pixels.

Pixels are uint8, RGB `[H, W, 3]` or grey `[H, W]`.
"""

Input = Picture | datasets.Dataset | datasets.IterableDataset | Iterable[Picture]
"""What to predict on: what `open_images` takes, a pattern of paths, a dataset in memory, a picture, or many of them."""


@dataclass(frozen=True)
class Reading:
    """
    How what is given is read, and what its images are called.

    Attributes:
        split, config_name, image_column, id_column, natural_order: as in `open_images`. `natural_order` sorts the
            paths that are given as well.
        stems: calls an image file by its name alone, without folders and ending.
    """

    split: str | None = None
    config_name: str | None = None
    image_column: str | None = None
    id_column: str | None = None
    natural_order: bool = False
    stems: bool = False


def open_inputs(given: Any, pixel_format: PixelFormat, reading: Reading) -> Images:
    """
    Opens all that is given, one after the other; what comes from several is named by its path too.

    Args:
        given: an `Input`.

    Raises:
        DatasetError: something of it cannot be used, or two files would have the same name.
    """
    items = list(given) if isinstance(given, list | tuple) else [given]
    if not items:
        raise DatasetError("INPUT holds nothing to predict on: give at least one image.")
    if not any(map(_is_opened, items)):
        pictures = items if isinstance(given, list | tuple) or _is_picture(given) else given
        return _from_objects(pictures, pixel_format)
    if all(isinstance(item, str | PathLike) for item in items):
        items = _expand([fspath(item) for item in items], reading.natural_order)
    parts = [_open(item, place, pixel_format, reading, is_alone=len(items) == 1) for place, item in enumerate(items)]
    counts = [part.count for part in parts]
    joined = Images(
        (image for part in parts for image in part.stream),
        None if None in counts else sum(count for count in counts if count is not None),
        "\n".join(part.passed_over for part in parts if part.passed_over),
        [name for part in parts for name in part.files or ()] if all(part.files for part in parts) else None,
    )
    return _by_stem(joined) if reading.stems else joined


def _is_opened(item: Any) -> bool:
    """Whether something is opened by its name or its columns, and not a picture itself."""
    return isinstance(item, str | PathLike | datasets.Dataset | datasets.IterableDataset)


def _is_picture(item: Any) -> bool:
    is_pixels = isinstance(item, np.ndarray) and item.ndim < 4
    return is_pixels or isinstance(item, bytes | PIL.Image.Image) or not isinstance(item, Iterable)


def _expand(sources: list[str], natural_order: bool) -> list[str]:
    """The paths, with those that a pattern matches in its place, sorted; a file of such a name is no pattern."""
    found = []
    for source in sources:
        if not glob.has_magic(source) or os.path.lexists(source):
            found.append(source)
            continue
        matches = sorted(glob.glob(source, recursive=True))
        if not matches:
            raise DatasetError(f"INPUT {source} is a pattern that no file matches: correct it.")
        found += matches
    return sorted(found, key=lambda path: natural_key(Path(path).as_posix())) if natural_order else found


def _open(item: Any, place: int, pixel_format: PixelFormat, reading: Reading, *, is_alone: bool) -> Images:
    """One of the things that are given, the `place`-th."""
    if isinstance(item, datasets.Dataset | datasets.IterableDataset):
        return _from_dataset_object(item, pixel_format, reading)
    if not isinstance(item, str | PathLike):
        return Images(iter([_from_object(str(place), item, pixel_format)]), 1)
    source = fspath(item)
    opened = open_images(
        source, pixel_format, split=reading.split, config_name=reading.config_name, image_column=reading.image_column,
        id_column=reading.id_column, natural_order=reading.natural_order,
    )  # fmt: skip
    if is_alone or reading.id_column is not None:
        return opened
    whole = printable(Path(source).as_posix())
    is_file = opened.files is not None and Path(source).is_file()

    def called(name: str) -> str:
        return whole if is_file else f"{whole}/{name}"

    stream = (image._replace(name=called(image.name)) for image in opened.stream)
    files = None if opened.files is None else [called(name) for name in opened.files]
    return Images(stream, opened.count, opened.passed_over, files)


def _by_stem(images: Images) -> Images:
    if images.files is None:
        raise DatasetError(
            "--id stem is for image files, and INPUT holds other things: leave it out; --id_column_name names the "
            "rows of a dataset."
        )
    stems: dict[str, str] = {}
    for name in images.files:
        stem = PurePosixPath(name).stem
        if stem in stems:
            raise DatasetError(
                f"--id stem would call two images {stem}, {stems[stem]} and {name}: leave it out, or predict on fewer "
                "folders at once."
            )
        stems[stem] = name
    stream = (image._replace(name=PurePosixPath(image.name).stem) for image in images.stream)
    return Images(stream, images.count, images.passed_over, list(stems))


def _from_dataset_object(
    rows: datasets.Dataset | datasets.IterableDataset, pixel_format: PixelFormat, reading: Reading
) -> Images:
    if rows.features is None:
        raise DatasetError("INPUT is a dataset that does not say what its columns hold: give it features.")
    stream = rows.to_iterable_dataset() if isinstance(rows, datasets.Dataset) else rows
    read = rows_of_stream(stream, pixel_format, "INPUT, a dataset,", reading.image_column, reading.id_column)
    return Images(read, len(rows) if isinstance(rows, Sized) else None)


def _from_objects(pictures: Iterable[Any], pixel_format: PixelFormat) -> Images:
    """Pictures in memory, which are called by their places."""
    stream = (_from_object(str(place), picture, pixel_format) for place, picture in enumerate(pictures))
    return Images(stream, len(pictures) if isinstance(pictures, Sized) else None)


def _from_object(name: str, picture: Any, pixel_format: PixelFormat) -> NamedImage:
    if isinstance(picture, str | PathLike):  # of an iterator
        return read_picture(Path(picture), printable(fspath(picture)), pixel_format)
    if isinstance(picture, bytes):
        try:
            return NamedImage(name, decode_image({"bytes": picture, "path": None}, pixel_format))
        except ValueError as error:
            return NamedImage(name, None, str(error))
    if isinstance(picture, np.ndarray):
        is_grey, is_colour = picture.ndim == 2, picture.ndim == 3 and picture.shape[2] == 3
        if picture.dtype != np.uint8 or not (is_grey or is_colour) or 0 in picture.shape:
            raise DatasetError(
                f"image {name} of INPUT is an array of {picture.dtype} {list(picture.shape)}, where pixels are uint8 "
                "[H, W, 3] or [H, W]: convert it."
            )
        picture = PIL.Image.fromarray(np.ascontiguousarray(picture))
    if isinstance(picture, PIL.Image.Image):
        try:
            return NamedImage(name, pixels_of(in_colour(upright(picture)), pixel_format))
        except Exception as error:  # Pillow raises a dozen types for a broken file
            return NamedImage(name, None, first_line(error))
    raise DatasetError(
        f"image {name} of INPUT is of the type {type(picture).__name__}: give a path, bytes, an image of Pillow's, or "
        "a NumPy array."
    )
