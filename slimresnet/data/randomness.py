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


@lru_cache(maxsize=64)  # one for each use in an epoch
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


@dataclass(frozen=True)
class Draws:
    """
    The random numbers of samples that stand at consecutive positions of an epoch, from `first` on.

    Attributes:
        samples: row numbers of the samples, int64 `[B]`.
    """

    seed: int
    epoch: int
    first: int
    samples: np.ndarray

    def uniform(self, name: str, columns: int) -> np.ndarray:
        """
        Uniform numbers in [0, 1), float64 `[B, columns]`: a row a sample.

        `name` says what the numbers are for. Other names give independent numbers, so that a transform draws the same
        numbers whichever other transforms are used.
        """
        counts_per_sample = -(-columns // _WORDS_PER_COUNT)
        generator = _philox(self.seed, self.epoch, name, self.first * counts_per_sample)
        words = generator.random_raw(len(self.samples) * counts_per_sample * _WORDS_PER_COUNT)
        return _uniform(words.reshape(len(self.samples), -1)[:, :columns])

    def uniform_of_samples(self, name: str) -> np.ndarray:
        """Uniform numbers in [0, 1), float64 `[B]`, that a sample keeps in every epoch, wherever it stands."""
        # A shorter stream of words is the beginning of a longer one. The length is rounded up to a power of two, so
        # that the cache serves nearly all batches.
        count = 1 << int(self.samples.max()).bit_length()
        return _uniform(_words_of_samples(self.seed, name, count)[self.samples])


class JoinedDraws:
    """The draws of batches with gaps between their positions, part after part."""

    def __init__(self, parts: Sequence[Draws]):
        self._parts, self.epoch = parts, parts[0].epoch

    def uniform(self, name: str, columns: int) -> np.ndarray:
        """As `Draws.uniform`."""
        return np.concatenate([part.uniform(name, columns) for part in self._parts])

    def uniform_of_samples(self, name: str) -> np.ndarray:
        """As `Draws.uniform_of_samples`."""
        return np.concatenate([part.uniform_of_samples(name) for part in self._parts])


def join_draws(parts: Sequence[Draws]) -> Draws | JoinedDraws:
    """The draws of several batches of one epoch, as those of one batch that has all their samples."""
    ends = [part.first + len(part.samples) for part in parts]
    if [part.first for part in parts[1:]] != ends[:-1]:  # other processes have the positions between
        return JoinedDraws(parts)
    return Draws(parts[0].seed, parts[0].epoch, parts[0].first, np.concatenate([part.samples for part in parts]))


@lru_cache(maxsize=4)
def _words_of_samples(seed: int, name: str, count: int) -> np.ndarray:
    return _philox(seed, 0, name).random_raw(count)


def _uniform(words: np.ndarray) -> np.ndarray:
    return (words >> np.uint64(11)) * 2.0**-53
