"""What a run says of its data before it trains, and what this is read from."""

import io

import numpy as np
import pytest
import torch
from conftest import SAMPLE, write_dataset
from PIL import Image

from slimresnet.data.description import describe_data
from slimresnet.data.images import read_header
from slimresnet.data.loader import Loading
from slimresnet.data.opening import open_data
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.data.sources.headers import MOST_HEADERS, HeaderSample
from slimresnet.recipe.settings import Recipe

NAMES = ["cat", "dog", "two\nlines"]


def picture(number, width=8, height=8, mode="RGB"):
    """A picture like no other number's."""
    file = io.BytesIO()
    Image.fromarray(np.full((height, width), number, np.uint8)).convert(mode).save(file, "PNG")
    return file.getvalue()


def lines(folder, image_size=8, **settings):
    recipe = Recipe(dataset_name=str(folder), **settings)
    pixel_format = PixelFormat(image_size)
    said = describe_data(recipe, open_data(recipe, Loading(torch.device("cpu")), pixel_format), pixel_format)
    assert len(said) <= 8 and all(line[8] == " " and "\n" not in line for line in said)
    return {line[:9].strip(): line[9:] for line in said}


def test_pictures_that_are_one_size(tmp_path):
    write_dataset(
        tmp_path, "train", [picture(number) for number in range(40)], [number % 3 for number in range(40)], NAMES
    )
    said = lines(tmp_path)
    assert said.keys() == {"data", "classes", "splits", "pictures"}
    assert said["data"].endswith(": 29 images to train on, 3 for validation, 8 to test on")
    assert said["classes"] == "cat (10), dog (9), two lines (10)"
    assert said["splits"] == "validation: 3 cut from train, a tenth, seed 42; test: 8 cut from train, a fifth, seed 42"
    assert said["pictures"] == "8×8 pixels, in colour"
    assert lines(tmp_path, image_size=16)["pictures"] == "8×8 pixels, resized to 16×16, in colour"
    said = lines(tmp_path, validation_size=0, test_size=0.25, seed=1)
    assert said["splits"] == "validation: none; test: 10 cut from train, 0.25 of it, seed 1"


def test_pictures_of_all_sizes_and_what_is_done_to_them(tmp_path):
    shapes = [(8, 8), (2000, 10), (30, 20), (9, 9)] * 5
    images = [picture(row, *shape, mode="L" if row < 5 else "RGB") for row, shape in enumerate(shapes)]
    write_dataset(tmp_path, "train", images, [row % 2 for row in range(20)], NAMES[:2])
    said = lines(tmp_path)["pictures"]
    assert said == "8×8 to 2,000×10 pixels, median 30×20, 50% not square: squashed to 8×8, 25% grey"


def test_what_is_out_of_order_is_said(tmp_path):
    images = [picture(number) for number in range(24)]
    labels = [number % 2 for number in range(23)] + [2]
    write_dataset(tmp_path, "train", [*images, images[1], images[5]], [*labels, 1, 0], NAMES)
    write_dataset(tmp_path, "validation", [images[0], picture(99), picture(98)], [0, 1, 1], NAMES)
    write_dataset(tmp_path, "test", [images[3], picture(99)], [1, 1], NAMES)
    said = lines(tmp_path)
    assert said["splits"] == "validation: the data's own split validation; test: the data's own split test"
    assert said["copies"].split("; ") == [
        "training images left out, since their pictures are in test or validation too: 2",
        "validation images left out, since their pictures are in test too: 1",
        "images of train that repeat another one, and are on its side: 2",
        "images of train with another label than an earlier copy: 1, such as row 25 (cat) and row 5 (dog)",
    ]
    assert said["missing"] == "no image for validation: two lines; no image to test on: cat, two lines"
    said = lines(tmp_path, validation_size=4)
    assert said["splits"].startswith(
        "validation: 4 cut from train, seed 42 (the data's own split validation is not used);"
    )
    assert "are in test too: 1" in said["copies"] and "validation images" not in said["copies"]


def test_of_many_classes_the_largest_and_the_smallest_are_named(tmp_path):
    names = [f"class {number}" for number in range(30)]
    labels = [*range(30), 7, 7, *range(1, 30)]
    write_dataset(tmp_path, "train", [picture(row) for row in range(len(labels))], labels, names)
    write_dataset(tmp_path, "test", [picture(200)], [0], names)
    said = lines(tmp_path, validation_size=0)
    assert said["classes"] == "30, from class 0 (1) to class 7 (4)"
    assert said["missing"] == "no image to test on: class 1, class 2, class 3, class 4, class 5 and 24 more"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "RGB", "RGBA", "P"])
def test_a_header_has_size_and_colours(mode):
    file = io.BytesIO()
    Image.new(mode, (5, 3)).save(file, "PNG")
    assert read_header(file.getvalue()) == (5, 3, mode in ("1", "L", "LA", "I;16"))
    assert read_header(file.getvalue()[:10]) is None and read_header(b"") is None


@pytest.mark.parametrize("count", [0, 1, MOST_HEADERS, MOST_HEADERS + 1, 3 * MOST_HEADERS])
def test_a_sample_of_headers_is_spread_over_all_of_them(count, monkeypatch):
    monkeypatch.setattr("slimresnet.data.sources.headers.read_header", lambda number: (number, number, False))
    sample = HeaderSample()
    for number in range(count):
        sample.add(number)
    widths = sample.taken().sizes[:, 0]
    assert min(count, MOST_HEADERS / 2) <= len(widths) <= MOST_HEADERS
    assert len({*np.diff(widths)}) <= 1 and (count == 0 or widths[0] == 0)
    assert count == 0 or count - widths[-1] <= max(1, 2 * count / MOST_HEADERS)


def test_what_is_read_beside_the_labels_leaves_the_fingerprint_as_it_was(tmp_path):
    """Runs and checkpoints of earlier versions know their data by it."""
    split = open_split(str(SAMPLE), "train", image_size=32)
    assert split.fingerprint == "0c1e7e45f3c039432c959f3c8e34086a"
    assert split.contents.dtype == np.uint64 and len(np.unique(split.contents)) == len(split.labels) == 2000
    assert len(split.headers.sizes) == 1000 and (split.headers.sizes == 32).all()
    write_dataset(tmp_path, "train", [picture(1), picture(2), picture(1)], [0, 1, 1], NAMES)
    first, second, third = open_split(str(tmp_path), "train", image_size=8).contents
    assert first == third != second
