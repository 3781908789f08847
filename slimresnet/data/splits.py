"""The cuts of the training images into training, validation and test, and the subsets for quick runs."""

from typing import Literal, NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split

from slimresnet.data.randomness import sample_order
from slimresnet.data.sources.source import DatasetError

Size = int | float | Literal["auto"]
"""A number of images, a share of them between 0 and 1, or what `AUTO` says."""


class Auto(NamedTuple):
    """What `auto` cuts: a share of the images, up to a number of them."""

    share: float
    most: int


AUTO = {"test_size": Auto(share=0.2, most=10_000), "validation_size": Auto(share=0.1, most=5_000)}
"""By the setting that says how much is cut."""


def stratified_split(
    labels: np.ndarray, size: Size, seed: int, *, contents: np.ndarray | None = None, setting: str = "validation_size"
) -> tuple[np.ndarray, np.ndarray]:
    """
    Cuts rows in two so that each class has its share in both, as far as it has rows enough.

    Each class keeps a row in the first part. Rows of one picture stay together: all go where the first of them is drawn
    to. Where pictures have copies, the share of the pictures is drawn, and about `size` rows are cut off.

    Where a row may be of several classes, each set of classes that two pictures have counts as a class; the pictures of
    all other sets count as one class together. Each class keeps a row in the first part all the same.

    Args:
        labels: as `ImageSplit` has them.
        size: rows that are cut off; 0 for none. A share is of one row at least. `"auto"` cuts fewer rows, or none,
            where each class is to keep one.
        seed: the cut is a function of `seed`, `labels`, and which `contents` are equal.
        contents: uint64 `[num_rows]`, equal where two rows hold one picture; None where each row is a picture of its
            own.
        setting: one of `AUTO`, which gave `size`.

    Returns:
        Row numbers of what is kept and of what is cut off, int64, ascending.

    Raises:
        DatasetError: there are not enough rows.
    """
    rows = np.arange(len(labels))
    first_copies = rows if contents is None else first_copies_of(contents)
    pictures = np.flatnonzero(first_copies == rows)
    classes, labels = labels, _strata(labels, pictures)
    spare = len(pictures) - len(np.unique(labels[pictures]))
    wanted = _pictures_to_cut(size, len(rows), len(pictures), AUTO[setting])
    if size == "auto":
        wanted = min(wanted, spare)
    if wanted > spare:
        raise DatasetError(
            f"--{setting} {size} cannot be cut from {len(rows)} training images, of which each class has to keep one: "
            "choose a smaller size, or give more images."
        )
    if wanted == 0:
        return rows, rows[:0]
    is_cut = np.zeros(len(rows), dtype=bool)
    is_cut[pictures[_draw(labels[pictures], wanted, seed)]] = True
    is_cut = is_cut[first_copies]
    for label in np.setdiff1d(labels, labels[~is_cut]):  # a class that has copies of other classes' pictures alone
        is_cut[first_copies == first_copies[labels == label][0]] = False
    for of_class in classes.T if classes.ndim == 2 else ():  # a class that is in the pictures of rare sets alone
        if of_class[is_cut].any() and not of_class[~is_cut].any():
            is_cut[first_copies == first_copies[of_class > 0][0]] = False
    return rows[~is_cut], rows[is_cut]


def first_copies_of(contents: np.ndarray) -> np.ndarray:
    """For each row the first row that holds the same picture, int64 `[num_rows]`; `contents` as `ImageSplit` has it."""
    _, firsts, pictures = np.unique(contents, return_index=True, return_inverse=True)
    return firsts[pictures]


def _strata(labels: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """What a cut is even by, int64 `[num_rows]`: class numbers, or sets of classes, of which rare ones count as one."""
    if labels.ndim == 1:
        return labels
    _, sets = np.unique(labels, axis=0, return_inverse=True)
    is_rare = np.bincount(sets[pictures], minlength=sets.max(initial=-1) + 1) < 2
    return np.where(is_rare[sets], 0, sets + 1)


def _pictures_to_cut(size: Size, num_rows: int, num_pictures: int, auto: Auto) -> int:
    if isinstance(size, int):
        num_cut = size
    else:
        share, most = auto if isinstance(size, str) else (size, num_rows)
        num_cut = min(most, max(1, round(share * num_rows)))
    return max(1, round(num_cut * num_pictures / num_rows)) if num_cut else 0


def _draw(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Indices of `size` labels, evenly by class; one of each class is not among them."""
    try:
        kept, drawn = train_test_split(np.arange(len(labels)), test_size=size, stratify=labels, random_state=seed)
        if len(np.unique(labels[kept])) == len(np.unique(labels)):
            return drawn
    except ValueError:  # a class of one image, or fewer images than classes on a side
        pass
    # Each class in an order of its own, as dots that are evenly spread between 0 and 1: the lowest ones are drawn.
    order = sample_order(seed, 0, len(labels), len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    sizes = np.bincount(labels)
    place = np.empty(len(labels), dtype=np.int64)
    place[by_class] = np.arange(len(labels)) - (np.cumsum(sizes) - sizes)[labels[by_class]]
    dots = (place + 0.5) / sizes[labels]
    free = order[place[order] < sizes[labels[order]] - 1]
    return free[np.argsort(dots[free], kind="stable")][:size]


def random_subset(rows: np.ndarray, size: int | None, seed: int) -> np.ndarray:
    """`size` of the rows, drawn by seed, ascending; all of them where `size` is None or larger."""
    if size is None or size >= len(rows):
        return rows
    return np.sort(rows[sample_order(seed, 0, len(rows), len(rows))[:size]])
