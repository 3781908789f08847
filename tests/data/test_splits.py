"""Which rows: the cuts into train, validation and test, and subsets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from slimresnet.data.sources.source import DatasetError
from slimresnet.data.splits import AUTO, first_copies_of, random_subset, stratified_split

SETTINGS = st.sampled_from([*AUTO])
SEEDS = st.integers(0, 2**32 - 1)
# Classes of any sizes, in any order.
LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(np.array)


def test_stratified_split():
    labels = np.repeat([0, 1, 2], [500, 300, 200])[np.random.default_rng(0).permutation(1000)]
    train, validation = stratified_split(labels, 100, seed=1)
    assert sorted([*train, *validation]) == list(range(1000))
    assert np.bincount(labels[validation]).tolist() == [50, 30, 20]
    assert (np.diff(train) > 0).all() and (np.diff(validation) > 0).all()
    assert (stratified_split(labels, 100, seed=1)[1] == validation).all()
    assert (stratified_split(labels, 100, seed=2)[1] != validation).any()
    whole, none = stratified_split(labels, 0, seed=1)
    assert len(whole) == 1000 and len(none) == 0


@pytest.mark.parametrize("size", [991, 1000, 2000, 0.999])
def test_a_split_that_cannot_be_cut_evenly(size):
    with pytest.raises(DatasetError, match=f"--validation_size {size}"):
        stratified_split(np.arange(1000) % 10, size, seed=0)


@pytest.mark.parametrize("size", [1000, 5000])
def test_a_draw_of_a_number_is_that_of_earlier_versions(size):
    """Runs of years ago are scored again, and gone on with; `auto` is 5,000 of CIFAR-10."""
    labels = np.random.default_rng(0).integers(0, 10, 50_000)
    kept, drawn = train_test_split(np.arange(50_000), test_size=size, stratify=labels, random_state=42)
    asked = [size, size / 50_000] + ["auto"] * (size == 5000)
    for each in asked:
        for contents in (None, np.arange(50_000, dtype=np.uint64)[::-1]):
            train, validation = stratified_split(labels, each, 42, contents=contents)
            assert (train == np.sort(kept)).all() and (validation == np.sort(drawn)).all()


@pytest.mark.parametrize(
    ("setting", "num_rows", "num_cut"),
    [
        ("validation_size", 60, 6),
        ("validation_size", 5, 1),
        ("validation_size", 60_000, 5_000),
        ("test_size", 60, 12),
        ("test_size", 60_000, 10_000),
    ],
)
def test_auto_is_a_share_up_to_a_number(setting, num_rows, num_cut):
    assert len(stratified_split(np.arange(num_rows) % 2, "auto", 0, setting=setting)[1]) == num_cut


def test_auto_cuts_nothing_where_each_class_has_one_image_and_a_number_says_so():
    for setting in AUTO:
        train, cut = stratified_split(np.arange(7), "auto", 0, setting=setting)
        assert len(train) == 7 and len(cut) == 0
        with pytest.raises(DatasetError, match=f"--{setting} 1 cannot be cut from 7 .* each class has to keep one"):
            stratified_split(np.arange(7), 1, 0, setting=setting)


@given(LABELS, st.one_of(st.just("auto"), st.floats(0.01, 0.9), st.integers(0, 60)), SEEDS, SETTINGS)
def test_any_classes_can_be_cut_and_each_keeps_an_image(labels, size, seed, setting):
    spare = len(labels) - len(np.unique(labels))
    try:
        kept, cut = stratified_split(labels, size, seed, setting=setting)
    except DatasetError:
        assert size != "auto" and (size if isinstance(size, int) else max(1, round(size * len(labels)))) > spare
        return
    assert sorted([*kept, *cut]) == list(range(len(labels)))
    assert (np.diff(kept) > 0).all() and (np.diff(cut) > 0).all()
    assert set(labels[kept]) == set(labels)
    if isinstance(size, int):
        assert len(cut) == size
    share = len(cut) / len(labels)
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        assert abs((labels[cut] == label).sum() - share * count) < 3
    again = stratified_split(labels, size, seed, setting=setting)
    assert (again[0] == kept).all() and (again[1] == cut).all()


@given(st.data(), LABELS, st.one_of(st.just("auto"), st.floats(0.01, 0.5), st.integers(1, 20)), SEEDS)
def test_a_picture_is_on_one_side_and_its_first_copy_decides_which(data, labels, size, seed):
    """Whatever labels its copies have."""
    contents = np.array(data.draw(st.lists(st.integers(0, 40), min_size=len(labels), max_size=len(labels))), np.uint64)
    try:
        kept, cut = stratified_split(labels, size, seed, contents=contents)
    except DatasetError:
        return
    assert sorted([*kept, *cut]) == list(range(len(labels)))
    assert not set(contents[kept]) & set(contents[cut])
    assert set(labels[kept]) == set(labels)
    # Other digests of the same pictures are the same pictures.
    renamed = np.random.default_rng(seed).permutation(41).astype(np.uint64)[contents.astype(int)]
    assert (stratified_split(labels, size, seed, contents=renamed)[1] == cut).all()


def test_of_pictures_in_many_copies_the_share_that_was_asked_for_is_cut():
    contents, labels = np.repeat(np.arange(100, dtype=np.uint64), 10), np.repeat([0, 1], 500)
    for size in (100, 0.1, "auto"):
        kept, cut = stratified_split(labels, size, 3, contents=contents)
        assert np.bincount(labels[cut]).tolist() == [50, 50] and len(np.unique(contents[cut])) == 10
        assert not set(contents[kept]) & set(contents[cut])


def test_first_copies():
    contents = np.array([9, 3, 9, 1, 3, 9], dtype=np.uint64)
    assert first_copies_of(contents).tolist() == [0, 1, 0, 3, 1, 0]


def test_a_cut_keeps_every_classs_share_whatever_the_order():
    """Sorted by class, as many folders are: neither the first rows nor any others of a few classes alone."""
    labels = np.repeat([3, 0, 2], [60, 30, 10])
    for seed in range(5):
        train, validation = stratified_split(labels, 20, seed)
        assert np.bincount(labels[validation]).tolist() == [6, 0, 2, 12]
        assert np.bincount(labels[train]).tolist() == [24, 0, 8, 48]
        assert not set(train) & set(validation)


def test_a_subset_may_be_any_rows():
    rows = np.arange(100, 120)
    drawn = np.concatenate([random_subset(rows, 5, seed) for seed in range(400)])
    counts = np.bincount(drawn - 100, minlength=20)
    assert counts.min() > 60 and counts.max() < 140  # 100 of each: four standard deviations


def test_random_subset():
    rows = np.arange(0, 100, 2)
    subset = random_subset(rows, 10, seed=0)
    assert len(subset) == 10 and set(subset) <= set(rows) and (np.diff(subset) > 0).all()
    assert (random_subset(rows, 10, seed=1) != subset).any()
    # Figures of subsets are compared over years: the same seed draws the same rows.
    assert random_subset(np.arange(20), 5, seed=42).tolist() == [1, 2, 7, 14, 16]
    assert random_subset(rows, None, seed=0) is rows and random_subset(rows, 50, seed=0) is rows
