"""What `datasets` knows of a dataset before any of it is read: its files, its splits, its columns."""

from pathlib import Path

from datasets import DatasetBuilder, load_dataset_builder
from fsspec.core import split_protocol

from slimresnet.data.sources.diagnosis import DATASET_FLAG, explain_opening
from slimresnet.data.sources.folders import files_by_split, read_folder
from slimresnet.data.sources.source import DatasetError
from slimresnet.recipe.settings import ALL_SPLITS


def open_builder(
    dataset_name: str, config_name: str | None = None, revision: str | None = None, *, flag: str = DATASET_FLAG
) -> DatasetBuilder:
    """
    Opens a dataset on the Hub or a local folder, and reads none of its rows.

    Args:
        dataset_name, config_name, revision: as in `SplitRequest`.
        flag: flag that gave the name, for messages.

    Raises:
        DatasetError: there is no such dataset, or a dataset on the Hub claims files of this machine.
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
            builder_name, files = found
            return load_dataset_builder(builder_name, data_files=files)
        builder = load_dataset_builder(dataset_name, config_name, revision=revision)
    except Exception as error:  # `datasets` raises its own, fsspec's, httpx's and OSErrors
        raise DatasetError(explain_opening(error, dataset_name, config_name, revision, flag)) from error
    local = [file for files in data_files(builder).values() for file in files if _is_local(file)]
    if not is_folder and local:
        raise DatasetError(
            f"{flag} {dataset_name} is on the Hub, but its README.md names a file of this machine, {local[0]}, under "
            "configs and data_files: give another one."
        )
    return builder


def data_files(builder: DatasetBuilder) -> dict[str, list[str]]:
    """The data files of each split, by its name."""
    return {str(split): [str(file) for file in files] for split, files in (builder.config.data_files or {}).items()}


def parts_of_split(split: str, of_splits: dict[str, list[str]]) -> list[str]:
    """The splits that a sum of splits, such as `train+test` or `all`, is made of."""
    return list(of_splits) if split == ALL_SPLITS else [part.strip() for part in split.split("+")]


def _is_local(file: str) -> bool:
    """Whether a part of a chain, as `zip://image.png::archive.zip` is one, lies on this machine."""
    return any(split_protocol(part)[0] in (None, "file", "local") for part in file.split("::"))
