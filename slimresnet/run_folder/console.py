"""What a tool prints, on streams that may break, fill up or know ASCII alone: none of that ends its work."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TextIO

_FULL = (errno.ENOSPC, errno.EDQUOT)  # of a file that may have room again


class _Tolerant:
    """A stream whose text is lost, and nothing else, where it cannot be written."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            return self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        if error.errno not in _FULL:
            self.end()
            if self._stream is sys.__stdout__:
                print(f"standard output cannot be written to ({error.strerror}): going on without", file=sys.stderr)

    def end(self) -> None:
        """Has what is still to be written go nowhere: Python tries once more at its end, and would fail there."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def tolerant_output() -> Iterator[None]:
    """While it is entered, nothing that is printed can fail; a decorator too."""
    with ExitStack() as after:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None:  # closed before Python began
                stream = after.enter_context(open(os.devnull, "w", encoding="utf-8"))
            after.callback(setattr, sys, name, getattr(sys, name))
            tolerant = _Tolerant(stream)
            setattr(sys, name, tolerant)
            after.callback(_finish, tolerant)
        yield


def _finish(tolerant: _Tolerant) -> None:
    try:
        tolerant._stream.flush()
    except (OSError, ValueError):
        tolerant.end()
