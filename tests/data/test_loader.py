"""Batches are the same from stream and memory, with any number of workers, processes and interruptions."""

import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from conftest import SAMPLE, write_dataset

from slimresnet.data import loader as loading_module
from slimresnet.data.loader import Loading, TrainingLoader, evaluation_batches
from slimresnet.data.sources.builder import open_builder
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.data.sources.hub_and_folder import StreamedImages
from slimresnet.data.sources.rows import EncodedRows, open_stream
from slimresnet.data.sources.source import DatasetError

CPU = torch.device("cpu")
ROWS = np.flatnonzero(np.arange(500) % 5)  # 400 of the 500 rows, as after a validation split


@pytest.fixture(scope="module")
def streamed():
    return open_split(str(SAMPLE), "test", image_size=32)


@pytest.fixture(scope="module")
def resident():
    return open_split(str(SAMPLE), "test", image_size=32, resident_on=CPU)


def batches(
    split, epoch=1, first_step=0, shuffle_buffer_size=150, batch_size=32, accumulation=1, rows=ROWS, balanced=False,
    **loading,
):  # fmt: skip
    loader = TrainingLoader(
        split,
        rows,
        Loading(CPU, **loading),
        seed=7,
        batch_size=batch_size,
        accumulation=accumulation,
        shuffle_buffer_size=shuffle_buffer_size,
        balanced=balanced,
    )
    return list(loader.epoch(epoch, first_step))


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.pixels, other.pixels) and torch.equal(one.labels, other.labels)
        assert (one.draws.seed, one.draws.epoch, one.draws.first) == (
            other.draws.seed,
            other.draws.epoch,
            other.draws.first,
        )
        assert (one.draws.samples == other.draws.samples).all()


@pytest.mark.processes
@pytest.mark.parametrize("shuffle_buffer_size", [40, 150, 10000])
def test_stream_and_memory_and_workers_give_the_same_bits(streamed, resident, shuffle_buffer_size):
    reference = batches(resident, shuffle_buffer_size=shuffle_buffer_size)
    assert len(reference) == 12 and reference[0].pixels.shape == (32, 3, 32, 32)
    assert_same(batches(streamed, shuffle_buffer_size=shuffle_buffer_size), reference)
    assert_same(batches(streamed, shuffle_buffer_size=shuffle_buffer_size, num_workers=2), reference)
    assert_same(batches(resident, shuffle_buffer_size=shuffle_buffer_size, num_workers=2), reference)


def test_an_epoch_holds_each_sample_once_with_its_own_label(streamed):
    epoch = batches(streamed, batch_size=40)
    assert sum(len(batch.labels) for batch in epoch) == 400
    images = {batch.pixels[i].numpy().tobytes(): int(batch.labels[i]) for batch in epoch for i in range(40)}
    assert len(images) == 400
    (pixels,) = streamed.images.read([ROWS])
    expected = {image.numpy().tobytes(): int(label) for image, label in zip(pixels, streamed.labels[ROWS], strict=True)}
    assert images == expected


def test_epochs_differ(resident):
    assert not torch.equal(batches(resident, epoch=1)[0].labels, batches(resident, epoch=2)[0].labels)


@pytest.mark.processes
def test_going_on_in_the_middle_gives_the_rest(streamed, resident):
    assert_same(batches(streamed, first_step=5), batches(resident)[5:])
    assert_same(batches(streamed, first_step=5, num_workers=2), batches(resident)[5:])


@pytest.mark.processes
@pytest.mark.parametrize("num_workers", [0, 2])
def test_processes_together_see_what_one_sees(streamed, resident, num_workers):
    reference = batches(resident, batch_size=32)
    ranks = [
        batches(streamed, batch_size=8, num_processes=2, process_index=rank, accumulation=2, num_workers=num_workers)
        for rank in range(2)
    ]
    assert len(ranks[0]) == len(ranks[1]) == 2 * len(reference)
    for step, whole in enumerate(reference):
        # positions of a global batch: accumulation first, then the process
        parts = [ranks[rank][2 * step + part] for part in range(2) for rank in range(2)]
        assert torch.equal(torch.cat([part.pixels for part in parts]), whole.pixels)
        assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)
        draws = np.concatenate([part.draws.uniform("crop", 2) for part in parts])
        assert (draws == whole.draws.uniform("crop", 2)).all()


@pytest.mark.processes
def test_a_balanced_order_is_the_same_from_stream_memory_workers_processes_and_a_later_start(streamed, resident):
    """Of four classes, with 40, 10, 5 and 5 rows: most rows come several times, in one batch too."""
    rows = np.sort(
        np.concatenate([np.flatnonzero(resident.labels == each)[:n] for each, n in enumerate((40, 10, 5, 5))])
    )
    asked = {"rows": rows, "balanced": True, "shuffle_buffer_size": 60, "batch_size": 20}
    reference = batches(resident, **asked)
    assert np.bincount(torch.cat([batch.labels for batch in reference])).tolist() == [15, 15, 15, 15]
    assert any(len(set(batch.draws.samples)) < 20 for batch in reference)
    draws = reference[0].draws.uniform("crop", 2)
    assert len(np.unique(draws)) == draws.size  # of places, so that copies of a row are augmented each its own way
    for more in ({}, {"num_workers": 2}):
        assert_same(batches(streamed, **asked, **more), reference)
    assert_same(batches(streamed, first_step=2, **asked), reference[2:])
    ranks = [batches(streamed, **{**asked, "batch_size": 10}, num_processes=2, process_index=rank) for rank in range(2)]
    for whole, parts in zip(reference, zip(*ranks, strict=True), strict=True):
        assert torch.equal(torch.cat([part.pixels for part in parts]), whole.pixels)
        assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)


def test_a_balanced_order_needs_a_buffer_of_all_rows(resident):
    with pytest.raises(DatasetError, match="--shuffle_buffer_size of 399 does not hold: give 400"):
        batches(resident, balanced=True, shuffle_buffer_size=399)


def test_fewer_samples_than_a_batch(resident):
    with pytest.raises(DatasetError, match="400 training images are fewer than one batch of 512"):
        batches(resident, batch_size=256, num_processes=2)


@pytest.mark.processes
@pytest.mark.parametrize("num_processes", [1, 2, 3, 7])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_scores_each_row_once_in_order(streamed, num_processes, num_workers):
    labels = []
    for rank in range(num_processes):
        loading = Loading(CPU, rank, num_processes, num_workers)
        labels += [label for _, label in evaluation_batches(streamed, ROWS, 64, loading)]
    assert torch.equal(torch.cat(labels), torch.from_numpy(streamed.labels[ROWS]))


@pytest.mark.processes
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_corrupt_image_is_one_sentence_from_a_worker_too(tmp_path, num_workers):
    images = list(np.zeros((20, 8, 8, 3), dtype=np.uint8))
    images[13] = b"broken"
    write_dataset(tmp_path, "train", images, [0, 1] * 10, ["a", "b"])
    split = open_split(str(tmp_path), "train", image_size=8)
    loader = TrainingLoader(
        split,
        np.arange(20),
        Loading(CPU, num_workers=num_workers),
        seed=0,
        batch_size=4,
        accumulation=1,
        shuffle_buffer_size=20,
    )
    before = {*multiprocessing.active_children()}
    with pytest.raises(DatasetError) as error:
        list(loader.epoch(0))
    assert "row 13" in str(error.value) and "Traceback" not in str(error.value)
    assert {*multiprocessing.active_children()} <= before


def test_a_stream_that_ends_early_is_named():
    stream = open_stream(open_builder(str(SAMPLE)), str(SAMPLE), "test")
    longer = StreamedImages(EncodedRows(stream, "img", "the sample"), num_rows=600, pixel_format=PixelFormat(32))
    with pytest.raises(DatasetError, match="the sample ended after 500 rows, where 600 labels were read"):
        list(longer.read([np.array([550])]))


@pytest.mark.processes
def test_a_signal_that_comes_before_a_workers_handlers_stand_does_not_end_it(monkeypatch):
    handlers = loading_module.pass_first_signal_over

    def signalled(worker_id):
        os.kill(os.getpid(), signal.SIGTERM)
        handlers(worker_id)

    monkeypatch.setattr(loading_module, "pass_first_signal_over", signalled)
    split = open_split(str(SAMPLE), "test", image_size=32)
    batches = loading_module.load_batches(
        split, [np.arange(4), np.arange(4, 8)], Loading(torch.device("cpu"), num_workers=1)
    )
    assert [len(pixels) for pixels, _ in batches] == [4, 4]
