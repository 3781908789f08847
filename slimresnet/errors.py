"""What every package says of a mistake: one sentence, in text that every encoding has."""

import os


class SlimResNetError(ValueError):
    """
    A mistake in what was given: a setting, a file, a folder, a dataset.

    The message is one line, whatever it quotes. It names the flag, the file or the value, and says what to do.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


class InterruptedRun(Exception):
    """The run stopped behind a checkpoint, as it was asked to; `exit_code` is a shell's, 128 + the signal's number."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def printable(name: str) -> str:
    r"""A file's name as text that every encoding has: bytes that are no UTF-8 as `\xff`."""
    try:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a character, as JSON may have it, and no file
        return name.encode("utf-8", "backslashreplace").decode()


def first_line(error: BaseException) -> str:
    """Kind and first line of an error, for a sentence that quotes it."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}" if str(error).strip() else repr(error)
