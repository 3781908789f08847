"""
Changes to a run's folder that happen as one, and the record of the files that were written by them.

The files of a change are made in `.slimresnet/change`. When they are all on the disk, a journal beside them says where
each goes and what leaves for them; from then on the change counts, and whoever opens the folder next completes it where
its process could not. Without a journal it never was. What the record does not name was written by somebody else:
nothing removes it, and where a file of the change has to stand in its place, it is renamed.
"""

import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from slimresnet.run_folder.names import CHANGE_NAME, JOURNAL_NAME, NEXT_RECORD_NAME, OWN_NAME, RECIPE_NAME, RECORD_NAME
from slimresnet.run_folder.writing import FolderError, explain, force_to_disk, write_json

UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)  # JSON that says something else


def recorded(folder: Path) -> dict[str, str]:
    """The files that were written here, by their path in the folder, each with the SHA-256 of what was written."""
    try:
        files = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))["files"]
        return {str(name): str(digest) for name, digest in files.items() if _is_below(name)}
    except UNREADABLE:
        return {}  # none, or damaged: then nothing here is known to be ours


def _is_below(name: str) -> bool:
    """Whether a name says where in a folder something is, and not where else."""
    path = PurePosixPath(name)
    return name == path.as_posix() and not path.is_absolute() and path.parts != () and ".." not in path.parts


def is_written_here(folder: Path, name: str) -> bool:
    """
    Whether a run's folder has a file from this program, as far as the record says, and not from a person.

    A run of an earlier version has no record of its own: there every name is taken for what it says.
    """
    return name in recorded(folder) or is_of_an_earlier_version(folder)


def is_of_an_earlier_version(folder: Path) -> bool:
    """Whether a folder is a run of a version that kept no record: what tells of it is by its name this program's."""
    return (folder / RECIPE_NAME).is_file() and RECIPE_NAME not in recorded(folder)


def is_run(folder: Path) -> bool:
    """Whether train.py wrote a folder, and not transformers' Trainer, `save_pretrained` or another program."""
    return (folder / RECIPE_NAME).is_file() or RECIPE_NAME in recorded(folder)


def is_own(folder: Path, name: str) -> bool:
    """Whether a file is, byte for byte, what was written here."""
    return _is_as_written(folder, name, recorded(folder))


def foreign(folder: Path, names: Iterable[str]) -> list[str]:
    """The names, of these, under which the folder has something that was not written here, or was changed since."""
    record = recorded(folder)
    return [name for name in names if os.path.lexists(folder / name) and not _is_as_written(folder, name, record)]


def _is_as_written(folder: Path, name: str, record: dict[str, str]) -> bool:
    return name in record and _digest_of(folder, name) == record[name]


def _digest_of(folder: Path, name: str) -> str | None:
    """SHA-256 of a file in a folder; None where there is no file, or where a link stands on the way or in its place."""
    way = [folder / name, *(folder / parent for parent in PurePosixPath(name).parents[:-1])]
    if any(each.is_symlink() for each in way) or not (folder / name).is_file():
        return None
    return sha256(folder / name)


def refuse_links(folder: Path) -> None:
    """
    Refuses links in `.slimresnet` before anything is written or removed there: a folder may come from a stranger.

    Raises:
        FolderError: `.slimresnet` is a link or holds one, so that writing would happen elsewhere.
    """
    home = folder / OWN_NAME
    for path in [home, *(home.iterdir() if home.is_dir() and not home.is_symlink() else ())]:
        if path.is_symlink():
            raise FolderError(f"{path} is a link, which this program does not make: remove it, then try again.")


def sha256(file: Path) -> str:
    """SHA-256, as `sha256sum` writes it."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Change:
    """
    A change in the making.

    Attributes:
        files: a folder for what is to come, laid out as the run's folder.
        own: names of what is known to be ours though the record may not say so.
    """

    def __init__(self, folder: Path):
        self._folder, self._home = folder, folder / CHANGE_NAME
        self.files = self._home / "files"
        self.own: set[str] = set()
        self._removed: dict[str, str | None] = {}  # with the digest of each that is a file
        self._last: set[str] = set()
        self._moved: dict[str, str] = {}

    def bring(self, names: Iterable[str]) -> None:
        """Copies files that the folder has, and the change has not yet, into the change, to be read or edited there."""
        for name in names:
            is_there = (self._folder / name).is_file() and name not in self._removed
            if is_there and not (self.files / name).exists():
                (self.files / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._folder / name, self.files / name)

    def remove(self, names: Iterable[str]) -> None:
        """
        Takes out the files, of these names, that are as they were written here.

        A file that is removed and also comes anew leaves before any other file comes, and comes after all others.
        """
        names = list(names)
        self._last |= set(names)
        mine = [name for name in names if is_own(self._folder, name) or name in self.own]
        self._removed |= {name: _digest_of(self._folder, name) for name in mine}

    def remove_folders(self, names: Iterable[str]) -> None:
        """Takes out whole folders, of which the caller knows that all in them was written here."""
        self._removed |= dict.fromkeys(names)

    def move(self, source: Path, name: str) -> None:
        """Brings a folder that lies elsewhere in `.slimresnet` to its place."""
        self._moved[source.relative_to(self._folder).as_posix()] = name

    def _decide(self) -> bool:
        """Writes the journal; returns whether there is anything to do."""
        files = sorted(file.relative_to(self.files).as_posix() for file in self.files.rglob("*") if file.is_file())
        for name in set(files) - set(self._removed):
            there = self._folder / name
            if there.is_file() and not there.is_symlink() and sha256(self.files / name) == sha256(there):
                (self.files / name).unlink()  # nothing changes, whoever wrote it
                files.remove(name)
        if not (files or self._removed or self._moved):
            return False
        record = recorded(self._folder)
        kept = {name: digest for name, digest in record.items() if name not in self._removed}
        write_json(
            self._folder / NEXT_RECORD_NAME, {"files": kept | {name: sha256(self.files / name) for name in files}}
        )
        for path in [*self.files.rglob("*"), self.files, self._home]:
            force_to_disk(path)
        mine = [name for name in files if name in self.own or _is_as_written(self._folder, name, record)]
        journal = {
            "removed": self._removed,
            "moved": self._moved,
            "files": sorted(files, key=lambda name: (name in self._last, name)),
            "replaced": {name: _digest_of(self._folder, name) for name in mine},
        }
        write_json(self._folder / JOURNAL_NAME, journal)
        return True


def _stands_for_no_folder(path: Path) -> bool:
    return os.path.lexists(path) and (path.is_symlink() or not path.is_dir())


def free_name(path: Path) -> Path:
    """A free name beside `path`, for what somebody else put where a file or a folder of ours has to stand."""
    names = (path.with_name(f"{path.name}.bak{number or ''}") for number in itertools.count())
    return next(name for name in names if not os.path.lexists(name))


@contextmanager
def change(folder: Path) -> Iterator[Change]:
    """
    A change to a folder that the caller owns; it is made as one when the block ends without an error.

    Raises:
        FolderError: the file system refuses it. What the folder held is as it was, or the change was decided on: then
            its files lie whole in `.slimresnet/change`, and come to their places when the folder is opened again.
    """
    made = Change(folder)
    refuse_links(folder)
    try:
        settle(folder)
        made.files.mkdir(parents=True)
        yield made
        is_decided = made._decide()
    except OSError as error:
        if error.errno is None:
            raise
        raise explain(error, error.filename or folder) from error
    finally:
        if not is_pending(folder):
            shutil.rmtree(folder / CHANGE_NAME, ignore_errors=True)
    if is_decided:
        settle(folder)


def is_pending(folder: Path) -> bool:
    """Whether a change was decided on and is not complete."""
    on_the_way = (folder / OWN_NAME, folder / CHANGE_NAME)
    return not any(map(Path.is_symlink, on_the_way)) and (folder / JOURNAL_NAME).is_file()


def settle(folder: Path) -> None:
    """
    Completes a change that was decided on; removes what is left of one that was not. The caller owns the folder.

    Raises:
        FolderError: the file system refuses a step, or the journal cannot be read.
    """
    home = folder / CHANGE_NAME
    refuse_links(folder)
    if not is_pending(folder):
        shutil.rmtree(home, ignore_errors=True)
        return
    try:
        _complete(folder, json.loads((folder / JOURNAL_NAME).read_text(encoding="utf-8")))
    except UNREADABLE as error:
        raise FolderError(
            f"{folder}: new files lie whole in {home / 'files'}, but cannot take their places ({error}). Mend that: "
            "they take them when the folder is opened again."
        ) from error


def _complete(folder: Path, journal: dict) -> None:
    """
    Takes the steps of a journal. Each step can be repeated: the process may be killed in between, however often.

    What came to stand in the folder since the journal was written is somebody else's, as it would have been before. And
    the journal may be a stranger's: nothing moves into the folder, or out of it.
    """
    home = folder / CHANGE_NAME
    names = [*journal["removed"], *journal["files"], *journal["moved"], *journal["moved"].values()]
    for name in names:
        if not _is_below(name):
            raise ValueError(f"the journal names {name}, which lies outside of the folder")
    for name, digest in journal["removed"].items():
        is_here = _digest_of(folder, name) == digest if digest else (folder / name).is_dir()
        if is_here and not os.path.lexists(home / "removed" / name):
            _rename(folder, folder / name, home / "removed" / name)
    arrivals = {folder / source: name for source, name in journal["moved"].items()}
    arrivals |= {home / "files" / name: name for name in journal["files"]}
    for source, name in arrivals.items():
        if not os.path.lexists(source):
            continue  # it came before the process was killed
        _make_way(folder, name, journal["replaced"].get(name))
        _rename(folder, source, folder / name)
    for path in {folder, *((folder / name).parent for name in arrivals.values())}:
        force_to_disk(path)
    if (folder / NEXT_RECORD_NAME).exists():
        os.replace(folder / NEXT_RECORD_NAME, folder / RECORD_NAME)
    force_to_disk(folder / OWN_NAME)
    (folder / JOURNAL_NAME).unlink()
    force_to_disk(home)
    shutil.rmtree(home, ignore_errors=True)


def _make_way(folder: Path, name: str, replaced: str | None) -> None:
    """Puts aside what stands in the place of a file, unless it is to be `replaced`, or of a folder that it lies in."""
    parents = [folder / parent for parent in reversed(PurePosixPath(name).parents[:-1])]
    blocking = [parent for parent in parents if _stands_for_no_folder(parent)]
    if not blocking and os.path.lexists(folder / name) and (replaced is None or _digest_of(folder, name) != replaced):
        blocking = [folder / name]
    for path in blocking[:1]:
        put_aside(path)


def put_aside(path: Path) -> None:
    """Renames what somebody else put where a file or a folder of ours has to stand, and says so."""
    to = free_name(path)
    os.rename(path, to)
    print(f"{path} was not written by this program, or was changed since: it is {to} now", file=sys.stderr)


def _rename(folder: Path, source: Path, target: Path) -> None:
    for path in (source, target):
        if not path.parent.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"the journal names {path}, which lies outside of the folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)
