"""A table as CSV that a spreadsheet opens as what it is: no name in it is a formula."""

import csv
import re
from collections.abc import Iterable
from typing import TextIO

# What makes a cell a formula where it stands first, in full width too, behind spaces too (OWASP, "CSV Injection").
_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]|[\t\r\n]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_SEPARATORS = re.compile(r"[;\t\r\n\v\f]")  # of cells and lines, in other countries and programs


class TableWriter:
    """
    Writes rows, cells of which may be anybody's text.

    An apostrophe is put before a cell that would be a formula, and before one that begins with an apostrophe: without
    its first apostrophe, if it has one, every cell is as it was given. Other cells, and numbers of either sign, stay
    as they are.
    """

    def __init__(self, file: TextIO):
        self._plain = csv.writer(file, lineterminator="\n")
        self._quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def write(self, cells: Iterable[str]) -> None:
        """Writes a row; all of it in quotes where a cell holds what separates cells elsewhere."""
        row = [_harmless(cell) for cell in cells]
        writer = self._quoted if any(map(_SEPARATORS.search, row)) else self._plain
        writer.writerow(row)


def _harmless(cell: str) -> str:
    if cell.startswith("'") or (_FORMULA.match(cell) and not _NUMBER.fullmatch(cell)):
        return f"'{cell}"
    return cell
