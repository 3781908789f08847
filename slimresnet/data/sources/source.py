"""The form in which every source gives labels and pixels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.data.task import Task, task_of
from slimresnet.errors import SlimResNetError


class DatasetError(SlimResNetError):
    """The data cannot be used; the message, one line, names the flag, the column or the row, and says what to do."""


class ImageSource(Protocol):
    """
    The images of a split.

    A source whose `uses_workers` is true is pickled to worker processes.

    Attributes:
        uses_workers: whether worker processes may read ahead; false where they could only copy what is in memory.
    """

    @property
    def uses_workers(self) -> bool: ...

    def read(self, batches: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """
        Reads batches of rows, in any order.

        Args:
            batches: row numbers, int64 `[B]` each. A row may come several times, in one batch too.

        Yields:
            Pixels, uint8 `[B, num_channels, image_size, image_size]`, for each batch.

        Raises:
            DatasetError: an image cannot be read; the message has its row number.
        """
        ...


@dataclass(frozen=True)
class PictureHeaders:
    """
    What image files say of themselves before they are decoded.

    Attributes:
        sizes: width and height in pixels, int64 `[N, 2]`.
        are_grey: whether a file has no colours, bool `[N]`.
    """

    sizes: np.ndarray
    are_grey: np.ndarray


@dataclass(frozen=True)
class ImageSplit:
    """
    One split of a dataset: what is known before any image is decoded.

    Attributes:
        labels: class numbers, int64 `[num_rows]`, each in `0 … len(label_names) - 1`; or, where an image may be of
            several classes, 0 or 1 for each class, uint8 `[num_rows, len(label_names)]`. `task` says which.
        label_names: names of the classes.
        images: where the images are read from.
        fingerprint: digest of the encoded images, the labels and the label names, the same wherever the data lies; None
            where the images are not those of a dataset.
        contents: a digest of each row's encoded image, uint64 `[num_rows]`, equal where two rows hold the same bytes;
            None where the images are not those of a dataset.
        headers: of up to `headers.MOST_HEADERS` images, evenly spread over the split; None where nobody read them.
    """

    labels: np.ndarray
    label_names: list[str]
    images: ImageSource
    fingerprint: str | None = None
    contents: np.ndarray | None = None
    headers: PictureHeaders | None = None

    @property
    def task(self) -> Task:
        """What its labels say."""
        return task_of(self.labels)


@dataclass(frozen=True)
class SplitRequest:
    """
    What is asked of a source.

    Attributes:
        dataset_name: a dataset on the Hub, a local folder, ZIP file or table, or what else a source recognises.
        split: name of the split, such as `"train"`, or a sum of names, such as `"train+test"`. `"validation"` means a
            folder `Val` too, and `"val"` a split `validation`.
        pixel_format: what pictures are made into.
        config_name, revision: as `datasets.load_dataset` takes them.
        image_column, label_column: names of the columns, or of a field, as `json.label`; None for the only one that
            holds images, class labels. Several names with commas between them are columns of 0 and 1, one a class.
    """

    dataset_name: str
    split: str
    pixel_format: PixelFormat
    config_name: str | None = None
    revision: str | None = None
    image_column: str | None = None
    label_column: str | None = None


class DatasetOpener(Protocol):
    """
    The functions of a module of this folder that opens datasets by their name.

    Such a module also has `recognises(dataset_name) -> bool`; only `hub_and_folder.py`, which takes all names that no
    other module recognises, has none.
    """

    __name__: str

    def open_split(self, request: SplitRequest) -> ImageSplit:
        """
        Opens a split and reads its labels.

        Raises:
            DatasetError: the split cannot be used.
        """
        ...

    def split_names(self, dataset_name: str, config_name: str | None, revision: str | None) -> list[str]:
        """
        The names of the splits that there are: train, validation and test in whatever spelling, others as they are.

        Raises:
            DatasetError: there is no such dataset.
        """
        ...
