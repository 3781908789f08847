"""Who is at work in a folder: one process at a time, by a lock that ends with it."""

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from slimresnet.run_folder.changes import UNREADABLE, is_pending, refuse_links, settle
from slimresnet.run_folder.names import LOCK_NAME, OWN_NAME, OWNER_NAME
from slimresnet.run_folder.writing import FolderError, explain, write_json

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)  # errors of a file system without locks
PATIENCE = 5.0  # seconds: whoever writes only figures is done by then
_GLANCE = 0.5  # seconds: whoever looks, as this process does, holds the lock for a moment, too


@contextmanager
def own(folder: Path) -> Iterator[None]:
    """
    Owns a folder, which is made if it is not there; a change that a dead process left there is completed first.

    The lock is the system's own: it ends with the process, however that ends, and holds on NFS.

    Raises:
        FolderError: another process owns it, or it cannot be written to.
    """
    refuse_links(folder)
    lock = FileLock(folder / LOCK_NAME, fallback_to_soft=False)
    try:
        (folder / OWN_NAME).mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise _in_use(folder, _owner(folder)) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise explain(error, error.filename or folder / LOCK_NAME) from error
        print(f"{folder}: its file system has no locks; see that nothing else writes there", file=sys.stderr)
    owner = {
        "program": Path(sys.argv[0]).name,
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
    try:
        with suppress(FolderError):  # a full disk: what takes no room may still be done
            write_json(folder / OWNER_NAME, owner)
        settle(folder)
        yield
    finally:
        with suppress(OSError):
            (folder / OWNER_NAME).unlink()
        lock.release(force=True)


def owner_of(folder: Path, patience: float) -> str | None:
    """Who is at work in a folder, after so many seconds still, for people; None if nobody is, or nobody can tell."""
    file = folder / LOCK_NAME
    if not file.is_file() or any(map(Path.is_symlink, (file, file.parent))):
        return None
    lock = FileLock(file, fallback_to_soft=False)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        return _owner(folder)
    except OSError:
        return None  # a folder that may only be read
    lock.release()
    return None


def refuse_if_owned(folder: Path) -> None:
    """
    Refuses a folder that another process owns. This early check spares work; `own` checks again.

    Raises:
        FolderError: another process owns the folder.
    """
    if (owner := owner_of(folder, PATIENCE)) is not None:
        raise _in_use(folder, owner)


def prepare_to_read(folder: Path) -> None:
    """
    Sees that the files of a folder are of one run: completes what a dead process left, says who is at work there.

    Raises:
        FolderError: files are changing places now, or a change cannot be completed.
    """
    if is_pending(folder):
        with own(folder):
            pass
    elif (owner := owner_of(folder, _GLANCE)) is not None:
        print(f"{folder}: {owner} is at work there; what is read is what was finished before", file=sys.stderr)


def _in_use(folder: Path, owner: str) -> FolderError:
    return FolderError(
        f"{folder} is in use: {owner} is at work there. Wait for its end, stop it, or name another folder."
    )


def _owner(folder: Path) -> str:
    try:
        owner = json.loads((folder / OWNER_NAME).read_text(encoding="utf-8"))
        return "{program} (process {process} on {host}, since {since})".format(**owner)
    except UNREADABLE:
        return "another process"
