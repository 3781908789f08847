"""Sources take each other's place, one is found by the file that it lies in, and a dataset's name is said in full."""

import numpy as np
import pytest
import torch
from conftest import SAMPLE

import slimresnet.data.sources
from slimresnet.data.corruptions.standard import CORRUPTIONS
from slimresnet.data.loader import Loading, load_batches
from slimresnet.data.opening import open_data
from slimresnet.data.sources import hub_and_folder
from slimresnet.data.sources.arrays import open_arrays
from slimresnet.data.sources.corrupted import CorruptedImages
from slimresnet.data.sources.dataset import describe_dataset, find_opener, open_split, split_names
from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.data.sources.memory import ResidentImages
from slimresnet.data.sources.prediction import open_images
from slimresnet.data.sources.source import DatasetError, ImageSplit
from slimresnet.recipe.settings import Recipe

CPU = torch.device("cpu")
ADDED = """
from pathlib import Path

import numpy as np
import torch

from slimresnet.data.sources.source import DatasetError, ImageSplit

NAMES = {"train": 40, "test": 6}


class GreyImages:
    uses_workers = True

    def __init__(self, image_size):
        self._image_size = image_size

    def read(self, batches):
        for rows in batches:
            levels = torch.from_numpy(rows.astype(np.uint8)).view(-1, 1, 1, 1)
            yield levels.expand(-1, 3, self._image_size, self._image_size).contiguous()


def recognises(dataset_name):
    return dataset_name.startswith("grey:")


def open_split(request):
    if request.split not in NAMES:
        raise DatasetError(f"{request.dataset_name} has no split {request.split!r}.")
    labels = np.arange(NAMES[request.split]) % int(request.dataset_name.removeprefix("grey:"))
    return ImageSplit(labels, ["dark", "light"], GreyImages(request.pixel_format.image_size), fingerprint=request.split)


def split_names(dataset_name, config_name, revision):
    return list(NAMES)
"""


@pytest.fixture
def added(tmp_path, monkeypatch):
    """A file among the sources, which nothing else names."""
    (tmp_path / "added_grey.py").write_text(ADDED)
    monkeypatch.setattr(slimresnet.data.sources, "__path__", [*slimresnet.data.sources.__path__, str(tmp_path)])


def test_a_file_is_all_that_a_new_source_takes(added):
    """Training, from a stream and in memory, evaluation and prediction open it by its name."""
    for streaming, num_workers in ((True, 2), (False, 0)):
        recipe = Recipe(dataset_name="grey:2", streaming=streaming, validation_size=10)
        data = open_data(recipe, Loading(CPU, num_workers=num_workers), PixelFormat(8))
        assert (len(data.train_rows), len(data.validation_rows), len(data.test_rows)) == (30, 10, 6)
        [(pixels, labels)] = load_batches(data.train, [np.array([7, 2])], Loading(CPU, num_workers=num_workers))
        assert pixels.shape == (2, 3, 8, 8) and pixels[:, 0, 0, 0].tolist() == [7, 2] and labels.tolist() == [1, 0]
    assert split_names("grey:2") == ["train", "test"]
    named = list(open_images("grey:2", PixelFormat(4), split="test").stream)
    assert [image.name for image in named] == ["0", "1", "2", "3", "4", "5"]
    assert all((image.pixels == row).all() and image.pixels.shape == (4, 4, 3) for row, image in enumerate(named))
    with pytest.raises(DatasetError, match="grey:2 has no split 'dev'"):
        open_split("grey:2", "dev", image_size=8)


def test_all_other_names_are_left_to_the_hub_and_folders(added):
    for name in (str(SAMPLE), "uoft-cs/cifar10", "grey", "", "no\0name"):
        assert find_opener(name) is hub_and_folder


def test_sources_take_each_others_place(tmp_path):
    """Each reads the same rows, of a stream, of memory and of a file, and each of them corrupted."""
    streamed = open_split(str(SAMPLE), "test", image_size=32)
    rows = np.array([5, 0, 31])
    [expected] = streamed.images.read([rows])
    [first] = streamed.images.read([np.arange(32)])
    np.save(tmp_path / "first.npy", first.permute(0, 2, 3, 1).numpy())
    np.save(tmp_path / "labels.npy", streamed.labels[:32])
    arrays = open_arrays(tmp_path, PixelFormat(32), streamed.label_names)["first"].images
    sources = [streamed.images, arrays, *(ResidentImages(each, 32, CPU) for each in (streamed.images, arrays))]
    assert [source.uses_workers for source in sources] == [True, True, False, False]
    corrupted = []
    for source in sources:
        assert [pixels.tolist() for pixels in source.read([rows])] == [expected.tolist()]
        split = ImageSplit(streamed.labels, streamed.label_names, source)
        [pixels] = CorruptedImages(split, "fog", CORRUPTIONS["fog"], 3, seed=1).read([rows])
        corrupted.append(pixels)
        assert pixels.shape == expected.shape and not torch.equal(pixels, expected)
    assert all(torch.equal(pixels, corrupted[0]) for pixels in corrupted)


def test_a_source_says_whether_workers_read_it(monkeypatch):
    """Whatever its class is."""

    class Held:
        uses_workers = False

        def read(self, batches):
            return (torch.full((len(rows), 3, 4, 4), 9, dtype=torch.uint8) for rows in batches)

    def refuse(*_, **__):
        raise AssertionError("workers")

    monkeypatch.setattr("slimresnet.data.loader.DataLoader", refuse)
    split = ImageSplit(np.array([1, 0, 1]), ["a", "b"], Held())
    [(pixels, labels)] = load_batches(split, [np.array([0, 2])], Loading(CPU, num_workers=2))
    assert pixels.unique().tolist() == [9] and labels.tolist() == [1, 1]
    Held.uses_workers = True
    with pytest.raises(AssertionError, match="workers"):
        list(load_batches(split, [np.array([0, 2])], Loading(CPU, num_workers=2)))


@pytest.mark.parametrize("name", ["cifar10", "uoft-cs/cifar10"])
def test_a_folder_that_shadows_a_dataset_of_the_hub_is_said_unmistakably(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert describe_dataset(name) == f"{name}, a dataset on the Hub"
    (tmp_path / name).mkdir(parents=True)
    said = f"{name}, the folder {tmp_path.resolve() / name} and not the dataset of that name on the Hub"
    assert describe_dataset(name) == said


@pytest.mark.parametrize("name", ["./cifar10", "{}/uoft-cs/cifar10", "uoft-cs/../cifar10", "cifar10/", "my pictures"])
def test_a_name_that_only_a_folder_can_have_is_said_with_its_place(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for folder in ("cifar10", "uoft-cs/cifar10", "my pictures"):
        (tmp_path / folder).mkdir(parents=True)
    name = name.format(tmp_path)
    place = str((tmp_path / name).resolve())
    assert describe_dataset(name) == (name if name == place else f"{name}, the folder {place}")


def test_a_dataset_of_another_source_is_not_said_to_be_on_the_hub(added):
    assert describe_dataset("grey:2") == "grey:2, read by slimresnet.data.sources.added_grey"
