"""The images of another source, all in memory."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from slimresnet.data.device import to_device
from slimresnet.data.sources.source import ImageSource

_ROWS_AT_ONCE = 1000


class ResidentImages:
    """
    An `ImageSource` that holds one tensor on a device.

    Args:
        images: source of the pixels, read once.
        num_rows: number of rows of the split.
        device: device of the tensor.

    Attributes:
        pixels: uint8 `[num_rows, num_channels, image_size, image_size]`.
    """

    uses_workers = False

    def __init__(self, images: ImageSource, num_rows: int, device: torch.device):
        chunks = np.split(np.arange(num_rows), range(_ROWS_AT_ONCE, num_rows, _ROWS_AT_ONCE))
        self.pixels = torch.cat([pixels.to(device) for pixels in images.read(chunks)])

    def read(self, batches: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """As `ImageSource.read`; the pixels are on the device."""
        for rows in batches:
            yield self.pixels.index_select(0, to_device(rows, self.pixels.device))
