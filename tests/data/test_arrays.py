"""Folders of NumPy files: which image goes with which label, at which size, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from slimresnet.data.sources.arrays import open_arrays
from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.data.sources.source import DatasetError

NAMES = ["zebra", "ant", "moth"]


@pytest.fixture
def images():
    """Photograph-like: each of another smooth gradient, higher than wide. uint8 `[5, 20, 14, 3]`."""
    rows, columns, channels = np.mgrid[:20, :14, :3]
    waves = [np.sin(number + rows / 5 + channels) + np.cos(columns / 4 - number) for number in range(5)]
    return (127 + 60 * np.stack(waves)).astype(np.uint8)


def read(split, rows, size):
    (pixels,) = split.images.read([np.array(rows)])
    assert pixels.shape == (len(rows), 3, size, size) and pixels.is_contiguous()
    return pixels.permute(0, 2, 3, 1).numpy()


def test_images_and_labels_of_a_file_and_of_a_pair_of_files(tmp_path, images):
    labels = np.array([2, 0, 1, 1, 2], dtype=np.uint8)
    np.save(tmp_path / "fog.npy", images)
    np.save(tmp_path / "blur.npy", 255 - images)
    np.save(tmp_path / "labels.npy", labels)
    np.save(tmp_path / "v6_data.npy", images[::-1][:4])
    np.save(tmp_path / "v6_labels.npy", np.array([1, 2, 2, 0], dtype=np.int32))
    splits = open_arrays(tmp_path, PixelFormat(14), NAMES)
    assert list(splits) == ["blur", "fog", "v6"]
    for name, expected in (("fog", [2, 0, 1, 1, 2]), ("blur", [2, 0, 1, 1, 2]), ("v6", [1, 2, 2, 0])):
        assert splits[name].labels.tolist() == expected and splits[name].labels.dtype == np.int64
        assert splits[name].label_names == NAMES
    for name, expected in (("fog", images), ("blur", 255 - images), ("v6", images[::-1])):
        for row, result in zip([3, 0, 1], read(splits[name], [3, 0, 1], 14), strict=True):
            pillow = Image.fromarray(expected[row]).resize((14, 14), Image.Resampling.BILINEAR)
            assert np.abs(np.asarray(pillow).astype(int) - result).max() <= 1
    batches = list(splits["fog"].images.read([np.array([4]), np.array([0, 2])]))
    assert [len(batch) for batch in batches] == [1, 2]


def test_images_of_the_right_size_are_taken_as_they_are(tmp_path, images):
    square = images[:, :14]
    np.save(tmp_path / "fog.npy", square)
    np.save(tmp_path / "labels.npy", np.zeros(5, np.int8))
    assert np.array_equal(read(open_arrays(tmp_path, PixelFormat(14), NAMES)["fog"], [4, 1], 14), square[[4, 1]])


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("fog", np.zeros((5, 8, 8, 3), np.float32), r"fog\.npy must hold uint8 images \[N, H, W, 3\], not float32"),
        ("fog", np.zeros((5, 8, 8, 4), np.uint8), r"fog\.npy must hold uint8 images .*\(5, 8, 8, 4\)"),
        ("fog", np.zeros((5, 8, 3), np.uint8), r"fog\.npy must hold uint8 images .*\(5, 8, 3\)"),
        ("fog", np.array([{}]), r"fog\.npy is no NumPy array"),  # a pickle, which is code
        ("labels", np.array([0, 1, 2, 0, -1]), r"labels\.npy must hold class numbers in 0 … 2"),
        ("labels", np.array([0, 1, 2, 0, 3]), r"labels\.npy must hold class numbers in 0 … 2"),
        ("labels", np.array([0, 1, 2, 0]), r"labels\.npy must hold 5 class numbers, not int64 \(4,\)"),
        ("labels", np.zeros((5, 1), int), r"labels\.npy must hold 5 class numbers, not int64 \(5, 1\)"),
        ("labels", np.zeros(5, bool), r"labels\.npy must hold 5 class numbers, not bool"),
    ],
)
def test_what_is_no_image_or_label_is_refused(tmp_path, file, content, said):
    np.save(tmp_path / "fog.npy", np.zeros((5, 8, 8, 3), np.uint8))
    np.save(tmp_path / "labels.npy", np.array([0, 1, 2, 0, 2]))
    assert list(open_arrays(tmp_path, PixelFormat(8), NAMES)) == ["fog"]
    np.save(tmp_path / f"{file}.npy", content)
    with pytest.raises(DatasetError, match=said):
        open_arrays(tmp_path, PixelFormat(8), NAMES)
