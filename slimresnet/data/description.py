"""What was understood of the data, for people: a run prints it before it trains."""

from collections.abc import Iterator, Sequence

import numpy as np

from slimresnet.data.opening import TrainingData
from slimresnet.data.sources.dataset import describe_dataset
from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.data.sources.source import ImageSplit, PictureHeaders
from slimresnet.data.splits import AUTO, Size, first_copies_of
from slimresnet.errors import printable
from slimresnet.recipe.settings import TRAIN_SPLIT, VALIDATION_SPLIT, Recipe

_MOST_CLASSES = 20  # that are named, each with its count
_MOST_NAMES = 5  # of classes that lack something
_SHARES = {0.1: "a tenth", 0.2: "a fifth"}


def describe_data(recipe: Recipe, data: TrainingData, pixel_format: PixelFormat) -> list[str]:
    """
    Lines on the data of a run, each with its subject before it: four, and one or two on what is out of order.

    Args:
        pixel_format: of what the network sees of a picture.
    """
    lines = [
        f"data     {describe_dataset(recipe.dataset_name)}: {len(data.train_rows):,} images to train on, "
        f"{len(data.validation_rows):,} for validation, {len(data.test_rows):,} to test on",
        f"classes  {_classes(data)}",
        f"splits   validation: {_validation(recipe, data)}; test: {_test(recipe, data)}",
    ]
    if data.train.headers is not None and len(data.train.headers.sizes):
        lines.append(f"pictures {_pictures(data.train.headers, pixel_format)}")
    for subject, sentences in (("copies  ", _copies(data)), ("missing ", _missing(data))):
        if said := "; ".join(sentences):
            lines.append(f"{subject} {said}")
    return lines


def fitting_of_pictures(pixel_format: PixelFormat) -> str:
    """What is done to a picture that is not square."""
    done = {"squash": "squashed", "crop": "cropped", "pad": "padded"}[pixel_format.resize_mode]
    return f"{done} to {pixel_format.image_size}×{pixel_format.image_size}"


def _classes(data: TrainingData) -> str:
    """The classes, each with its number of training images; of many the largest and the smallest."""
    names = _names(data)
    labels = data.train.labels[data.train_rows]
    counts = data.train.task.count(labels, len(names)).tolist()
    several = _several(labels) if data.train.task.is_multi_label else ""
    if len(names) <= _MOST_CLASSES:
        return ", ".join(f"{name} ({count:,})" for name, count in zip(names, counts, strict=True)) + several
    least, most = counts.index(min(counts)), counts.index(max(counts))
    return f"{len(names):,}, from {names[least]} ({counts[least]:,}) to {names[most]} ({counts[most]:,}){several}"


def _several(labels: np.ndarray) -> str:
    """How many classes an image has, of labels uint8 `[N, num_labels]`."""
    each = labels.sum(axis=1, dtype=np.int64)
    without = f", {int((each == 0).sum()):,} images with none" if (each == 0).any() else ""
    return f"; several an image, {each.mean():.3g} in the mean, {each.max()} at most{without}"


def _validation(recipe: Recipe, data: TrainingData) -> str:
    if data.validates_on_own:
        return f"the data's own split {VALIDATION_SPLIT}"
    spare = f" (the data's own split {data.spare_split} is not used)" if data.spare_split else ""
    num_cut = len(data.divided.validation)
    return (_cut(recipe, recipe.validation_size, num_cut, "validation_size") if num_cut else "none") + spare


def _test(recipe: Recipe, data: TrainingData) -> str:
    if data.cuts_test:
        return _cut(recipe, recipe.test_size, len(data.divided.test), "test_size")
    return f"the data's own split {recipe.test_split}"


def _cut(recipe: Recipe, asked: Size, num_cut: int, setting: str) -> str:
    """How many images are cut from the training split, what share that is where a share was asked for, and by what."""
    words = [f"{num_cut:,} cut from {TRAIN_SPLIT}"]
    if isinstance(asked, float):
        words.append(_SHARES.get(asked, f"{asked:.3g} of it"))
    elif asked == "auto" and num_cut < AUTO[setting].most:
        words.append(_SHARES[AUTO[setting].share])
    return ", ".join([*words, f"seed {recipe.seed}"])


def _pictures(headers: PictureHeaders, pixel_format: PixelFormat) -> str:
    """The sizes of pictures, what becomes of them, and whether they have colours."""
    sizes = headers.sizes[np.argsort(headers.sizes.prod(axis=1), kind="stable")]
    smallest, median, largest = (f"{width:,}×{height:,}" for width, height in sizes[[0, len(sizes) // 2, -1]].tolist())
    words = [f"{largest} pixels" if smallest == largest else f"{smallest} to {largest} pixels, median {median}"]
    not_square, grey = float(np.mean(sizes[:, 0] != sizes[:, 1])), float(headers.are_grey.mean())
    if not_square:
        words.append(f"{_percent(not_square)} not square: {fitting_of_pictures(pixel_format)}")
    elif (sizes != pixel_format.image_size).any():
        words.append(f"resized to {pixel_format.image_size}×{pixel_format.image_size}")
    words.append(f"{_percent(grey)} grey" if grey else "in colour")
    return ", ".join(words)


def _copies(data: TrainingData) -> Iterator[str]:
    """Sentences on pictures that are in the data more than once."""
    rows = data.divided
    if rows.num_in_others:
        others = {"test": data.test, "validation": data.validation}
        names = " or ".join(name for name, split in others.items() if split is not data.train)
        yield f"training images left out, since their pictures are in {names} too: {rows.num_in_others:,}"
    if rows.num_validation_in_test:
        yield f"validation images left out, since their pictures are in test too: {rows.num_validation_in_test:,}"
    if rows.num_copies:
        yield f"images of {TRAIN_SPLIT} that repeat another one, and are on its side: {rows.num_copies:,}"
    if conflict := _two_labels(data.train, _names(data)):
        yield conflict


def _two_labels(split: ImageSplit, names: Sequence[str]) -> str | None:
    """How many rows hold an earlier row's picture under another label, and the first of them."""
    if split.contents is None:
        return None
    firsts = first_copies_of(split.contents)
    differs = split.labels != split.labels[firsts]
    others = np.flatnonzero(differs.reshape(len(differs), -1).any(axis=1))
    if not len(others):
        return None
    row, first = others[0], firsts[others[0]]

    def called(row: int) -> str:
        label = split.labels[row]
        classes = [int(label)] if label.ndim == 0 else np.flatnonzero(label).tolist()
        return "|".join(names[each] for each in classes) or "none"

    return (
        f"images of {TRAIN_SPLIT} with another label than an earlier copy: {len(others):,}, such as row {row} "
        f"({called(row)}) and row {first} ({called(first)})"
    )


def _missing(data: TrainingData) -> Iterator[str]:
    """Sentences on classes without an image to train on, to validate on or to test on."""
    purposes = {
        "to train on": data.train.labels[data.train_rows],
        "for validation": data.validation.labels[data.validation_rows],
        "to test on": data.test.labels[data.test_rows],
    }
    names = _names(data)
    for purpose, labels in purposes.items():
        absent = np.flatnonzero(data.train.task.count(labels, len(names)) == 0).tolist()
        if len(labels) and absent:
            more = f" and {len(absent) - _MOST_NAMES:,} more" if len(absent) > _MOST_NAMES else ""
            yield f"no image {purpose}: {', '.join(names[label] for label in absent[:_MOST_NAMES])}{more}"


def _names(data: TrainingData) -> list[str]:
    """The names of the classes, each on one line."""
    return [" ".join(printable(name).split()) for name in data.train.label_names]


def _percent(share: float) -> str:
    """A share above 0 in words; only all is 100 %."""
    return "all" if share == 1 else f"{min(max(share, 0.01), 0.99):.0%}"
