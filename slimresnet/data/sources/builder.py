"""What is known of a dataset before any of its pictures is read: its files, its splits, its columns."""

from pathlib import Path

from datasets import load_dataset_builder
from datasets.data_files import DataFilesDict, DataFilesList
from fsspec.core import split_protocol

from slimresnet.data.sources.columns import holds_images, holds_text
from slimresnet.data.sources.diagnosis import DATASET_FLAG, explain_nothing, explain_opening
from slimresnet.data.sources.folders import ZIP, Folder, extension, open_archives, read_file, read_folder
from slimresnet.data.sources.layouts import PICTURES, TABLES, find_layout
from slimresnet.data.sources.lists import refuse_contradictions, rows_of_classes, rows_of_lists
from slimresnet.data.sources.opened import LISTS, OpenedDataset
from slimresnet.data.sources.source import DatasetError
from slimresnet.data.sources.spellings import canonical_names
from slimresnet.errors import printable


def open_builder(
    dataset_name: str, config_name: str | None = None, revision: str | None = None, *, flag: str = DATASET_FLAG
) -> OpenedDataset:
    """
    Opens a dataset on the Hub, a local folder or a local file, and reads none of its pictures.

    Args:
        dataset_name, config_name, revision: as in `SplitRequest`.
        flag: flag that gave the name, for messages.

    Raises:
        DatasetError: there is no such dataset, or a dataset on the Hub claims files of this machine.
    """
    if printable(dataset_name) != dataset_name:
        raise DatasetError(
            f"{flag} {printable(dataset_name)} has a name that is no UTF-8, as `datasets` needs it: rename the folder."
        )
    try:
        folder = find_folder(dataset_name)
    except OSError as error:
        raise DatasetError(
            f"{flag} {dataset_name} cannot be read ({error.filename}: {error.strerror}): give a folder that can."
        ) from error
    try:
        if folder is not None and not folder.names_its_splits:
            return _open_folder(folder, f"{flag} {dataset_name}")
        builder = load_dataset_builder(dataset_name, config_name, revision=revision)
    except DatasetError:
        raise
    except Exception as error:  # `datasets` raises its own, fsspec's, httpx's and OSErrors
        raise DatasetError(explain_opening(error, dataset_name, config_name, revision, flag)) from error
    files = {
        str(split): [str(file) for file in of_split] for split, of_split in (builder.config.data_files or {}).items()
    }
    own = canonical_names(files)
    local = [file for of_split in files.values() for file in of_split if _is_local(file)]
    if folder is None and local:
        raise DatasetError(
            f"{flag} {dataset_name} is on the Hub, but its README.md names a file of this machine, {local[0]}, under "
            "configs and data_files: give another one."
        )
    return OpenedDataset(
        builder.info.builder_name or "",
        {split: files[name] for split, name in own.items()},
        lambda split: builder.as_streaming_dataset(split=own.get(split, split)),
        None if folder is None else folder.root,
    )


def find_folder(dataset_name: str) -> Folder | None:
    """
    The folder of that name, its ZIP files opened, or the file as one; None where there is none that holds datasets.

    Raises:
        OSError: it cannot be read.
        DatasetError: a ZIP file cannot be read.
    """
    if not dataset_name.strip():
        return None
    path = Path(dataset_name)
    if path.is_dir():
        folder = read_folder(path)
        return folder if folder.names_its_splits else open_archives(folder)
    return read_file(path) if path.is_file() and extension(path.name) in (*TABLES, ZIP) else None


def _open_folder(folder: Folder, called: str) -> OpenedDataset:
    layout = find_layout(folder)
    if layout is None:
        raise DatasetError(explain_nothing(called, folder))
    if layout.kind == PICTURES:
        refuse_contradictions(folder, layout)
        files = {split: [folder.place(name) for name in names] for split, names in layout.splits.items()}
        return OpenedDataset(
            PICTURES,
            files,
            lambda split: rows_of_classes(folder, layout, split).to_iterable_dataset(),
            folder.root,
            folder,
            layout,
        )
    if not layout.lists_pictures:
        files = {split: [folder.place(name) for name in names] for split, names in layout.splits.items()}
        # The origins of files, for a cache, stay empty: nothing that is streamed is cached.
        data_files = DataFilesDict({split: DataFilesList(of_split, []) for split, of_split in files.items()})
        builder = load_dataset_builder(layout.kind, data_files=data_files)
        features = builder.as_streaming_dataset(split=next(iter(files))).features
        if layout.kind != "parquet" or holds_images(features) or not holds_text(features):
            return OpenedDataset(
                layout.kind, files, lambda split: builder.as_streaming_dataset(split=split), folder.root, folder, layout
            )
    rows = rows_of_lists(folder, layout)
    return OpenedDataset(
        LISTS,
        {split: places for split, (_, places) in rows.items()},
        lambda split: rows[split][0].to_iterable_dataset(),
        folder.root,
        folder,
        layout,
    )


def _is_local(file: str) -> bool:
    """Whether a part of a chain, as `zip://image.png::archive.zip` is one, lies on this machine."""
    return any(split_protocol(part)[0] in (None, "file", "local") for part in file.split("::"))
