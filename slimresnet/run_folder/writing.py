"""Files that are whole or not there: written under another name, forced to the disk, renamed."""

import errno
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from slimresnet.errors import SlimResNetError

_ADVICE: dict[int | None, str] = {
    errno.ENOSPC: "make room, then try again",
    errno.EDQUOT: "make room, then try again",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), then try again",
    errno.EACCES: "name a place where you may write, or change its permissions",
    errno.EPERM: "name a place where you may write, or change its permissions",
    errno.EROFS: "name a place that can be written to",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.ENOENT: "make the folder that it lies in, or correct the path",
    errno.ENOTDIR: "a file stands where a folder has to be, name another place",
    errno.EISDIR: "a folder stands there, name a file",
    errno.EPIPE: "whoever read it has stopped reading",
}


class FolderError(SlimResNetError):
    """A file or a folder that cannot be read or written; the message names it and says what to do."""


def explain(error: OSError, path: Path | str) -> FolderError:
    """What the file system says of a path, and what to do about it."""
    advice = _ADVICE.get(error.errno, "correct that, then try again")
    return FolderError(
        f"{path} cannot be written ({error.strerror or error}): {advice}. What stood there is as it was."
    )


def force_to_disk(path: Path) -> None:
    """Waits until a file or a folder's list of files is on the disk, where a power cut cannot take it."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folder as a file
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """
    A path to write a file to, which takes the place of `path` at the end; where `path` is a link, of what it points to.

    Raises:
        FolderError: the file system refuses it. What stood at `path` is as it was, as it is after any other error.
    """
    target = Path(os.path.realpath(path))
    unfinished = target.with_name(f".{secrets.token_hex(8)}.unfinished")  # short: the name of `path` may be a long one
    try:
        yield unfinished
        with suppress(FileNotFoundError):
            shutil.copymode(target, unfinished)
        force_to_disk(unfinished)
        os.replace(unfinished, target)
        force_to_disk(target.parent)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(unfinished), str(target)):
            raise  # of another file, which the caller was reading
        raise explain(error, path) from error
    finally:
        with suppress(OSError):
            unfinished.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 in the place of what stands at `path`; raises as `replacing`."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, content: dict) -> None:
    """
    Writes JSON in the place of what stands at `path`; raises as `replacing`.

    Raises:
        ValueError: a number is NaN or infinite, for which JSON has no word.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def check_place(flag: str, path: Path) -> None:
    """
    Checks, before any work is done, that a file or a folder can be made at `path`.

    Raises:
        FolderError: the parent of `path`, maybe by a typing error, does not exist or is no folder.
    """
    parent = path.absolute().parent
    if not parent.is_dir():
        raise FolderError(
            f"{flag} {path} lies in {parent}, which {'is no folder' if parent.exists() else 'does not exist'}: make "
            "that folder, or correct the path."
        )


def check_output_file(flag: str, path: Path, example: str = "predictions.csv") -> None:
    """
    Checks, before any work is done, that `path` can become a file that `open_output` writes.

    Args:
        example: name of such a file, for the message.

    Raises:
        FolderError: `path` is a folder, or its parent does not exist or is no folder.
    """
    if path.is_dir():
        raise FolderError(f"{flag} {path} is a folder: name a file, such as {path / example}.")
    check_place(flag, path)


def is_standard_output(path: Path) -> bool:
    """Whether a path, such as `-` or /dev/stdout, is where this process prints to."""
    if str(path) == "-":
        return True
    try:
        return os.path.samestat(path.stat(), os.fstat(1))
    except OSError:
        return False


@contextmanager
def open_output(path: Path) -> Iterator[TextIO]:
    """
    A text file in UTF-8 that takes the place of `path` when it is complete.

    What is no file on a disk, such as a device or a pipe, is written to as it comes, and stays what it is.

    Raises:
        FolderError: as `replacing`.
    """
    if is_standard_output(path):
        straight: Path | int = os.dup(1)  # one place in it, shared with what was printed before
    elif path.exists() and not stat.S_ISREG(path.stat().st_mode):
        straight = path
    else:
        with replacing(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
            yield file
        return
    try:
        with open(straight, "w", newline="", encoding="utf-8") as file:
            yield file
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(path)):
            raise
        raise explain(error, path) from error
