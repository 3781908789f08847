"""A place for faults: before each call of a process that changes files."""

import os
from collections.abc import Callable
from pathlib import Path

_CALLS = ("replace", "rename", "fsync", "unlink", "mkdir", "rmdir", "open")


def before_each_change(hear: Callable[[int], None], folder: Path = Path("/")) -> None:
    """From now on this process calls `hear` before each call that changes files in a folder, with its number from 1."""
    count, within = 0, os.path.realpath(folder)

    def heard(call: Callable) -> Callable:
        def calling(path, *arguments, **named):
            nonlocal count
            if os.path.realpath(f"/proc/self/fd/{path}" if isinstance(path, int) else path).startswith(within):
                count += 1
                hear(count)
            return call(path, *arguments, **named)

        return calling

    for name in _CALLS:
        setattr(os, name, heard(getattr(os, name)))
