"""Reading a split: from any dataset, decoded once, with a mistake named by its row, column or flag."""

import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from conftest import SAMPLE, write_dataset
from datasets import ClassLabel, Value, load_dataset
from PIL import Image as PILImage

from slimresnet.data.sources import builder, hub_and_folder
from slimresnet.data.sources.checks import check_files
from slimresnet.data.sources.dataset import open_split, split_names
from slimresnet.data.sources.decoding import PixelFormat, decode_image
from slimresnet.data.sources.hub_and_folder import StreamedImages
from slimresnet.data.sources.memory import ResidentImages
from slimresnet.data.sources.source import DatasetError


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
    (expected,) = split.images.read([np.array([20, 3, 7])])
    decoded = []

    def decode(encoded, image_size):
        decoded.append(decode_image(encoded, image_size))
        return decoded[-1]

    monkeypatch.setattr(hub_and_folder, "decode_image", decode)
    list(split.images.read([np.array([20, 3]), np.array([7])]))
    assert (np.stack(decoded).transpose(0, 3, 1, 2) == expected.numpy()).all()


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


def test_other_sizes_are_pillows_bilinear():
    """Neither square nor flat, so that a transposed picture or another filter gives other pixels."""
    for height, width in ((20, 9), (5, 13), (8, 30)):
        image = PILImage.fromarray(make_images(1, size=(height, width))[0])
        file = io.BytesIO()
        image.save(file, "PNG")
        expected = image.resize((8, 8), PILImage.Resampling.BILINEAR)
        assert (decode_image({"bytes": file.getvalue(), "path": None}, PixelFormat(8)) == np.asarray(expected)).all()


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
        assert f"--dataset_name {name}" in message and "--dataset_name examples/cifar10_sample" in message


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
    assert "--label_column_name weight is no ClassLabel" in message and "weight (float32)" in message


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


# --- the files of a split -------------------------------------------------------------------------------------------

NAMES = ["zebra", "ant", "moth"]


def write_split(folder, file, labels=(2, 0, 2, 1), names=NAMES, seed=0):
    """A Parquet file of small pictures, wider than they are high; returns it."""
    write_dataset(folder, file, make_images(len(labels), (6, 9), seed), list(labels), names)
    return folder / f"{file}.parquet"


def write_image_folder(folder, *files):
    for index, name in enumerate(files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PILImage.fromarray(make_images(1, (6, 9), seed=index)[0]).save(folder / name)


@pytest.mark.parametrize("names", [["ant", "zebra", "moth"], ["zebra", "ant", "wasp"], ["zebra", "ant"]])
@pytest.mark.parametrize(("first", "second"), [("train", "test"), ("test-0", "test-1"), ("validation", "test")])
def test_a_file_that_numbers_its_classes_in_another_way_is_named(tmp_path, first, second, names):
    """`datasets` reads every file of every split by the names of the first that it meets."""
    write_split(tmp_path, first)
    other = write_split(tmp_path, second, labels=(1, 0, 1), names=names)
    message = refused(str(tmp_path), "test")
    assert str(other) in message and ", ".join(NAMES) in message and ", ".join(names) in message


def test_files_that_number_their_classes_alike_or_not_at_all_are_read(tmp_path):
    write_split(tmp_path, "train")
    write_split(tmp_path, "test-0", labels=(1, 2))
    bare = write_split(tmp_path, "test-1", labels=(2, 0, 0))
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(bare).replace_schema_metadata(None), bare)
    split = open_split(str(tmp_path), "test", image_size=8)
    assert split.label_names == NAMES and split.labels.tolist() == [1, 2, 2, 0, 0]


@pytest.mark.parametrize("names", [NAMES, NAMES[::-1]])
def test_arrow_files_too(tmp_path, names):
    for split, of_file in (("train", NAMES), ("test", names)):
        write_split(tmp_path / "parquet" / split, split, names=of_file)
        dataset = load_dataset(str(tmp_path / "parquet" / split), split=split)
        dataset.save_to_disk(tmp_path / "arrow" / split)
    if names == NAMES:
        split = open_split(str(tmp_path / "arrow"), "test", image_size=8)
        assert split.label_names == NAMES and split.labels.tolist() == [2, 0, 2, 1]
    else:
        assert f"{tmp_path}/arrow/test/data-00000-of-00001.arrow" in refused(str(tmp_path / "arrow"), "test")


@pytest.mark.parametrize(
    ("name", "of_class"),
    [
        ("train/test/1.png", "test"),
        ("train/evaluation board/1.png", "evaluation board"),
        ("train/val/1.png", "val"),
        ("train/dev-kit/1.png", "dev-kit"),
        ("train/test_tubes/1.png", "test_tubes"),
    ],
)
def test_a_class_that_is_called_as_a_split_is_a_class(tmp_path, name, of_class):
    """`datasets` takes such words for a split wherever a path has them."""
    write_image_folder(tmp_path, "train/cat/1.png", "train/dog/2.png", "test/dog/3.png", "test/cat/4.png", name)
    train, test = (open_split(str(tmp_path), split, image_size=8) for split in ("train", "test"))
    assert train.label_names == test.label_names == sorted(["cat", "dog", of_class])
    assert [len(train.labels), len(test.labels)] == [3, 2]
    assert split_names(str(tmp_path)) == ["train", "test"]


@pytest.mark.parametrize("of_class", ["train-station", "test_tube"])
def test_a_class_that_training_lacks_is_named(tmp_path, of_class):
    write_image_folder(tmp_path, "train/cat/1.png", "train/dog/2.png", "test/dog/3.png", f"test/{of_class}/1.png")
    message = refused(str(tmp_path), "test")
    assert f"split 'test' of {tmp_path} has images of class {of_class}, of which the training split has none" in message


def test_a_file_that_a_card_gives_to_two_splits_or_twice_is_named(tmp_path):
    """A card in the folder decides; `datasets` reads what the card names."""
    write_image_folder(tmp_path, "train/cat/1.png", "train/dog/2.png", "test/dog/3.png", "test/cat/4.png")
    card = (
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: train\n    path: {}\n  - split: test\n    path: {}\n---\n"
    )
    (tmp_path / "README.md").write_text(card.format("train/**", "['test/**', train/cat/1.png]"))
    message = refused(str(tmp_path), "test")
    assert f"{tmp_path}/train/cat/1.png is in the training split and in split 'test'" in message
    assert "README.md" in message
    (tmp_path / "README.md").write_text(card.format("train/**", "test/**"))
    assert [len(open_split(str(tmp_path), name, image_size=8).labels) for name in ("train", "test")] == [2, 2]


def test_a_file_of_two_splits_is_named_whichever_these_are(tmp_path):
    """What is chosen on validation images must not be chosen on test."""
    for name in "ab":
        write_split(tmp_path / "data", name)
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/a.parquet\n"
        "  - split: validation\n    path: data/b.parquet\n  - split: test\n    path: data/b.parquet\n---\n"
    )
    assert "b.parquet is in split 'validation' and in split 'test'" in refused(str(tmp_path), "test")
    assert "b.parquet is in split 'test' and in split 'validation'" in refused(str(tmp_path), "validation")
    assert len(open_split(str(tmp_path), "train", image_size=8).labels)


def test_the_config_and_the_revision_asked_for_are_opened(monkeypatch):
    asked = []

    def load(*arguments, revision):
        asked.append((*arguments, revision))
        raise ValueError("asked")

    monkeypatch.setattr(builder, "load_dataset_builder", load)
    with pytest.raises(DatasetError, match="asked"):
        open_split("user/images", "test", image_size=8, config_name="small", revision="v1")
    with pytest.raises(DatasetError, match="asked"):
        split_names("user/images", "small", "v1")
    assert asked == 2 * [("user/images", "small", "v1")]


def test_one_list_of_labels_may_serve_two_splits(tmp_path):
    write_image_folder(tmp_path, "train/a.png", "test/b.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\ntrain/a.png,0\ntest/b.png,1\n")
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: [train/*, metadata.csv]\n"
        "  - split: test\n    path: [test/*, metadata.csv]\n---\n"
    )
    opened = builder.open_builder(str(tmp_path))
    assert [Path(file).name for file in check_files(opened, "pets", "test")] == ["b.png", "metadata.csv"]


def test_one_parquet_file_of_two_splits_is_named(tmp_path):
    write_split(tmp_path / "data", "a")
    write_split(tmp_path / "data", "b", seed=1)
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: train\n    path: data/*\n  - split: test\n    path: data/b.parquet\n---\n"
    )
    assert "data/b.parquet is in the training split and in split 'test'" in refused(str(tmp_path), "test")
    assert "twice in split 'test+test'" in refused(str(tmp_path), "test+test")


# --- fingerprints ---------------------------------------------------------------------------------------------------


def fingerprint(folder, split="train", **settings):
    return open_split(str(folder), split, image_size=8, **settings).fingerprint


def test_the_same_rows_have_the_same_fingerprint_wherever_they_lie(tmp_path):
    """As a stream and in memory, in another folder, in two files, and as the files of a folder of images."""
    write_image_folder(tmp_path / "files", "train/moth/0.png", "train/zebra/1.png", "train/zebra/2.png")
    files = [tmp_path / "files/train" / name for name in ("moth/0.png", "zebra/1.png", "zebra/2.png")]
    contents = [file.read_bytes() for file in files]
    write_dataset(tmp_path / "one", "train", contents, [0, 1, 1], ["moth", "zebra"])
    write_dataset(tmp_path / "two", "train-0", contents[:1], [0], ["moth", "zebra"])
    write_dataset(tmp_path / "two", "train-1", contents[1:], [1, 1], ["moth", "zebra"])
    shutil.copytree(tmp_path / "one", tmp_path / "elsewhere")
    expected = fingerprint(tmp_path / "files")
    assert expected and expected == fingerprint(tmp_path / "one", resident_on=torch.device("cpu"))
    assert {expected} == {fingerprint(tmp_path / name) for name in ("one", "two", "elsewhere")}


def test_other_pixels_labels_names_or_an_order_have_another(tmp_path):
    images, labels = make_images(3, (6, 9)), [2, 0, 1]
    brighter = images[1].copy()
    brighter[5, 8, 2] ^= 1
    kinds = {
        "same": (images, labels, NAMES),
        "pixel": ([images[0], brighter, images[2]], labels, NAMES),
        "label": (images, [2, 1, 1], NAMES),
        "names": (images, labels, ["ant", "zebra", "moth"]),
        "order": (images[::-1], labels[::-1], NAMES),
        "fewer": (images[:2], labels[:2], NAMES),
        "ends of files": ([b"ab", b"c"], [0, 1], NAMES),
        "other ends": ([b"a", b"bc"], [0, 1], NAMES),
    }
    for kind, content in kinds.items():
        write_dataset(tmp_path / kind, "train", *content)
    assert len({fingerprint(tmp_path / kind) for kind in kinds}) == len(kinds)
