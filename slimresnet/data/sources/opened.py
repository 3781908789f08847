"""A dataset by its files, of which no picture is read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datasets import IterableDataset

from slimresnet.data.sources.folders import Folder
from slimresnet.data.sources.layouts import PICTURES, Layout
from slimresnet.data.sources.spellings import spelt_split
from slimresnet.recipe.settings import ALL_SPLITS

LISTS = "lists"
"""The kind of a dataset whose rows name pictures in CSV, JSON or Parquet."""


@dataclass(frozen=True)
class OpenedDataset:
    """
    A dataset by its files.

    Attributes:
        kind: `PICTURES`, `LISTS`, or the builder of `datasets` that reads the files.
        files: the files of each split, by its canonical name; empty where a builder has no files.
        stream: opens the rows of a split of that name.
        root: the folder that its rows may name files in; None for a dataset on the Hub.
        folder, layout: what was found there; None on the Hub, and where a card in the folder says which files it has.
    """

    kind: str
    files: dict[str, list[str]]
    stream: Callable[[str], IterableDataset]
    root: Path | None = None
    folder: Folder | None = None
    layout: Layout | None = None

    def own_name(self, split: str) -> str:
        """The canonical name of a split in any spelling; the name itself where the dataset has one of that name."""
        return split if split in self.files or not self.files else spelt_split(split) or split


def parts_of_split(split: str, of_splits: dict[str, list[str]]) -> list[str]:
    """The splits that a sum of splits, such as `train+test` or `all`, is made of."""
    return list(of_splits) if split == ALL_SPLITS else [part.strip() for part in split.split("+")]


def names_of_places(dataset: OpenedDataset) -> dict[str | None, str]:
    """The names of picture files in the dataset's folder by their place; empty where its rows hold the images."""
    if dataset.folder is None or dataset.kind not in (PICTURES, LISTS):
        return {}
    root = f"{dataset.folder.root.absolute().as_posix()}/"
    names = {place: name for name, place in dataset.folder.members.items()}
    return {place: names.get(place, place.removeprefix(root)) for files in dataset.files.values() for place in files}
