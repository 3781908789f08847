"""Order and draws depend on (seed, epoch, position) and on nothing else."""

import numpy as np
import pytest

from slimresnet.data.randomness import Draws, balanced_order, sample_order

ORDER_OF_SEED_42 = [7, 2, 1, 4, 5, 9, 0, 8, 3, 6]
BALANCED_ORDER_OF_SEED_42 = [3, 1, 5, 4, 2, 5]
DRAWS_OF_SEED_42 = [[0.072228, 0.102328], [0.142382, 0.317686]]
WIDE_DRAWS_OF_SEED_42 = [
    [0.471047, 0.480323, 0.661046, 0.162638, 0.764315],
    [0.656869, 0.347653, 0.742757, 0.212115, 0.562929],
]
SAMPLES_OF_SEED_42 = [0.327077, 0.936932]


@pytest.mark.parametrize("window", [1, 7, 100, 1000, 5000])
def test_order_is_a_permutation_within_windows(window):
    order = sample_order(3, 5, 1000, window)
    assert sorted(order) == list(range(1000))
    assert (order // window == np.arange(1000) // window).all()


def test_the_order_of_nothing_is_empty():
    order = sample_order(3, 5, 0, 7)
    assert order.shape == (0,) and order.dtype == np.int64


def test_order_differs_by_seed_and_epoch_and_repeats():
    orders = {(seed, epoch): sample_order(seed, epoch, 100, 100).tolist() for seed in range(3) for epoch in range(3)}
    assert len({tuple(order) for order in orders.values()}) == 9
    assert sample_order(2, 1, 100, 100).tolist() == orders[2, 1]


def test_order_is_the_same_in_every_release():
    """Weights that were published must stay reproducible: a change here breaks every earlier run."""
    assert sample_order(42, 0, 10, 10).tolist() == ORDER_OF_SEED_42
    assert Draws(42, 0, 3, np.arange(2)).uniform("crop", 2).round(6).tolist() == DRAWS_OF_SEED_42
    assert Draws(42, 7, 3, np.arange(2)).uniform("random erasing", 5).round(6).tolist() == WIDE_DRAWS_OF_SEED_42
    rows = np.array([5, 49_999])
    assert Draws(42, 7, 3, rows).uniform_of_samples("alternating flip").round(6).tolist() == SAMPLES_OF_SEED_42


UNEVEN = np.repeat([4, 0, 2], [90, 7, 4])  # 101 samples; no class is called 1 or 3


def test_a_balanced_order_has_each_class_equally_often():
    for epoch in range(12):
        order = balanced_order(3, epoch, UNEVEN)
        assert len(order) == 101 and order.dtype == np.int64
        assert sorted(np.bincount(UNEVEN[order])) == [0, 0, 33, 34, 34]
    assert {int(np.bincount(UNEVEN[balanced_order(3, epoch, UNEVEN)]).argsort()[2]) for epoch in range(12)} == {0, 2, 4}


def test_a_balanced_order_shows_all_of_a_large_class_before_it_shows_one_again():
    """34 of its 90 samples an epoch; an odd one of each epoch may be left out."""
    seen = [order[UNEVEN[order] == 4] for order in (balanced_order(3, epoch, UNEVEN) for epoch in range(5))]
    counts = np.bincount(np.concatenate(seen), minlength=90)
    assert counts.sum() >= 5 * 33 and set(counts[:90]) <= {1, 2} and len(set(seen[0])) == len(seen[0])
    small = balanced_order(3, 0, UNEVEN)
    assert set(np.bincount(small[UNEVEN[small] == 2] - 97)) <= {8, 9}


def test_a_balanced_order_differs_by_seed_and_epoch_and_repeats():
    orders = {(seed, epoch): balanced_order(seed, epoch, UNEVEN).tolist() for seed in range(3) for epoch in range(3)}
    assert len({tuple(order) for order in orders.values()}) == 9
    assert balanced_order(2, 1, UNEVEN).tolist() == orders[2, 1]
    order = balanced_order(0, 0, UNEVEN)
    assert 5 < (UNEVEN[order][:33] == 0).sum() < 17  # classes are mixed all over the epoch
    assert balanced_order(42, 1, np.array([0, 0, 0, 0, 1, 1])).tolist() == BALANCED_ORDER_OF_SEED_42


def test_a_balanced_order_of_even_classes_is_a_permutation():
    assert sorted(balanced_order(1, 4, np.arange(40) % 4)) == list(range(40))
    assert balanced_order(1, 4, np.zeros(0, np.int64)).shape == (0,)


@pytest.mark.parametrize("columns", [1, 2, 4, 5])
def test_draws_of_a_position_do_not_depend_on_the_batch(columns):
    whole = Draws(1, 2, 0, np.arange(64)).uniform("crop", columns)
    parts = [Draws(1, 2, first, np.arange(16)).uniform("crop", columns) for first in range(0, 64, 16)]
    assert whole.shape == (64, columns)
    assert (np.concatenate(parts) == whole).all()
    assert (Draws(1, 2, 37, np.arange(1)).uniform("crop", columns) == whole[37]).all()


def test_a_sample_keeps_its_number_in_every_batch_and_epoch():
    everyone = Draws(1, 0, 0, np.arange(1025)).uniform_of_samples("flip")
    for rows in ([0], [1], [1023], [1024], [7, 256, 255], [1024, 0, 512]):
        for epoch, first in ((0, 0), (3, 40)):
            assert (Draws(1, epoch, first, np.array(rows)).uniform_of_samples("flip") == everyone[rows]).all()
    assert everyone.shape == (1025,) and everyone.min() >= 0 and everyone.max() < 1 and len(set(everyone)) == 1025
    assert everyone.mean() == pytest.approx(0.5, abs=0.03) and everyone.var() == pytest.approx(1 / 12, abs=0.01)
    for seed, name in ((2, "flip"), (1, "another")):
        other = Draws(seed, 0, 0, np.arange(1025)).uniform_of_samples(name)
        assert abs(np.corrcoef(everyone, other)[0, 1]) < 0.1


def test_draws_are_uniform_and_independent():
    draws = Draws(0, 0, 0, np.arange(20000))
    columns = np.concatenate(
        [draws.uniform("crop", 3), draws.uniform("cutmix", 4), Draws(0, 1, 0, np.arange(20000)).uniform("crop", 3)],
        axis=1,
    )
    assert columns.min() >= 0 and columns.max() < 1
    assert np.abs(columns.mean(axis=0) - 0.5).max() < 0.01
    assert np.abs(columns.var(axis=0) - 1 / 12).max() < 0.002
    correlation = np.corrcoef(columns, rowvar=False) - np.eye(10)
    assert np.abs(correlation).max() < 0.03
    along = [np.corrcoef(column[:-1], column[1:])[0, 1] for column in columns.T]
    assert np.abs(along).max() < 0.03
