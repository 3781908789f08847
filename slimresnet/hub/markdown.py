"""Markdown that shows text from data as it is: no name of a class is markup, HTML or the end of a block."""

import json
import re

# Special characters of CommonMark, of tables, mathematics and emoji, and of addresses that become links.
_SPECIAL = re.compile(r"[\\`*_\[\]#|~$:@]")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_BREAKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def as_text(value: object) -> str:
    """A value as text, for a line or a cell of a table. Line breaks become spaces."""
    line = _BREAKS.sub(" ", str(value)).strip()
    escaped = _SPECIAL.sub(r"\\\g<0>", "".join(_ENTITIES.get(character, character) for character in line))
    return escaped.replace("www.", r"www\.")


def as_code(value: object) -> str:
    """A value as inline code, for a line or a cell of a table. Line breaks become spaces."""
    line = _BREAKS.sub(" ", str(value)).strip().replace("|", r"\|")  # a table needs the mark in code too
    marks = _fence(line, 1)
    return f"{marks} {line} {marks}" if line.startswith("`") or line.endswith("`") else f"{marks}{line}{marks}"


def as_literal(value: str) -> str:
    """A string literal of Python and of JavaScript, in one line."""
    return json.dumps(value, ensure_ascii=False)


def as_block(text: str, language: str) -> str:
    """Lines of code, as a fenced block."""
    marks = _fence(text, 3)
    return f"{marks}{language}\n{text.rstrip()}\n{marks}"


def _fence(text: str, shortest: int) -> str:
    """Backticks that enclose a text: more than stand together in it, and at least `shortest`."""
    return "`" * max(shortest, 1 + max(map(len, re.findall("`+", text)), default=0))
