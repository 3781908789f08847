"""The inputs of a run: the same ones whether they are made when they are asked for or ahead, and no others."""

import multiprocessing
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SAMPLE
from stand_in_gpu import StandInGpu

import slimresnet.data.inputs
from slimresnet.data.feed import training_inputs
from slimresnet.data.inputs import TrainingInputs, grouped
from slimresnet.data.loader import Loading, TrainingLoader
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.memory import ResidentImages
from slimresnet.data.sources.source import DatasetError, ImageSplit
from slimresnet.recipe.settings import Recipe

CPU = torch.device("cpu")
SAMPLES, BATCH, GROUP = 84, 6, 3  # 14 batches and 7 steps an epoch; groups of 3, 3, 3, 3 and 2 batches
STEPS = 7
RECIPE = Recipe(
    crop_padding=2, trivial_augment=True, random_erasing_prob=0.5, cutmix_prob=0.5, label_smoothing_factor=0.1,
    progressive_resizing=["9:0.5", "12:0.8"], num_light_augmentation_epochs=1,
)  # fmt: skip


class Images:
    """
    Random images; like a stream of them, but without workers.

    Attributes:
        reads: batches that were read.
        broken: a batch that cannot be read, counted from 0.
    """

    uses_workers = False

    def __init__(self):
        pixels = np.random.default_rng(0).integers(0, 256, (SAMPLES, 3, 16, 16), dtype=np.uint8)
        source = SimpleNamespace(read=lambda batches: (torch.from_numpy(pixels[rows]) for rows in batches))
        self._images = ResidentImages(source, SAMPLES, CPU)
        self.reads, self.broken = 0, None

    def read(self, batches):
        for pixels in self._images.read(batches):
            if self.reads == self.broken:
                raise DatasetError("a broken image")
            self.reads += 1
            yield pixels


@pytest.fixture
def images():
    return Images()


@pytest.fixture
def feed(images, tiny_config):
    """`feed(first_step, max_steps)`: the inputs of a run."""
    split = ImageSplit(np.arange(SAMPLES) * 7 % 10, list("abcdefghij"), images)
    loader = TrainingLoader(
        split, np.arange(SAMPLES), Loading(CPU), seed=5, batch_size=BATCH, accumulation=2, shuffle_buffer_size=SAMPLES
    )
    make_inputs = TrainingInputs(RECIPE, tiny_config, num_epochs=5)

    def feed(first_step, max_steps):
        return training_inputs(loader, make_inputs, first_step, max_steps)

    feed.loader, feed.make_inputs = loader, make_inputs
    return feed


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(slimresnet.data.inputs, "batches_at_once", lambda pixels: GROUP)
    return StandInGpu().install(monkeypatch)


RUNS = [(0, 5 * STEPS), (0, 3), (STEPS + 5, 4 * STEPS + 2), (2 * STEPS, 2 * STEPS + 1)]


def by_epochs(feed, first_step, max_steps):
    """The inputs of a run, an epoch after the other, each of them whole."""
    every = [
        inputs
        for epoch in range(5)
        for group in grouped(feed.loader.epoch(epoch))
        for inputs in feed.make_inputs.together(group)
    ]
    return every[2 * first_step : 2 * max_steps]


def assert_same(inputs, others):
    assert len(inputs) == len(others)
    for values, expected in zip(inputs, others, strict=True):
        assert values.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in values.items())


@pytest.mark.parametrize(("first_step", "max_steps"), RUNS)
def test_a_run_is_its_epochs_and_loads_nothing_before_it_is_asked_for(feed, images, first_step, max_steps):
    expected = by_epochs(feed, first_step, max_steps)
    assert len({values["pixel_values"].shape for values in by_epochs(feed, 0, 5 * STEPS)}) == 3
    images.reads = 0
    inputs = []
    for values in feed(first_step, max_steps):
        inputs.append(values)
        assert images.reads == len(inputs)
    assert_same(inputs, expected)


@pytest.mark.parametrize(("first_step", "max_steps"), RUNS)
def test_inputs_that_are_made_ahead_are_the_same(feed, images, monkeypatch, first_step, max_steps):
    """Over epochs of three sizes, from or to the middle of one; the stand-in's are NaN before the wait."""
    expected = by_epochs(feed, first_step, max_steps)
    images.reads = 0
    monkeypatch.setattr(slimresnet.data.inputs, "batches_at_once", lambda pixels: GROUP)
    gpu = StandInGpu().install(monkeypatch)
    inputs = [{name: value.clone() for name, value in values.items()} for values in feed(first_step, max_steps)]
    assert_same(inputs, expected)
    assert images.reads == len(inputs)
    assert gpu.current is gpu.main


def test_every_batch_is_handed_out_on_the_main_stream_and_its_memory_is_kept_for_it(feed, gpu):
    for values in feed(0, 2 * STEPS):
        assert gpu.current is gpu.main
        assert {value.data_ptr() for value in values.values()} <= {*gpu.main.used}


def test_each_group_is_made_in_the_middle_of_the_one_before(feed, gpu):
    """So a GPU has steps in its queue meanwhile, also at the end of an epoch; and each is waited for once."""
    for _ in feed(5, STEPS + 4):
        gpu.log.append("step")
    main, first, second = "main", [0, 0, 0], [1, 1, 1]
    assert gpu.log == [
        (main, "records", 1), ("side", "waits", 1),  # for the images
        ("side", "makes", first), ("side", "records", 2),
        (main, "waits", 2), "step",
        ("side", "makes", [0]), ("side", "records", 3), "step", "step", (main, "records", 4),
        (main, "waits", 3),
        ("side", "makes", second), ("side", "records", 5), "step", (main, "records", 6),  # of the next epoch
        (main, "waits", 5), "step",
        ("host", "waits", 4), ("side", "makes", second), ("side", "records", 7), "step", "step", (main, "records", 8),
        (main, "waits", 7), "step",
        ("host", "waits", 6), ("side", "makes", [1, 1]), ("side", "records", 9), "step", "step", (main, "records", 10),
        (main, "waits", 9), "step",
        ("host", "waits", 8), "step", (main, "records", 11),
    ]  # fmt: skip


def test_an_image_that_cannot_be_read_ends_the_run_at_its_step_on_a_cpu(feed, images):
    images.broken = 10
    inputs = feed(0, 3 * STEPS)
    for _ in range(10):
        next(inputs)
    with pytest.raises(DatasetError, match="a broken image"):
        next(inputs)


def test_an_image_that_cannot_be_read_ends_the_run_before_its_group_on_a_gpu(feed, images, gpu):
    """Its group is loaded in the middle of the group before, whose steps are taken all the same."""
    images.broken = 10
    inputs = feed(0, 3 * STEPS)
    for _ in range(3 * GROUP):
        next(inputs)
    with pytest.raises(DatasetError, match="a broken image"):
        next(inputs)
    assert gpu.current is gpu.main


@pytest.fixture
def streamed(tiny_config):
    """The inputs of two epochs of 4 batches, which a worker reads."""
    loader = TrainingLoader(
        open_split(str(SAMPLE), "test", image_size=16), np.arange(32), Loading(CPU, num_workers=1),
        seed=0, batch_size=8, accumulation=1, shuffle_buffer_size=32,
    )  # fmt: skip
    return training_inputs(loader, TrainingInputs(Recipe(), tiny_config, num_epochs=2), 0, 8)


def num_workers():
    return len(multiprocessing.active_children())


@pytest.mark.processes
def test_on_a_cpu_the_workers_of_an_epoch_end_with_it_and_the_next_ones_start_with_the_next(streamed):
    before = num_workers()
    workers = []
    for _ in streamed:
        workers.append(num_workers() - before)
    assert workers == [1, 1, 1, 0] * 2


@pytest.mark.processes
@pytest.mark.parametrize(("num_taken", "epoch"), [(1, 0), (4, 1)])
def test_closing_ends_the_workers_those_of_the_next_epoch_too(streamed, monkeypatch, num_taken, epoch):
    monkeypatch.setattr(slimresnet.data.inputs, "batches_at_once", lambda pixels: 2)
    gpu, before = StandInGpu().install(monkeypatch), num_workers()
    for _ in range(num_taken):
        next(streamed)
    assert [entry for entry in gpu.log if "makes" in entry][-1] == ("side", "makes", [epoch, epoch])
    assert num_workers() == before + 1
    streamed.close()
    assert num_workers() == before
