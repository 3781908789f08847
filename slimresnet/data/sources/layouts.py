"""How the files of a local folder make up a dataset: what reads them, and the split that each belongs to."""

from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from datasets.data_files import FILES_TO_IGNORE
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from slimresnet.data.sources.folders import Folder, extension
from slimresnet.data.sources.source import DatasetError
from slimresnet.data.sources.spellings import (
    CANONICAL,
    canonical_names,
    in_order,
    spelt_split,
    split_at_an_end,
    split_of_shard,
    without_split,
)
from slimresnet.errors import printable
from slimresnet.recipe.settings import TRAIN_SPLIT

PICTURES = "pictures"
TABLES = {
    ".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset", ".csv": "csv", ".tsv": "csv", ".jsonl": "json",
    ".ndjson": "json", ".json": "json",
}  # fmt: skip
"""By suffix, the builder of `datasets`; the first of these that a folder holds is read."""
_BUILDERS_OF_LISTS = ("csv", "json")
_LISTS = frozenset(ImageFolder.METADATA_FILENAMES)
_NO_TABLES = {*FILES_TO_IGNORE, "state.json"}  # what save_to_disk writes beside the rows


@dataclass(frozen=True)
class Layout:
    """
    What a folder's rows are read from.

    Attributes:
        kind: `PICTURES`, or the builder of `datasets` that reads the tables.
        splits: names of files in the folder, by the canonical name of their split; all under train where no name of a
            file or folder says a split.
        says_splits: whether a name of a file or folder does.
        lists_pictures: whether the tables are lists of pictures' paths.
        classes: the class of each picture, by its name; without those that lie in no folder of a class.
        unread: names of lists beside pictures in folders of classes, which the folders come before.
    """

    kind: str
    splits: dict[str, list[str]]
    says_splits: bool
    lists_pictures: bool = False
    classes: dict[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


def find_layout(folder: Folder) -> Layout | None:
    """
    The layout of a folder; None where there is nothing in it that could be read.

    Lists called `metadata` come before tables that hold pictures, these before pictures in folders of classes, and
    these before any other list, such as one of predictions. A list that is passed over so is named in `unread`.

    Raises:
        DatasetError: two folders spell the same split.
    """
    names = [name for name in sorted(folder.visible) if PurePosixPath(name).name not in _NO_TABLES]
    if metadata := [name for name in names if PurePosixPath(name).name in _LISTS]:
        return _of_tables(folder, metadata)
    tables = [name for name in names if extension(name) in TABLES and not _is_cache(name)]
    if folder.pictures:  # a tar beside pictures is a copy of them, or a class that is packed
        tables = [name for name in tables if TABLES[extension(name)] != "webdataset"]
    if any(TABLES[extension(name)] not in _BUILDERS_OF_LISTS for name in tables):
        return _of_tables(folder, tables)
    pictures = _of_pictures(folder) if folder.pictures else None
    if tables and (pictures is None or len({*pictures.classes.values()}) < 2):
        return _of_tables(folder, tables)
    return pictures and replace(pictures, unread=tuple(tables))


def _classes(names: list[str], level: int) -> dict[str, str]:
    """
    The class of each picture below `level` folders; empty where the shallowest picture lies in no folder there.

    The folder of the shallowest picture is a class, and so is each beside it, with all that lies below.
    """
    at = min(name.count("/") for name in names) - 1
    return {name: name.split("/")[at] for name in names} if at >= level else {}


def find_splits(folder: Folder, names: list[str]) -> tuple[int, dict[str, list[str]]] | None:
    """
    The files of each split, where folders are called as splits: those at the top, or below a single folder there.

    Returns:
        The number of folders on the way to a file, the split's own included, and the names by canonical split.
        Folders beside those of splits are splits by their own names. None where no folder is called as a split.

    Raises:
        DatasetError: two folders spell the same split.
    """
    parts = {name: name.split("/") for name in names}
    level = 0
    while True:
        tops = sorted({of_name[level] for of_name in parts.values() if len(of_name) > level + 1})
        is_loose = any(len(of_name) == level + 1 for of_name in parts.values())
        called = {top: split for top in tops if (split := spelt_split(top))} or _called_alike(tops)
        if called:
            break
        if len(tops) != 1 or is_loose:
            return None
        level += 1
    for split in called.values():
        if len(alike := [top for top, of_top in called.items() if of_top == split]) > 1:
            raise DatasetError(
                f"{folder.path} has several folders for split {split!r}, {', '.join(map(printable, alike))}: leave one."
            )
    splits: dict[str, list[str]] = {}
    for name, of_name in parts.items():
        if len(of_name) > level + 1:
            splits.setdefault(called.get(of_name[level], of_name[level]), []).append(name)
    return level + 1, {split: splits[split] for split in in_order(splits)}


def _called_alike(tops: list[str]) -> dict[str, str]:
    """Folders such as `train_images` and `test_images`, where all differ by the word of the split alone."""
    called = {top: split for top in tops if (split := split_at_an_end(top))}
    is_whole = len({*called.values()}) == len(tops) > 1 and TRAIN_SPLIT in called.values()
    return called if is_whole and len({without_split(top) for top in tops}) == 1 else {}


def _of_pictures(folder: Folder) -> Layout:
    names = sorted(folder.pictures)
    found = find_splits(folder, names)
    if found is None:
        return _of_splits_of_classes(names) or Layout(PICTURES, {TRAIN_SPLIT: names}, False, classes=_classes(names, 0))
    level, splits = found
    classes = {split: _classes(of_split, level) for split, of_split in splits.items()}
    known = {label for split, of_split in classes.items() if split in CANONICAL for label in of_split.values()}
    # A folder of another name beside the splits must not bring classes of its own.
    kept = [split for split in splits if split in CANONICAL or set() < {*classes[split].values()} <= known]
    return Layout(
        PICTURES,
        {split: splits[split] for split in kept},
        True,
        classes={name: label for split in kept for name, label in classes[split].items()},
    )


def _of_splits_of_classes(names: list[str]) -> Layout | None:
    """Folders of splits in those of classes, as `cat/train/1.png`."""
    splits: dict[str, list[str]] = {}
    for name, folder in _classes(names, 1).items():
        splits.setdefault(spelt_split(folder) or "", []).append(name)
    if not splits or "" in splits:
        return None
    at = min(name.count("/") for name in names) - 2
    splits = {split: splits[split] for split in in_order(splits)}
    return Layout(PICTURES, splits, True, classes={name: name.split("/")[at] for name in names})


def _of_tables(folder: Folder, names: list[str]) -> Layout:
    kinds = {TABLES[extension(name)] for name in names}
    kind = next(each for each in TABLES.values() if each in kinds)
    lists_pictures = kind in _BUILDERS_OF_LISTS or PurePosixPath(names[0]).name in _LISTS
    tables = [name for name in names if TABLES[extension(name)] == kind]
    splits: dict[str, list[str]] = {}
    if kind == "arrow" and any(PurePosixPath(name).name == "dataset_dict.json" for name in folder.names):
        for name in tables:  # folders of any name are splits, as DatasetDict.save_to_disk writes them
            splits.setdefault(PurePosixPath(name).parent.name, []).append(name)
        named = canonical_names(splits)
        return Layout(kind, {split: splits[named[split]] for split in in_order(named)}, True)
    found = find_splits(folder, tables)
    splits = found[1] if found else _by_file_name(tables)
    return Layout(kind, splits or {TRAIN_SPLIT: tables}, bool(splits), lists_pictures)


def _by_file_name(tables: list[str]) -> dict[str, list[str]]:
    """Tables by what their names say, without those whose names say nothing; shards of one thing alone are no split."""
    stems = {name: PurePosixPath(name).stem for name in tables}
    for split_of, least in ((split_at_an_end, 1), (split_of_shard, 2)):
        splits: dict[str, list[str]] = {}
        for name, stem in stems.items():
            if split := split_of(stem):
                splits.setdefault(split, []).append(name)
        if len(splits) >= least:
            return {split: splits[split] for split in in_order(splits)}
    return {}


def _is_cache(name: str) -> bool:
    """Whether a file is what `map` leaves beside the rows of save_to_disk."""
    return extension(name) == ".arrow" and PurePosixPath(name).name.startswith(("cache-", "tmp"))
