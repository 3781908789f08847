"""The parser that all command lines share. It takes whole flag names, and says which one an unknown flag may be."""

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from typing import Any


class Parser(argparse.ArgumentParser):
    """
    Takes flags by their whole names, with dashes in the place of underscores too.

    --help is answered whatever else is wrong. An unknown flag is named before any other mistake: it may be a required
    flag, mistyped.

    Args:
        synonyms: what people call a flag, by the name that it has here, both without the leading dashes. Entries whose
            flag this parser does not have are passed over.
    """

    def __init__(self, *, synonyms: Mapping[str, str] | None = None, **kwargs: Any):
        super().__init__(allow_abbrev=False, **kwargs)
        self._synonyms = dict(synonyms or {})

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = self._with_underscores(sys.argv[1:] if args is None else args)
        before_end = words[: _end_of_flags(words)]
        if "--help" in before_end or "-h" in before_end:
            self.print_help()
            self.exit()
        for word in before_end:
            if _is_flag(word) and _name(word) not in self._option_string_actions:
                self.error(self._explain_unknown(_name(word)))
        parsed, rest = self.parse_known_args(words, namespace)
        if rest:
            self.error(f"unexpected argument {rest[0]}: --help lists what there is")
        return parsed

    def _with_underscores(self, words: Sequence[str]) -> list[str]:
        """The words, with flags of dashes spelt as they are declared; what follows a bare `--` stays as it is."""
        end = _end_of_flags(words)
        return [*map(self._as_declared, words[:end]), *words[end:]]

    def _as_declared(self, word: str) -> str:
        name, equals, value = word.partition("=")
        declared = "--" + name[2:].replace("-", "_")
        return declared + equals + value if _is_flag(word) and declared in self._option_string_actions else word

    def _explain_unknown(self, flag: str) -> str:
        flags = {each[2:]: each for each in self._option_string_actions if each.startswith("--")}
        synonyms = {name: f"--{meant}" for name, meant in self._synonyms.items() if meant in flags}
        known = synonyms | flags
        near = difflib.get_close_matches(flag[2:].replace("-", "_"), known, n=1)
        return f"unknown flag {flag}: " + (f"did you mean {known[near[0]]}?" if near else "--help lists what there is")


def _end_of_flags(words: Sequence[str]) -> int:
    """Index of the bare `--` behind which every word is a value; the number of words where there is none."""
    return list(words).index("--") if "--" in words else len(words)


def _is_flag(word: str) -> bool:
    """Whether argparse takes a word for a flag of the long form: a name with a space in it is a value."""
    return word.startswith("--") and " " not in _name(word)


def _name(word: str) -> str:
    return word.partition("=")[0]
