"""Sizes and colours of some images of a split, read from the headers of their files."""

import numpy as np

from slimresnet.data.images import read_header
from slimresnet.data.sources.source import PictureHeaders

MOST_HEADERS = 1000


class HeaderSample:
    """Reads up to `MOST_HEADERS` headers, evenly spread over the images that come, however many these are."""

    def __init__(self) -> None:
        self._step, self._num_seen = 1, 0
        self._found: list[tuple[int, int, bool]] = []

    def add(self, content: bytes) -> None:
        """Looks at the next image, or passes it over."""
        if self._num_seen % self._step == 0:
            if len(self._found) == MOST_HEADERS:
                self._found, self._step = self._found[::2], 2 * self._step
            if self._num_seen % self._step == 0 and (header := read_header(content)):
                self._found.append(header)
        self._num_seen += 1

    def taken(self) -> PictureHeaders:
        """What the headers say."""
        columns = np.array(self._found, dtype=np.int64).reshape(-1, 3)
        return PictureHeaders(columns[:, :2], columns[:, 2].astype(bool))
