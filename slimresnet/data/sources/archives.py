"""Members of ZIP files, read where they lie: nothing is unpacked onto a disk."""

import os
import zipfile
from functools import lru_cache
from pathlib import PurePosixPath

from fsspec.core import split_protocol

from slimresnet.errors import printable

_PROTOCOL = "zip://"
_CHAIN = "::"  # stands before the archive that holds a member; fsspec opens what is named behind it
LARGEST_MEMBER = 1 << 28  # bytes; an image of as many pixels as are decoded, four bytes each


def list_members(archive: str) -> dict[str, str]:
    """
    The files in a ZIP file: their names, with `/`, and the place of each, as `zip://cat/1.png::pets.zip`.

    Raises:
        ValueError: the file is no ZIP file, or a member has a password, or `::` in its name.
        OSError: the file cannot be read.
    """
    try:
        members = [member for member in _opened(archive).infolist() if not member.is_dir()]
    except zipfile.BadZipFile as error:
        raise ValueError(f"it is no ZIP file ({error})") from error
    if locked := [member.filename for member in members if member.flag_bits & 1]:
        raise ValueError(f"{locked[0]} in it has a password")
    if chained := [member.filename for member in members if _CHAIN in member.filename]:
        raise ValueError(f"{printable(chained[0])} in it has {_CHAIN} in its name, which could lead to other files")
    return {_relative(member.filename): f"{_PROTOCOL}{member.filename}{_CHAIN}{archive}" for member in members}


def _relative(name: str) -> str:
    """A member's name as that of a file in a folder; programs of Windows write other slashes."""
    return PurePosixPath(name.replace("\\", "/").lstrip("/")).as_posix()


def read_member(place: str) -> bytes | None:
    """
    The bytes of a member, by its place; None for a place that is none in a ZIP file on this machine.

    Raises:
        Exception: zipfile's, zlib's and OSErrors; ValueError where the member is larger than `LARGEST_MEMBER`, or the
            place names no ZIP file on this machine though it ends like one here.
    """
    if not place.startswith(_PROTOCOL) or split_protocol(place.rpartition(_CHAIN)[2])[0] is not None:
        return None
    # No member has `::` in its name, and a folder on the way to the ZIP file may.
    name, _, archive = place.removeprefix(_PROTOCOL).partition(_CHAIN)
    if not os.path.isfile(archive):  # for fsspec it would be a chain of files, and lie anywhere
        raise ValueError(f"{place} names no ZIP file")
    opened = _opened(archive)
    if opened.getinfo(name).file_size > LARGEST_MEMBER:  # zipfile reads no more than the size that it says
        raise ValueError(f"it has more than {LARGEST_MEMBER:,} bytes, unpacked")
    return opened.read(name)


def _opened(archive: str) -> zipfile.ZipFile:
    state = os.stat(archive)
    return _opened_once(archive, state.st_mtime_ns, state.st_size, os.getpid())


@lru_cache(maxsize=32)
def _opened_once(archive: str, changed: int, size: int, process: int) -> zipfile.ZipFile:
    """Opens a file once for all its members: each opening reads the list of all. Forked processes share no position."""
    return zipfile.ZipFile(archive)
