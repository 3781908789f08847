"""JSON files of a run, held against what these tools rely on."""

import json
import math
from pathlib import Path

from slimresnet.run_folder.changes import is_run, recorded
from slimresnet.run_folder.names import RESULTS_NAME
from slimresnet.run_folder.schemas import find_fault
from slimresnet.run_folder.writing import FolderError


def read_json(file: Path) -> dict:
    """
    The content of a JSON file of a run; empty where there is no file.

    Raises:
        FolderError: the file is no JSON object, holds a number that is NaN or infinite, or holds a known name with a
            value of another type than the name asks for.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"), parse_constant=_finite, parse_float=_finite)
    except (RecursionError, ValueError) as error:
        raise FolderError(f"{file} is no JSON ({error}): restore it, or remove it.") from error
    except OSError as error:
        raise FolderError(f"{file} cannot be read: {error.strerror}.") from error
    if not isinstance(content, dict):
        raise FolderError(f"{file} holds no object: restore it, or remove it.")
    if fault := find_fault(file.name, content):
        raise FolderError(f"{file}: {fault}. Restore the file, or correct it.")
    return content


def has_results(folder: Path) -> bool:
    """Whether this program wrote the results of a folder; transformers' Trainer gives its own the same name."""
    return is_run(folder) or RESULTS_NAME in recorded(folder)


def read_results(folder: Path) -> dict:
    """
    The results of a folder; empty where there are none, or where they are of another program.

    Raises:
        FolderError: as `read_json`.
    """
    return read_json(folder / RESULTS_NAME) if has_results(folder) else {}


def _finite(text: str) -> float:
    number = float(text)  # 1e999 is infinite
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number
