"""What lies in a local folder of images, or in a ZIP file: its files, and those that are no pictures."""

import errno
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from huggingface_hub.constants import REPOCARD_NAME

from slimresnet.data.images import picture_suffixes
from slimresnet.data.sources.archives import list_members
from slimresnet.data.sources.source import DatasetError
from slimresnet.errors import printable

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
ZIP = ".zip"
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
        path: the folder, or a file that stands for the whole.
        names: names of all files, relative to `path`, with `/`, in the order of their paths.
        subfolders: names of all folders, in the same form and order.
        members: places of those files that lie in ZIP files, by their names, as `zip://1.png::pets.zip`.
        opened: names of the ZIP files in the folder, without their suffix.
    """

    path: Path
    names: list[str]
    subfolders: list[str]
    members: dict[str, str] = field(default_factory=dict)
    opened: frozenset[str] = frozenset()

    @cached_property
    def visible(self) -> list[str]:
        """The names that are not hidden."""
        return [name for name in self.names if not is_hidden(name)]

    @property
    def root(self) -> Path:
        """The folder that the files lie in."""
        return self.path if self.path.is_dir() else self.path.parent

    def place(self, name: str) -> str:
        """Where a file lies, as fsspec opens it."""
        return self.members.get(name) or (self.root.absolute() / name).as_posix()

    @cached_property
    def pictures(self) -> list[str]:
        """The visible names of image files, as `datasets` knows them."""
        return [name for name in self.visible if extension(name) in _READ_BY_DATASETS]

    @property
    def archives(self) -> list[str]:
        """The visible names of packed files that are not opened."""
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
    names, subfolders = [], []
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
            around[inside] = (*real, target)
        names += [(relative / file).as_posix() for file in files]
    return Folder(path, sorted(names, key=_parts), sorted(subfolders, key=_parts))


def read_file(path: Path) -> Folder:
    """One file as a folder that holds nothing else; of a ZIP file, the members."""
    if extension(path.name) != ZIP:
        return Folder(path, [path.name], [])
    return _with_members(Folder(path, [], []), {"": _members(path.absolute().as_posix())})


def open_archives(folder: Folder) -> Folder:
    """
    A folder whose ZIP files count as folders of their names, so that `train/cat.zip` holds `train/cat/1.png`.

    A ZIP file beside a folder of its name has been unpacked, and counts for nothing.

    Raises:
        DatasetError: a file is no ZIP file, or has a password.
        OSError: a file cannot be read.
    """
    zips = {name[: -len(ZIP)]: name for name in folder.visible if extension(name) == ZIP}
    opened = {stem: _members(folder.place(name)) for stem, name in zips.items() if stem not in folder.subfolders}
    left = replace(folder, names=[name for name in folder.names if name not in zips.values()])
    return _with_members(left, opened)


def _members(archive: str) -> dict[str, str]:
    try:
        return list_members(archive)
    except ValueError as error:
        raise DatasetError(f"{printable(archive)} cannot be read ({error}): pack it anew, or unpack it.") from error


def _with_members(folder: Folder, opened: dict[str, dict[str, str]]) -> Folder:
    """The folder with the members of ZIP files below folders of the given names."""
    found = dict(folder.members)
    for stem, members in opened.items():
        own = f"{PurePosixPath(stem).name}/"
        prefix = f"{stem}/" if stem else ""
        wrapped = bool(stem) and all(name.startswith(own) for name in members)
        for name, place in members.items():
            parts = PurePosixPath(name).parts
            if not any(is_hidden(f"{part}/") for part in parts[:-1]):
                found[prefix + (name.removeprefix(own) if wrapped else name)] = place
    subfolders = {str(parent) for name in found for parent in PurePosixPath(name).parents} - {"."}
    return replace(
        folder,
        names=sorted({*folder.names, *found}, key=_parts),
        subfolders=sorted({*folder.subfolders, *subfolders}, key=_parts),
        members=found,
        opened=frozenset(opened),
    )


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
