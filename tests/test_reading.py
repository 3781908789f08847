"""Reading a split: from any dataset, decoded once, with a mistake named by its row, column or flag."""

import numpy as np
import pytest
import torch
from conftest import SAMPLE, write_dataset
from datasets import ClassLabel, Value, load_dataset
from PIL import Image as PILImage

from cifar10.reading import DatasetError, ResidentImages, StreamedImages, open_split
from cifar10.splitting import random_subset, stratified_split


def make_images(count, size=(8, 8), seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path):
    """24 training images of 8×8 in three classes, with a second label column."""
    write_dataset(
        tmp_path,
        "train",
        make_images(24),
        [index % 3 for index in range(24)],
        ["a", "b", "c"],
        fine_label=(ClassLabel(names=["p", "q"]), [index % 2 for index in range(24)]),
        weight=(Value("float32"), [0.0] * 24),
    )
    return tmp_path


def test_the_sample_is_balanced_cifar10():
    for split, size in (("train", 2000), ("test", 500)):
        sample = open_split(str(SAMPLE), split, image_size=32)
        assert isinstance(sample.images, StreamedImages)
        assert sample.label_names[:3] == ["airplane", "automobile", "bird"] and sample.label_names[9] == "truck"
        assert np.bincount(sample.labels).tolist() == [size // 10] * 10
    assert sum(file.stat().st_size for file in SAMPLE.glob("*.parquet")) < 7e6


@pytest.mark.parametrize("resident_on", [None, torch.device("cpu")])
def test_pixels_are_those_of_the_file_in_any_order(resident_on):
    sample = open_split(str(SAMPLE), "test", image_size=32, resident_on=resident_on)
    rows = np.random.default_rng(0).permutation(500)[:90]
    batches = [rows[:1], rows[1:64], rows[64:]]
    reference = load_dataset(str(SAMPLE), split="test", streaming=True).with_format("numpy")
    images = np.stack([row["img"] for row in reference]).transpose(0, 3, 1, 2)
    for batch, pixels in zip(batches, sample.images.read(batches), strict=True):
        assert pixels.dtype == torch.uint8
        assert torch.equal(pixels, torch.from_numpy(images[batch]))


def test_only_what_is_asked_for_is_decoded(folder, monkeypatch):
    split = open_split(str(folder), "train", image_size=8, label_column="label")
    decoded = []
    decode = StreamedImages._decode
    monkeypatch.setattr(
        StreamedImages, "_decode", lambda self, encoded, row: decoded.append(row) or decode(self, encoded, row)
    )
    list(split.images.read([np.array([20, 3]), np.array([7])]))
    assert decoded == [20, 3, 7]


def test_number_and_names_of_labels_come_from_the_features(folder):
    assert open_split(str(folder), "train", image_size=8, label_column="fine_label").label_names == ["p", "q"]
    split = open_split(str(folder), "train", image_size=8, label_column="label")
    assert split.label_names == ["a", "b", "c"] and split.labels.tolist() == [0, 1, 2] * 8


def test_images_of_other_sizes_and_modes_are_made_alike(tmp_path):
    images = [
        PILImage.new("RGB", (20, 10), (255, 0, 0)),
        PILImage.new("L", (8, 8), 7),
        PILImage.new("RGBA", (3, 3), (0, 255, 0, 128)),
        PILImage.new("P", (1, 1)),
    ]
    write_dataset(tmp_path, "train", images, [0, 0, 1, 1], ["a", "b"])
    (pixels,) = open_split(str(tmp_path), "train", image_size=8).images.read([np.arange(4)])
    assert pixels.shape == (4, 3, 8, 8)
    assert pixels[0, :, 0, 0].tolist() == [255, 0, 0] and pixels[1].unique().tolist() == [7]


def test_an_image_folder_works_too(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for label in ("cat", "dog"):
            (tmp_path / split / label).mkdir(parents=True)
            for index, image in enumerate(make_images(count)):
                PILImage.fromarray(image).save(tmp_path / split / label / f"{index}.png")
    split = open_split(str(tmp_path), "train", image_size=8)
    assert split.label_names == ["cat", "dog"] and np.bincount(split.labels).tolist() == [3, 3]
    (pixels,) = split.images.read([np.arange(6)])
    assert pixels.shape == (6, 3, 8, 8)


def refused(*arguments, **settings):
    """The message that refuses them: one line."""
    with pytest.raises(DatasetError) as error:
        split = open_split(*arguments, image_size=8, **settings)
        list(split.images.read([np.arange(len(split.labels))]))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_neither_folder_nor_reachable():
    for name in ("nobody/nothing", "/no/such/folder"):
        message = refused(name, "train")
        assert f"--dataset_name {name}" in message and "--dataset_name cifar10/sample" in message


def test_a_folder_without_images(tmp_path):
    (tmp_path / "notes.md").write_text("nothing")
    assert str(tmp_path) in refused(str(tmp_path), "train")


def test_no_such_split(folder):
    message = refused(str(folder), "validation", label_column="label")
    assert "validation" in message and "train" in message


def test_wrong_columns_list_those_there(folder):
    message = refused(str(folder), "train", image_column="image", label_column="label")
    assert "--image_column_name image" in message and "img (Image)" in message and "fine_label (ClassLabel)" in message
    assert "--label_column_name" in refused(str(folder), "train")  # two of them: which is meant?
    message = refused(str(folder), "train", label_column="weight")
    assert "--label_column_name weight is no ClassLabel" in message and "weight (Value)" in message


@pytest.mark.parametrize("broken", [b"", b"not an image", None, "cut"])
def test_a_corrupt_image_is_named_by_its_row(tmp_path, broken):
    images = make_images(6)
    if broken == "cut":
        write_dataset(tmp_path / "whole", "train", images, [0] * 6, ["a", "b"])
        row = load_dataset(str(tmp_path / "whole"), split="train").with_format("arrow")[4]
        broken = row["img"][0]["bytes"].as_py()[:60]
    images[4] = broken
    write_dataset(tmp_path / "data", "train", images, [0, 1] * 3, ["a", "b"])
    assert "row 4 of split 'train'" in refused(str(tmp_path / "data"), "train")


@pytest.mark.parametrize("wrong", [-1, None])
def test_a_label_out_of_range_is_named_by_its_row(tmp_path, wrong):
    write_dataset(tmp_path, "train", make_images(6), [0, 1, 1, wrong, 0, 1], ["a", "b"])
    assert "row 3 of split 'train'" in refused(str(tmp_path), "train")


def test_an_empty_split(tmp_path):
    write_dataset(tmp_path, "train", [], [], ["a", "b"])
    assert "no rows" in refused(str(tmp_path), "train")


def test_resident_images_are_one_tensor():
    images = open_split(str(SAMPLE), "test", image_size=32, resident_on=torch.device("cpu")).images
    assert isinstance(images, ResidentImages)
    assert images.pixels.shape == (500, 3, 32, 32) and images.pixels.dtype == torch.uint8


def test_stratified_split():
    labels = np.repeat([0, 1, 2], [500, 300, 200])[np.random.default_rng(0).permutation(1000)]
    train, validation = stratified_split(labels, 100, seed=1)
    assert sorted([*train, *validation]) == list(range(1000))
    assert np.bincount(labels[validation]).tolist() == [50, 30, 20]
    assert (np.diff(train) > 0).all() and (np.diff(validation) > 0).all()
    assert (stratified_split(labels, 100, seed=1)[1] == validation).all()
    assert (stratified_split(labels, 100, seed=2)[1] != validation).any()
    whole, none = stratified_split(labels, 0, seed=1)
    assert len(whole) == 1000 and len(none) == 0


@pytest.mark.parametrize("size", [1, 1000, 2000])
def test_a_split_that_cannot_be_cut_evenly(size):
    with pytest.raises(DatasetError, match=f"--validation_size {size}"):
        stratified_split(np.arange(1000) % 10, size, seed=0)


def test_random_subset():
    rows = np.arange(0, 100, 2)
    subset = random_subset(rows, 10, seed=0)
    assert len(subset) == 10 and set(subset) <= set(rows) and (np.diff(subset) > 0).all()
    assert (random_subset(rows, 10, seed=1) != subset).any()
    assert random_subset(rows, None, seed=0) is rows and random_subset(rows, 50, seed=0) is rows
