"""What comes from data, as text in a model card: no name of a class is Markdown, HTML or the end of a block."""

import json
import re

# Of CommonMark, of its tables, mathematics and emoji, and of addresses that become links by themselves.
_SPECIAL = re.compile(r"[\\`*_\[\]#|~$:@]")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_BREAKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def as_text(value: object) -> str:
    """Whatever it is, in a line or a cell of a table, shown as it is; breaks of lines become spaces."""
    line = _BREAKS.sub(" ", str(value)).strip()
    escaped = _SPECIAL.sub(r"\\\g<0>", "".join(_ENTITIES.get(character, character) for character in line))
    return escaped.replace("www.", r"www\.")


def as_code(value: object) -> str:
    """The same in the type of code."""
    line = _BREAKS.sub(" ", str(value)).strip().replace("|", r"\|")  # which a table asks for in code too
    marks = _fence(line, 1)
    return f"{marks} {line} {marks}" if line.startswith("`") or line.endswith("`") else f"{marks}{line}{marks}"


def as_literal(value: str) -> str:
    """The same as a string in Python and JavaScript, in one line."""
    return json.dumps(value, ensure_ascii=False)


def as_block(text: str, language: str) -> str:
    """Lines of code."""
    marks = _fence(text, 3)
    return f"{marks}{language}\n{text.rstrip()}\n{marks}"


def _fence(text: str, shortest: int) -> str:
    """More backticks than stand together in a text."""
    return "`" * max(shortest, 1 + max(map(len, re.findall("`+", text)), default=0))
