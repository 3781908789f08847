"""Reading a folder of NumPy files: CIFAR-10-C (Hendrycks and Dietterich, 2019), CIFAR-10.1 (Recht et al., 2018)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL.Image import fromarray
from torch import Tensor

from slimresnet.data.sources.decoding import PixelFormat, pixels_of
from slimresnet.data.sources.source import DatasetError, ImageSplit


class ArrayImages:
    """An `ImageSource` of a NumPy file, uint8 `[num_rows, H, W, 3]`, whose images are read as they are asked for."""

    uses_workers = True

    def __init__(self, file: Path, pixel_format: PixelFormat):
        self._file, self._pixel_format = file, pixel_format

    def read(self, batches: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """As `ImageSource.read`."""
        array = np.load(self._file, mmap_mode="r")
        for rows in batches:
            images = [pixels_of(fromarray(image), self._pixel_format) for image in array[rows]]
            yield torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def open_arrays(folder: Path, pixel_format: PixelFormat, label_names: list[str]) -> dict[str, ImageSplit]:
    """
    The splits in a folder of NumPy files, by name.

    Each `NAME_data.npy` goes with its `NAME_labels.npy`, every other file with `labels.npy`.

    Raises:
        DatasetError: the folder holds no images, or a file is no array of images or of labels.
    """
    files = sorted(folder.glob("*.npy"))
    images = [file for file in files if not file.stem.endswith("labels")]
    if not images:
        raise DatasetError(f"{folder} holds no .npy files of images: give a folder of CIFAR-10-C or CIFAR-10.1.")
    splits = {}
    for file in images:
        name = file.stem.removesuffix("_data")
        labels_file = folder / ("labels.npy" if name == file.stem else f"{name}_labels.npy")
        pixels, labels = _load(file), _load(labels_file)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
            raise DatasetError(f"{file} must hold uint8 images [N, H, W, 3], not {pixels.dtype} {pixels.shape}.")
        if labels.shape != pixels.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
            raise DatasetError(
                f"{labels_file} must hold {len(pixels)} class numbers, not {labels.dtype} {labels.shape}."
            )
        if labels.min() < 0 or labels.max() >= len(label_names):
            raise DatasetError(f"{labels_file} must hold class numbers in 0 … {len(label_names) - 1}.")
        splits[name] = ImageSplit(labels.astype(np.int64), label_names, ArrayImages(file, pixel_format))
    return splits


def _load(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DatasetError(f"{file} is missing: its images have no labels.") from error
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{file} is no NumPy array ({error}): get it anew.") from error
