"""Order and draws as pure functions of (seed, epoch, position).

A sample's place in an epoch and every number drawn for it are computed from the counter of a counter-based generator
(Philox4x64: Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3"). There is no state to carry along, so
the result cannot depend on the number of workers or processes, nor on where a run was interrupted.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_WORDS_PER_COUNT = 4  # one count of Philox4x64 gives four 64-bit words


@lru_cache(maxsize=1024)  # one for each use and copy in an epoch
def _key(seed: int, epoch: int, name: str) -> np.ndarray:
    return np.random.SeedSequence([seed, epoch, zlib.crc32(name.encode())]).generate_state(2, np.uint64)


def _philox(seed: int, epoch: int, name: str, count: int = 0) -> np.random.Philox:
    return np.random.Philox(key=_key(seed, epoch, name), counter=count)


def sample_order(seed: int, epoch: int, num_samples: int, shuffle_buffer_size: int) -> np.ndarray:
    """
    The order of an epoch: at position `p` stands sample `order[p]`.

    Samples are permuted within consecutive windows of `shuffle_buffer_size`: a stream holds no more than that. A window
    of at least `num_samples` is a full permutation.

    Args:
        seed, epoch: non-negative integers.
        num_samples: length of the epoch.
        shuffle_buffer_size: positive.

    Returns:
        int64 `[num_samples]`, a permutation.
    """
    # Ranks of raw words, since NumPy keeps those the same in every release (NEP 19) and `permutation` not.
    words = _philox(seed, epoch, "order").random_raw(num_samples)
    starts = range(0, num_samples, shuffle_buffer_size)
    parts = [start + np.argsort(words[start : start + shuffle_buffer_size], kind="stable") for start in starts]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def balanced_order(seed: int, epoch: int, labels: np.ndarray) -> np.ndarray:
    """
    The order of an epoch in which each class stands equally often: at position `p` stands sample `order[p]`.

    The epoch is as long as the data. Each class has its samples in an endless sequence, one permutation of them after
    another, and an epoch takes the next part of it. So a large class shows other samples each epoch, until all were
    shown, and a small one shows each of its samples several times.

    Args:
        seed, epoch: non-negative integers.
        labels: class numbers, int64 `[num_samples]`. Classes without a sample have no part.

    Returns:
        int64 `[num_samples]`. Numbers of samples of two classes differ by at most one.
    """
    classes = np.unique(labels)
    # The whole number above: where a class has one less, the last sample of its part is left out.
    quota = -(-len(labels) // max(1, len(classes)))
    parts = [_part_of_class(seed, epoch, np.flatnonzero(labels == each), int(each), quota) for each in classes]
    # The longest classes by a draw of the epoch, so that none has the odd sample every time.
    num_longest = len(labels) - len(classes) * (quota - 1)
    longest = np.argsort(_philox(seed, epoch, "longest classes").random_raw(len(classes)), kind="stable")[:num_longest]
    parts = [part if number in longest else part[:-1] for number, part in enumerate(parts)]
    pool = np.concatenate(parts) if parts else np.empty(0, np.int64)
    return pool[sample_order(seed, epoch, len(pool), max(1, len(pool)))]


def _part_of_class(seed: int, epoch: int, samples: np.ndarray, number: int, length: int) -> np.ndarray:
    """Samples `epoch * length` to `(epoch + 1) * length` of the endless sequence of a class."""
    first, size = epoch * length, len(samples)
    rounds = range(first // size, -(-(first + length) // size))
    shuffled = [
        samples[np.argsort(_philox(seed, each, f"order of class {number}").random_raw(size), kind="stable")]
        for each in rounds
    ]
    return np.concatenate(shuffled)[first - rounds[0] * size :][:length]


@dataclass(frozen=True)
class Draws:
    """
    The random numbers of samples that stand at consecutive positions of an epoch, from `first` on.

    Attributes:
        samples: row numbers of the samples, int64 `[B]`.
        copies: copies of each sample, K, each with numbers of its own. They are stacked copy after copy: all samples,
            then all samples again. The numbers of a copy do not depend on how many there are.
    """

    seed: int
    epoch: int
    first: int
    samples: np.ndarray
    copies: int = 1

    def uniform(self, name: str, columns: int) -> np.ndarray:
        """
        Uniform numbers in [0, 1), float64 `[K · B, columns]`: a row a sample, copy after copy.

        `name` says what the numbers are for. Other names give independent numbers, so that a transform draws the same
        numbers whichever other transforms are used.
        """
        counts_per_sample = -(-columns // _WORDS_PER_COUNT)
        words = [
            _philox(self.seed, self.epoch, each, self.first * counts_per_sample).random_raw(
                len(self.samples) * counts_per_sample * _WORDS_PER_COUNT
            )
            for each in self._names(name)
        ]
        return _uniform(np.concatenate(words).reshape(self.copies * len(self.samples), -1)[:, :columns])

    def uniform_of_samples(self, name: str) -> np.ndarray:
        """
        Uniform numbers in [0, 1), float64 `[K · B]`, copy after copy.

        Each copy of a sample keeps its number in every epoch, wherever the sample stands.
        """
        # A shorter stream of words is the beginning of a longer one. The length is rounded up to a power of two, so
        # that the cache serves nearly all batches.
        count = 1 << int(self.samples.max()).bit_length()
        words = [_words_of_samples(self.seed, each, count)[self.samples] for each in self._names(name)]
        return _uniform(np.concatenate(words))

    def _names(self, name: str) -> list[str]:
        """What a use is called for each copy; for the first as where there is no other."""
        return [name, *(f"{name} of copy {copy}" for copy in range(1, self.copies))]


class JoinedDraws:
    """The draws of several batches, batch after batch, whose numbers are not those of consecutive positions."""

    def __init__(self, parts: Sequence[Draws]):
        self._parts, self.epoch = parts, parts[0].epoch

    def uniform(self, name: str, columns: int) -> np.ndarray:
        """As `Draws.uniform`."""
        return np.concatenate([part.uniform(name, columns) for part in self._parts])

    def uniform_of_samples(self, name: str) -> np.ndarray:
        """As `Draws.uniform_of_samples`."""
        return np.concatenate([part.uniform_of_samples(name) for part in self._parts])


def join_draws(parts: Sequence[Draws]) -> Draws | JoinedDraws:
    """The draws of several batches of one epoch, as those of one batch that has all their samples in turn."""
    ends = [part.first + len(part.samples) for part in parts]
    have_gaps = [part.first for part in parts[1:]] != ends[:-1]  # other processes have the positions between
    if have_gaps or parts[0].copies > 1:  # the copies of a batch stand before the next batch
        return JoinedDraws(parts)
    return Draws(parts[0].seed, parts[0].epoch, parts[0].first, np.concatenate([part.samples for part in parts]))


@lru_cache(maxsize=64)  # one for each copy
def _words_of_samples(seed: int, name: str, count: int) -> np.ndarray:
    return _philox(seed, 0, name).random_raw(count)


def _uniform(words: np.ndarray) -> np.ndarray:
    return (words >> np.uint64(11)) * 2.0**-53
