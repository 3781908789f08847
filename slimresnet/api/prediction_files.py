"""Where predictions go: a CSV, a Parquet file of embeddings, and a table for people."""

import shutil
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet

from slimresnet.data.task import Task
from slimresnet.evaluation.spreadsheet import TableWriter
from slimresnet.run_folder.writing import FolderError, check_output_file, is_standard_output, open_output, replacing

UNKNOWN = -1
"""Class number of an image that no class was given to."""
UNKNOWN_NAME = "unknown"
NO_CLASS = "none"
"""What the table for people has for an image of none of several classes."""
MOST_ROWS = 50
"""Rows of the table for people."""

_SHARE = "prob."  # heading of a column of numbers
_ROWS_IN_A_GROUP = 4096  # of Parquet; at 512 numbers each, 8 MiB of memory
_NAME_WIDTH, _NEXT_WIDTH, _LEAST_FILE_WIDTH = 14, 11, 16  # columns; a line so fits into 80


class Batch(NamedTuple):
    """
    Predictions of one batch.

    Attributes:
        names: names of the images.
        labels: class numbers, int64 `[B]`; `UNKNOWN` for an image that is not answered. Of a network of several classes
            an image, 1 for each class that an image is given and 0 for all others, uint8 `[B, num_labels]`.
        probabilities: float32 `[B, num_labels]`.
        embeddings: float32 `[B, hidden_sizes[-1]]`; None where nobody asked for them.
    """

    names: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    embeddings: np.ndarray | None = None


Write = Callable[[Batch], None]
"""Writes the rows of a batch."""


def name_of(label: int, label_names: Sequence[str]) -> str:
    """Name of a class by its number; `UNKNOWN_NAME` for `UNKNOWN`."""
    return UNKNOWN_NAME if label == UNKNOWN else label_names[label]


def plain(label: np.ndarray) -> int | tuple[int, ...]:
    """The class of an element of `Batch.labels`, or its classes, as whole numbers of Python's."""
    return int(label) if label.ndim == 0 else tuple(np.flatnonzero(label).tolist())


def named(label: int | tuple[int, ...], label_names: Sequence[str]) -> str | tuple[str, ...]:
    """The name of a class by its number, or the names of several."""
    if isinstance(label, tuple):
        return tuple(label_names[each] for each in label)
    return name_of(label, label_names)


def _cell(label: int | tuple[int, ...], label_names: Sequence[str], labels: str) -> str:
    """What the CSV has for a class, by `labels`; of several classes all of them with `|` between, maybe none."""
    shown = named(label, label_names) if labels == "names" else label
    return "|".join(map(str, shown)) if isinstance(shown, tuple) else str(shown)


@contextmanager
def open_table(
    path: Path, label_names: list[str], columns: Sequence[str], labels: str, probabilities: bool
) -> Iterator[Write]:
    """
    A CSV that takes the place of `path` when it is complete.

    Args:
        columns: headings of the image's name and of the class.
        labels: what stands for a class, `"numbers"` or `"names"`.
        probabilities: whether there is a column for each class.

    Raises:
        FolderError: as `open_output`.
    """
    with open_output(path) as file:
        table = TableWriter(file)
        table.write([*columns, *(label_names if probabilities else [])])

        def write(batch: Batch) -> None:
            for name, label, shares in zip(batch.names, batch.labels, batch.probabilities, strict=True):
                numbers = [f"{share:.6f}" for share in shares] if probabilities else []
                table.write([name, _cell(plain(label), label_names, labels), *numbers])

        yield write


def check_embeddings_file(flag: str, path: Path) -> None:
    """
    Checks, before any work is done, that `path` can become a file that `open_embeddings` writes.

    Raises:
        FolderError: `path` is a folder, a pipe or a device, or its parent does not exist or is no folder.
    """
    check_output_file(flag, path, "embeddings.parquet")
    if is_standard_output(path) or (path.exists() and not path.is_file()):
        raise FolderError(f"{flag} {path} is no file, where Parquet has to be one: name a file.")


@contextmanager
def open_embeddings(path: Path, label_names: list[str], size: int, task: Task) -> Iterator[Write]:
    """
    A Parquet file of embeddings that takes the place of `path` when it is complete.

    Its columns are `name`, `label` (int64), `label_name`, `probability` (float32, the largest), and `embedding`, a list
    of `size` float32. Where an image may be of several classes, `label` and `label_name` are lists. No more than a row
    group is held in memory.

    Raises:
        FolderError: as `replacing`.
    """
    of_label, of_name = pyarrow.int64(), pyarrow.string()
    if task.is_multi_label:
        of_label, of_name = pyarrow.list_(of_label), pyarrow.list_(of_name)
    schema = pyarrow.schema(
        {
            "name": pyarrow.string(),
            "label": of_label,
            "label_name": of_name,
            "probability": pyarrow.float32(),
            "embedding": pyarrow.list_(pyarrow.float32(), size),
        }
    )
    with replacing(path) as unfinished, pyarrow.parquet.ParquetWriter(unfinished, schema) as file:
        waiting: list[pyarrow.RecordBatch] = []

        def write_group() -> None:
            file.write_table(pyarrow.Table.from_batches(waiting, schema))
            waiting.clear()

        def write(batch: Batch) -> None:
            assert batch.embeddings is not None  # `open_embeddings` is for predictions that have them
            values = pyarrow.array(batch.embeddings.reshape(-1))
            labels = [plain(label) for label in batch.labels]
            names = [named(label, label_names) for label in labels]
            best = batch.probabilities.max(axis=1)
            embeddings = pyarrow.FixedSizeListArray.from_arrays(values, size)
            rows = [
                pyarrow.array(batch.names), pyarrow.array(labels, of_label), pyarrow.array(names, of_name),
                pyarrow.array(best),
            ]  # fmt: skip
            waiting.append(pyarrow.RecordBatch.from_arrays([*rows, embeddings], schema=schema))
            if sum(map(len, waiting)) >= _ROWS_IN_A_GROUP:
                write_group()

        yield write
        if waiting:
            write_group()


class TerminalTable:
    """
    A table for people, of `MOST_ROWS` rows at most: file, class, probability, and the next two classes.

    Where an image may be of several classes: file, its classes, each with its probability, and the next class.
    """

    def __init__(self, label_names: list[str], task: Task):
        self._label_names = label_names
        self._heading = ("file", "classes", "next") if task.is_multi_label else ("file", "class", _SHARE, "next")
        self._rows: list[tuple[str, ...]] = []

    def write(self, batch: Batch) -> None:
        """Takes the rows of a batch."""
        for name, label, shares in zip(batch.names, batch.labels, batch.probabilities, strict=True):
            order = np.argsort(-shares, kind="stable").tolist()
            if label.ndim:
                given = self._with_shares([each for each in order if label[each]], shares)
                others = self._with_shares([each for each in order if not label[each]][:1], shares)
                self._rows.append((_visible(name), given or NO_CLASS, others))
                continue
            # By probability; the class itself, which has the largest logit, is left out.
            following = self._with_shares([each for each in order if each != label][:2], shares)
            called = _shortened(_visible(name_of(label, self._label_names)), _NAME_WIDTH)
            self._rows.append((_visible(name), called, f"{shares.max():.1%}", following))

    def _with_shares(self, labels: list[int], shares: np.ndarray) -> str:
        """Names of classes, each with its probability."""
        return ", ".join(
            f"{_shortened(_visible(self._label_names[each]), _NEXT_WIDTH)} {shares[each]:.1%}" for each in labels
        )

    def __len__(self) -> int:
        return len(self._rows)

    def lines(self) -> list[str]:
        """The lines of the table, its heading first, as wide as the terminal, or of 80 columns where there is none."""
        rows = [self._heading, *self._rows]
        widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
        room = shutil.get_terminal_size().columns - sum(widths[1:]) - 2 * (len(widths) - 1)
        widths[0] = min(widths[0], max(room, _LEAST_FILE_WIDTH))
        lines = []
        for name, *others in rows:
            cells = [_shortened(name, widths[0], from_left=True), *others]
            aligned = [
                cell.rjust(width) if title == _SHARE else _padded(cell, width)
                for title, cell, width in zip(self._heading, cells, widths, strict=True)
            ]
            lines.append("  ".join(aligned).rstrip())
        return lines


def _visible(text: str) -> str:
    """The text with escapes in the place of what a terminal would obey."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _width(text: str) -> int:
    """Columns that a terminal needs for a text."""
    return sum(0 if unicodedata.combining(each) else 1 + (unicodedata.east_asian_width(each) in "WF") for each in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _shortened(text: str, width: int, *, from_left: bool = False) -> str:
    """The text, with an ellipsis in the place of its end, or of its beginning, where it is wider."""
    if _width(text) <= width:
        return text
    while _width(text) > width - 1:
        text = text[1:] if from_left else text[:-1]
    return f"…{text}" if from_left else f"{text}…"
