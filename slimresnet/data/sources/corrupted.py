"""The images of another source, each corrupted as it is read."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from slimresnet.data.corruptions.standard import Corruption, corrupt
from slimresnet.data.sources.source import ImageSplit


class CorruptedImages:
    """
    An `ImageSource` of corrupted images.

    Args:
        split: split whose images are corrupted, on the CPU.
        name: name of the corruption, for the draws.
        corruption: function that corrupts a batch.
        severity: 1–5.
        seed: the draws are a function of `seed`, `name`, `severity` and the row.
    """

    uses_workers = True

    def __init__(self, split: ImageSplit, name: str, corruption: Corruption, severity: int, seed: int):
        self._images, self._name, self._corruption = split.images, name, corruption
        self._severity, self._seed = severity, seed

    def read(self, batches: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """As `ImageSource.read`."""
        for rows, pixels in zip(batches, self._images.read(batches), strict=True):
            yield corrupt(pixels, self._name, self._corruption, self._severity, rows, self._seed)
