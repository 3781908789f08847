"""Which rows: the cut into train and validation, and subsets."""

import numpy as np
import pytest

from slimresnet.data.sources.source import DatasetError
from slimresnet.data.splits import random_subset, stratified_split


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


@pytest.mark.parametrize("size", [1, 1000, 2000])
def test_a_split_that_cannot_be_cut_evenly(size):
    with pytest.raises(DatasetError, match=f"--validation_size {size}"):
        stratified_split(np.arange(1000) % 10, size, seed=0)


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
