"""A dataset by its name: which source opens it, and what it is called."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from slimresnet.data.sources import hub_and_folder
from slimresnet.data.sources.decoding import PixelFormat, ResizeMode
from slimresnet.data.sources.memory import ResidentImages
from slimresnet.data.sources.source import DatasetOpener, ImageSplit, SplitRequest
from slimresnet.discovery import modules_of
from slimresnet.errors import printable


def open_split(
    dataset_name: str,
    split: str,
    *,
    image_size: int,
    resize_mode: ResizeMode = "squash",
    num_channels: int = 3,
    config_name: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    resident_on: torch.device | None = None,
) -> ImageSplit:
    """
    Opens a split and reads its labels; with `resident_on`, its images too, onto that device.

    Args:
        image_size, resize_mode, num_channels: as in `PixelFormat`.
        resident_on: where to hold all images as one tensor; None to stream.
        all others: as in `SplitRequest`.

    Raises:
        DatasetError: no such dataset, split or column, or one that cannot be used.
    """
    pixel_format = PixelFormat(image_size, resize_mode, num_channels)
    request = SplitRequest(dataset_name, split, pixel_format, config_name, revision, image_column, label_column)
    opened = find_opener(dataset_name).open_split(request)
    if resident_on is None:
        return opened
    return replace(opened, images=ResidentImages(opened.images, len(opened.labels), resident_on))


def split_names(dataset_name: str, config_name: str | None = None, revision: str | None = None) -> list[str]:
    """
    The names of a dataset's splits; arguments as in `SplitRequest`.

    Raises:
        DatasetError: there is no such dataset.
    """
    return find_opener(dataset_name).split_names(dataset_name, config_name, revision)


def find_opener(dataset_name: str) -> DatasetOpener:
    """The module of this folder that opens a dataset: the first that recognises its name, else `hub_and_folder`."""
    for module in modules_of("slimresnet.data.sources"):
        if hasattr(module, "recognises") and module.recognises(dataset_name):
            return cast(DatasetOpener, module)
    return hub_and_folder


def shared_name(dataset_name: str) -> str:
    """A dataset's name for others, in UTF-8. The name of a local dataset is the last part of its path."""
    path = Path(dataset_name)
    return printable(path.resolve().name if path.exists() else dataset_name)


def describe_dataset(dataset_name: str) -> str:
    """
    What a dataset's name means here, for people: the Hub, a folder or a file, and which.

    A folder wins over a dataset on the Hub of the same name. Where both could be meant, the text says so.
    """
    name, opener = printable(dataset_name), find_opener(dataset_name)
    if opener is not hub_and_folder:
        return f"{name}, read by {opener.__name__}"
    if not Path(dataset_name).exists():
        return f"{name}, a dataset on the Hub"
    place = printable(str(Path(dataset_name).resolve()))
    if Path(dataset_name).is_file():
        return name if name == place else f"{name}, the file {place}"
    try:
        validate_repo_id(dataset_name)
    except HFValidationError:  # a path that the Hub has no name for
        return name if name == place else f"{name}, the folder {place}"
    return f"{name}, the folder {place} and not the dataset of that name on the Hub"
