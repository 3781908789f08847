"""Augmented copies of a batch: each by draws of its own, the same in any launch, and counted in what a run computes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny_run_flags
from stand_in_gpu import StandInGpu
from training_runs import Told, assert_same_weights, read, train

import slimresnet.api.train
import slimresnet.data.inputs
from slimresnet.data.feed import training_inputs
from slimresnet.data.inputs import TrainingInputs, grouped
from slimresnet.data.loader import Loading, TrainingBatch, TrainingLoader, joined
from slimresnet.data.randomness import Draws
from slimresnet.data.sources.memory import ResidentImages
from slimresnet.data.sources.source import ImageSplit
from slimresnet.hub.run_facts import training_facts
from slimresnet.recipe.settings import Recipe

CPU = torch.device("cpu")
SAMPLES, BATCH, COPIES = 60, 12, 3
FULL = Recipe(
    crop_padding=2, trivial_augment=True, alternating_flip=True, vertical_flip_prob=0.5, random_erasing_prob=0.5,
    cutmix_prob=0.4, mixup_prob=0.4, label_smoothing_factor=0.1, progressive_resizing=["12:0.5"],
)  # fmt: skip


@pytest.fixture(scope="module")
def split():
    pixels = torch.randint(0, 256, (SAMPLES, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    source = SimpleNamespace(read=lambda batches: (pixels[rows] for rows in batches))
    return ImageSplit(np.arange(SAMPLES) * 7 % 10, list("abcdefghij"), ResidentImages(source, SAMPLES, CPU))


def loader_of(split, copies, batch_size=BATCH, rank=0, num_processes=1):
    return TrainingLoader(
        split, np.arange(SAMPLES), Loading(CPU, rank, num_processes), seed=3, batch_size=batch_size, accumulation=1,
        shuffle_buffer_size=SAMPLES, copies=copies,
    )  # fmt: skip


def inputs_of(split, config, copies, first_step=0, **launch):
    """Of four epochs of five steps, whose images are small at first."""
    loader, make_inputs = loader_of(split, copies, **launch), TrainingInputs(FULL, config, num_epochs=4)
    batches = training_inputs(loader, make_inputs, first_step, 20)
    return [{name: value.clone() for name, value in inputs.items()} for inputs in batches]


def assert_same(batches, others):
    assert len(batches) == len(others) > 0
    for inputs, expected in zip(batches, others, strict=True):
        assert inputs.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in inputs.items())


@pytest.mark.parametrize("columns", [1, 2, 5])
def test_the_draws_of_a_copy_are_its_own_and_do_not_depend_on_the_number_of_copies(columns):
    rows = np.random.default_rng(0).permutation(5000)[:2000]

    def drawn(copies):
        draws = Draws(1, 2, 40, rows, copies)
        numbers = np.column_stack([draws.uniform("crop", columns), draws.uniform_of_samples("flip")])
        return numbers.reshape(copies, len(rows), columns + 1)

    alone, two, three = drawn(1), drawn(2), drawn(3)
    before = Draws(1, 2, 40, rows)
    assert (alone[0, :, :columns] == before.uniform("crop", columns)).all()
    assert (alone[0, :, columns] == before.uniform_of_samples("flip")).all()
    assert (two == three[:2]).all() and (alone == two[:1]).all()
    every = np.concatenate(three, axis=1)
    assert np.abs(np.corrcoef(every, rowvar=False) - np.eye(every.shape[1])).max() < 0.08
    assert np.abs(every.mean(axis=0) - 0.5).max() < 0.03


def test_no_two_copies_of_64_share_their_numbers():
    names = ("crop", "cutmix", "trivial augment", "horizontal flip", "vertical flip", "gaussian blur", "random erasing")
    draws = Draws(0, 0, 0, np.arange(1), copies=64)
    numbers = np.concatenate([draws.uniform(name, 1) for name in names])
    assert len(np.unique(numbers)) == 64 * len(names)


def test_a_batch_holds_its_images_and_then_all_of_them_again(split):
    for batch, alone in zip(loader_of(split, COPIES).epoch(1), loader_of(split, 1).epoch(1), strict=True):
        assert torch.equal(batch.pixels, torch.cat(COPIES * [alone.pixels])) and len(batch.pixels) == COPIES * BATCH
        assert torch.equal(batch.labels, torch.cat(COPIES * [alone.labels]))
    assert loader_of(split, COPIES).total_batch_size == BATCH  # images, not copies
    assert loader_of(split, COPIES).steps_per_epoch == SAMPLES // BATCH


def test_the_first_copy_is_what_it_is_alone_and_the_others_are_others(split, tiny_config):
    alone = inputs_of(split, tiny_config, 1)
    for inputs, first in zip(inputs_of(split, tiny_config, COPIES), alone, strict=True):
        for name, value in inputs.items():
            parts = value.split(BATCH)
            assert len(parts) == COPIES and torch.equal(parts[0], first[name])
            assert not torch.equal(parts[1], parts[0]) and not torch.equal(parts[1], parts[2])


@pytest.mark.parametrize("copies", [2, 3])
def test_inputs_do_not_depend_on_groups_streams_or_an_interruption(split, tiny_config, monkeypatch, copies):
    expected = inputs_of(split, tiny_config, copies)
    assert_same(inputs_of(split, tiny_config, copies, first_step=7), expected[7:])
    sizes = []
    monkeypatch.setattr(slimresnet.data.inputs, "joined", lambda group: sizes.append(len(group)) or joined(group))
    monkeypatch.setattr(slimresnet.data.inputs, "batches_at_once", lambda pixels: 3)
    assert_same(inputs_of(split, tiny_config, copies), expected)
    assert max(sizes) == 3
    with monkeypatch.context() as patch:
        StandInGpu().install(patch)
        assert_same(inputs_of(split, tiny_config, copies), expected)


def test_processes_together_make_the_copies_that_one_makes(split, tiny_config, monkeypatch):
    whole = inputs_of(split, tiny_config, COPIES)
    for at_once in (1, 2):  # positions of a process have gaps between its batches
        monkeypatch.setattr(slimresnet.data.inputs, "batches_at_once", lambda pixels, at_once=at_once: at_once)
        ranks = [inputs_of(split, tiny_config, COPIES, batch_size=6, rank=rank, num_processes=2) for rank in (0, 1)]
        for inputs, *shares in zip(whole, *ranks, strict=True):
            for name, value in inputs.items():
                by_copy = [torch.cat(parts) for parts in zip(*(share[name].split(6) for share in shares), strict=True)]
                assert torch.equal(torch.cat(by_copy), value)


@pytest.mark.parametrize("batch_size", [2, 5, 6])
def test_an_image_is_mixed_with_another_image_never_with_a_copy_of_itself(tiny_config, batch_size):
    """Each image has a class of its own, which stays its share alone where it is mixed with itself."""
    pixels, labels = torch.zeros(batch_size, 3, 16, 16, dtype=torch.uint8), torch.arange(batch_size)
    recipe = Recipe(crop_padding=0, horizontal_flip_prob=0.0, mixup_prob=1.0)
    batch = TrainingBatch(pixels.repeat(3, 1, 1, 1), labels.repeat(3), Draws(0, 0, 0, np.arange(batch_size), copies=3))
    targets = TrainingInputs(recipe, tiny_config, num_epochs=1)(batch)["labels"]
    assert targets.shape == (3 * batch_size, 10) and ((targets > 0).sum(dim=1) == 2).all()


def test_a_group_counts_the_bytes_of_copies(split, monkeypatch):
    monkeypatch.setattr(slimresnet.data.inputs, "_BYTES_AT_ONCE", 12 * BATCH * 3 * 16 * 16)
    for copies, expected in ((1, 12), (2, 6), (3, 4), (64, 1)):
        batch = next(loader_of(split, copies).epoch(0))
        on_device = TrainingBatch(batch.pixels.to("meta"), batch.labels, batch.draws)
        assert len(next(grouped(iter([on_device] * 20)))) == expected


# --- whole runs -----------------------------------------------------------------------------------------------------

TWO_STEPS = ("--max_train_steps=2", "--checkpointing_steps=1", "--mixup_prob=0.3", "--alternating_flip")


@pytest.fixture(scope="module")
def with_copies(tmp_path_factory, tiny_config_dir):
    """Two steps of three copies: the folder, and the sizes of the batches that the network got."""
    sizes = []
    sees = Told(on_substep_end=lambda state, inputs, **_: sizes.append({len(value) for value in inputs.values()}))
    flags = tiny_run_flags(tiny_config_dir, tmp_path_factory.mktemp("copies") / "run")
    return train(flags, *TWO_STEPS, "--augmented_copies=3", callbacks=[sees]), sizes


def test_a_run_counts_every_copy_that_it_computes_on(with_copies, flags, tmp_path, capsys, monkeypatch):
    folder, sizes = with_copies
    assert sizes == [{96}, {96}]
    pictured = []
    monkeypatch.setattr(slimresnet.api.train, "plot_training_samples", lambda *seen: pictured.append(seen))
    plain = train(flags, *TWO_STEPS)
    printed = capsys.readouterr().out
    assert "batch    32 images a step = 32 × 1 processes × 1 accumulated\n" in printed
    assert "a run of 64 images does not repay it" in printed
    again = train(flags, *TWO_STEPS, "--augmented_copies=3", f"--output_dir={tmp_path / 'again'}")
    printed = capsys.readouterr().out
    assert "batch    32 images a step = 32 × 1 processes × 1 accumulated, × 3 augmented copies\n" in printed
    assert "a run of 192 images does not repay it" in printed
    assert_same_weights(folder, again)
    first, second = pictured  # sixteen images, not their copies; the first copy of each
    assert all(len(value) == 16 for value in second[:3])
    assert all(torch.equal(value, other) for value, other in zip(first[:3], second[:3], strict=True))
    results, expected = read(folder), read(plain)
    assert results["total_flos"] == 3 * expected["total_flos"]
    assert results["train_batch_size"] == expected["train_batch_size"] == 32
    for figures, images in ((results, 192), (expected, 64)):
        assert figures["train_samples_per_second"] * figures["train_runtime"] == pytest.approx(images)
    [epoch] = read(folder, "trainer_state.json")["log_history"]
    assert epoch["step"] == 2 and np.isfinite(epoch["loss"])
    facts = training_facts(results, Recipe(augmented_copies=3))
    assert facts[0].endswith(", 32 images an optimiser step, each in 3 augmented copies")
    assert "Batch augmentation: Hoffer" in (folder / "README.md").read_text()
    assert "mixup: Zhang" in (plain / "README.md").read_text()


def test_a_stream_and_a_resumed_run_train_on_the_same_copies(with_copies, flags, tmp_path):
    folder, _ = with_copies
    more = [*TWO_STEPS, "--augmented_copies=3"]
    streamed = train(flags, *more, "--streaming=true", "--save_total_limit=9")
    assert_same_weights(folder, streamed)
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    (streamed / "checkpoint-1").rename(resumed / "checkpoint-1")
    train(flags, *more, f"--output_dir={resumed}", "--resume_from_checkpoint=last")
    assert_same_weights(folder, resumed)
