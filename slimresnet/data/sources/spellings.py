"""The names of splits, in the spellings that people give to folders and files."""

import re
from collections.abc import Collection

from datasets.data_files import SPLIT_KEYWORDS

_SPLITS = {word: str(split) for split, words in SPLIT_KEYWORDS.items() for word in words}
CANONICAL = (*dict.fromkeys(_SPLITS.values()),)  # train, validation, test
_WORDS = "|".join(sorted(_SPLITS, key=len, reverse=True))
_AT_AN_END = re.compile(rf"({_WORDS})(?![a-z]).*|(?:.*[^a-z])?({_WORDS})[^a-z]*", re.DOTALL)
_SHARD = re.compile(r"(.*?)-\d{5,}-of-\d{5,}(-.*)?")


def spelt_split(name: str) -> str | None:
    """The split, such as `validation`, that a whole name spells, such as `Val`; None where it spells none."""
    return _SPLITS.get(name.lower())


def split_at_an_end(name: str) -> str | None:
    """The split that the first or last word of a name spells, such as `train` in `train_1` or `birds-Train2017`."""
    found = _AT_AN_END.fullmatch(name.lower())
    return _SPLITS[found[1] or found[2]] if found else None


def without_split(name: str) -> str:
    """A name in small letters without the word that spells its split, such as `_images` of `Train_images`."""
    lower = name.lower()
    found = _AT_AN_END.fullmatch(lower)
    if not found:
        return lower
    start, end = found.span(1 if found[1] else 2)
    return lower[:start] + lower[end:]


def split_of_shard(name: str) -> str | None:
    """What stands before the number of a shard, as `fold1` in `fold1-00000-of-00002`; None where there is no number."""
    found = _SHARD.fullmatch(name)
    return found[1] if found else None


def canonical_names(own_names: Collection[str]) -> dict[str, str]:
    """
    The splits of a dataset by their canonical names: train, validation and test; all other names as they are.

    Where two names spell one split, both stay as they are.
    """
    spelt = [spelt_split(name) or name for name in own_names]
    return {split if spelt.count(split) == 1 else name: name for name, split in zip(own_names, spelt, strict=True)}


def in_order(splits: Collection[str]) -> list[str]:
    """Names of splits, train, validation and test first."""
    return sorted(splits, key=lambda split: (CANONICAL.index(split) if split in CANONICAL else len(CANONICAL), split))
