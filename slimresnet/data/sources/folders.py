"""What lies in a local folder of images: its files, those that are no pictures, and the split that each belongs to."""

import errno
import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from datasets.data_files import (
    DEFAULT_PATTERNS_ALL,
    DEFAULT_PATTERNS_SPLIT_IN_DIR_NAME,
    DEFAULT_PATTERNS_SPLIT_IN_FILENAME,
    SPLIT_KEYWORDS,
    DataFilesDict,
    DataFilesList,
)
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from fsspec.utils import glob_translate
from huggingface_hub.constants import REPOCARD_NAME

from slimresnet.data.images import picture_suffixes

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_TABLES = {".parquet": "parquet", ".arrow": "arrow"}  # by suffix, the builder of `datasets`
_READ_BY_DATASETS = frozenset(ImageFolder.EXTENSIONS)
_MOST_WAYS = 64  # to one folder; two links in each of twenty nested folders would be a million
_CARDS = (REPOCARD_NAME, ".huggingface.yaml")  # may say which files belong to which split


@dataclass(frozen=True)
class Folder:
    """
    The files below a folder.

    Links to folders are followed, but for those that lead to a folder around them, in this one or above it; hidden
    folders are not looked into.

    Attributes:
        path: the folder.
        names: names of all files, relative to `path`, with `/`, in the order of their paths.
        subfolders: names of all folders, in the same form and order.
        has_links: whether a link to a folder was followed.
    """

    path: Path
    names: list[str]
    subfolders: list[str]
    has_links: bool

    @cached_property
    def visible(self) -> list[str]:
        """The names that are not hidden."""
        return [name for name in self.names if not is_hidden(name)]

    @property
    def pictures(self) -> list[str]:
        """The visible names of image files, as `datasets` knows them."""
        return [name for name in self.visible if extension(name) in _READ_BY_DATASETS]

    @property
    def archives(self) -> list[str]:
        """The visible names of packed files."""
        return [name for name in self.visible if extension(name) in ARCHIVES]

    @property
    def names_its_splits(self) -> bool:
        """Whether a card in the folder says which files are of which split."""
        return _has_configs(self.path)


def read_folder(path: Path) -> Folder:
    """
    Lists a folder and all folders below.

    Raises:
        OSError: a folder cannot be read, or links lead to a folder in more than `_MOST_WAYS` ways.
    """
    names, subfolders, has_links = [], [], False
    root = os.path.realpath(path)
    around = {str(path): (root, *map(str, Path(root).parents))}  # by folder: the folder and all above it
    ways: Counter[str] = Counter()
    for parent, folders, files in os.walk(path, onerror=_raise, followlinks=True):
        real = around.pop(parent)
        relative = Path(parent).relative_to(path)
        for folder in folders.copy():
            inside = os.path.join(parent, folder)
            target = os.path.realpath(inside)
            subfolders.append((relative / folder).as_posix())
            if target in real or is_hidden(f"{folder}/"):  # a link upwards has no end
                folders.remove(folder)
                continue
            ways[target] += 1
            if ways[target] > _MOST_WAYS:
                raise OSError(errno.ELOOP, f"links lead to this folder in more than {_MOST_WAYS} ways", inside)
            has_links |= os.path.islink(inside)
            around[inside] = (*real, target)
        names += [(relative / file).as_posix() for file in files]
    return Folder(path, sorted(names, key=_parts), sorted(subfolders, key=_parts), has_links)


def _parts(name: str) -> list[str]:
    return name.split("/")


def _has_configs(path: Path) -> bool:
    cards = [path / card for card in _CARDS if (path / card).is_file()]
    return any(re.search(rb"^configs:", card.read_bytes(), re.MULTILINE) for card in cards)


def _raise(error: OSError) -> None:
    raise error


def is_hidden(name: str) -> bool:
    """Whether a name is that of a hidden file or folder, `.name`, or of a folder that programs made, `__MACOSX/`."""
    last = name.removesuffix("/").rpartition("/")[2]
    return last.startswith(".") or (name.endswith("/") and last.startswith("__"))


def extension(name: str) -> str:
    """The suffix of a name, in small letters, with the dot; empty where there is none."""
    return PurePosixPath(name).suffix.lower()


def is_picture(name: str) -> bool:
    """Whether a name ends like that of a picture, in a format that is read here."""
    return extension(name) in picture_suffixes()


def count_kinds(names: Iterable[str]) -> str:
    """How many files there are of each kind, the most frequent first, such as `.pdf 3, hidden 2`."""
    kinds = Counter("hidden" if is_hidden(name) else extension(name) or "without an ending" for name in names)
    return ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common())


def files_by_split(folder: Folder) -> tuple[str, DataFilesDict] | None:
    """
    The builder of `datasets` for a folder that the search of `datasets` misses, and the files for the builder.

    The search of `datasets` takes `[v2]` in a path for a pattern, and follows no links to folders. The rules of
    `datasets` still decide which file is of which split. None where the search finds the folder, or where a card in the
    folder decides.
    """
    if folder.names_its_splits or not (folder.has_links or glob.has_magic(str(folder.path.resolve()))):
        return None
    tables = [name for name in folder.visible if extension(name) in _TABLES and "metadata" not in name]
    builder = _TABLES[extension(tables[0])] if tables else "imagefolder"
    kinds = [each for each, reader in _TABLES.items() if reader == builder] or _READ_BY_DATASETS
    admitted = [
        name
        for name in sorted(folder.visible)  # as datasets sorts them: by the letters of the whole
        if extension(name) in kinds or PurePosixPath(name).name in ImageFolder.METADATA_FILENAMES
    ]
    # datasets' own order: folders decide, then files, else all is one split.
    for patterns in (DEFAULT_PATTERNS_SPLIT_IN_DIR_NAME, DEFAULT_PATTERNS_SPLIT_IN_FILENAME, DEFAULT_PATTERNS_ALL):
        splits = {str(split): _matching(admitted, each) for split, each in patterns.items()}
        if found := {split: names for split, names in splits.items() if names}:
            # The origins of files, for a cache, stay empty: nothing that is streamed is cached.
            paths = {
                split: DataFilesList([(folder.path.absolute() / name).as_posix() for name in names], [])
                for split, names in found.items()
            }
            return builder, DataFilesDict(paths)
    return None


def _matching(names: list[str], patterns: list[str]) -> list[str]:
    """The names that match a pattern, as often as patterns do: a file that is in a split twice is found out later."""
    matchers: list[Callable] = [re.compile(glob_translate(pattern)).match for pattern in patterns]
    return [name for matches in matchers for name in names if matches(name)]


def miswritten_split(path: Path) -> str | None:
    """A name at the top of a folder that is a split's but for capitals; `datasets` knows small letters alone."""
    tops = {name.split(".")[0] for name in os.listdir(path) if not is_hidden(name)}
    keywords = {keyword for split in SPLIT_KEYWORDS.values() for keyword in split}
    wrong = [top for top in sorted(tops) if top.lower() in keywords and top != top.lower()]
    return wrong[0] if wrong and not _has_configs(path) else None
