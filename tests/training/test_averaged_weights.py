"""BatchNorm statistics that are the averaged weights' own."""

import pytest
import torch
from conftest import SAMPLE, tiny_run_flags
from training_runs import Validation, assert_same_weights, read, train, train_on_two, weights
from transformers import TrainerCallback

from modeling_slimresnet import SlimResNetForImageClassification
from slimresnet.cli.train import parse_recipe
from slimresnet.data.inputs import TrainingInputs
from slimresnet.data.loader import TrainingBatch
from slimresnet.data.randomness import Draws, sample_order
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.splits import random_subset, stratified_split
from slimresnet.recipe.checks import RecipeError
from slimresnet.run_folder.checkpoints import list_checkpoints
from slimresnet.training import averaged_weights

RECOMPUTE = ["--ema_decay=0.9", "--ema_batchnorm=recompute"]


@pytest.fixture
def recomputed(flags):
    return [*flags, *RECOMPUTE]


def trained_inputs(recipe, model, epoch, num_steps):
    """Pixel values of the first steps of an epoch, without the program's loader."""
    split = open_split(str(SAMPLE), "train", image_size=32)
    rows, _ = stratified_split(split.labels, recipe.validation_size, recipe.seed)
    rows = random_subset(rows, recipe.max_train_samples, recipe.seed)
    order = rows[sample_order(recipe.seed, epoch, len(rows), recipe.shuffle_buffer_size)]
    make_inputs = TrainingInputs(recipe, model.config, recipe.num_train_epochs)
    for first in range(0, num_steps * 32, 32):
        samples = order[first : first + 32]
        [pixels] = split.images.read([samples])
        batch = TrainingBatch(
            pixels, torch.from_numpy(split.labels[samples]), Draws(recipe.seed, epoch, first, samples)
        )
        yield make_inputs(batch)["pixel_values"]


def test_statistics_are_the_mean_over_batches_that_the_averaged_weights_see(recomputed, monkeypatch):
    """By hand: the mean of each batch's mean and unbiased variance before the stem's BatchNorm, in the last epoch."""
    monkeypatch.setattr(averaged_weights, "STATISTICS_IMAGES", 70)  # three batches of 32
    folder = train(recomputed, "--num_train_epochs=2", "--num_final_light_augmentation_epochs=1")
    recipe = parse_recipe([*recomputed, "--num_train_epochs=2", "--num_final_light_augmentation_epochs=1"])
    model = SlimResNetForImageClassification.from_pretrained(folder)
    name, norm = next((name, each) for name, each in model.named_modules() if isinstance(each, torch.nn.BatchNorm2d))
    seen = []
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        for pixel_values in trained_inputs(recipe, model, epoch=1, num_steps=3):
            model(pixel_values)
    for kept, values in (
        (norm.running_mean, [each.mean(dim=(0, 2, 3)) for each in seen]),
        (norm.running_var, [each.var(dim=(0, 2, 3)) for each in seen]),
    ):
        torch.testing.assert_close(kept, torch.stack(values).mean(dim=0), rtol=1e-4, atol=1e-5)
    assert weights(folder)[f"{name}.num_batches_tracked"] == 3


def test_the_weights_are_those_of_averaged_statistics_and_the_statistics_are_not(flags, tmp_path):
    averaged = weights(train(flags, "--ema_decay=0.9"))
    recomputed = weights(train(flags, *RECOMPUTE, f"--output_dir={tmp_path / 'recomputed'}"))
    for name, value in averaged.items():
        is_statistic = "running" in name or "num_batches" in name
        assert torch.equal(value, recomputed[name]) != is_statistic, name


def test_what_is_scored_on_validation_is_what_is_saved(recomputed):
    folder = train(recomputed, "--max_train_steps=9")  # the second epoch is cut short
    entry = read(folder, "trainer_state.json")["log_history"][-1]
    assert read(folder)["eval_loss"] == pytest.approx(entry["eval_loss_ema"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [["--validation_size=0"], ["--load_best_model_at_end"], ["--streaming=true", "--dataloader_num_workers=2"]],
    ids=["no validation", "best", "stream"],
)
def test_resuming_from_any_checkpoint_ends_in_the_same_weights(recomputed, tmp_path, kind):
    """The last checkpoint is one of the last step, behind which nothing is left but the statistics."""
    flags = [*recomputed, *kind, "--max_train_samples=96", "--checkpointing_steps=1", "--save_total_limit=100"]

    def run(*more, first_epoch=0):
        accuracies = [0.5, 0.7, 0.6][first_epoch:]
        return train(flags, *more, callbacks=[Validation(raw=accuracies, averaged=accuracies)])

    whole = run()
    *_, last = checkpoints = list_checkpoints(whole)
    assert last.name == "checkpoint-9"
    for checkpoint, epoch in ((checkpoints[1], 0), (checkpoints[2], 1), (last, 3)):
        resumed = run(
            f"--resume_from_checkpoint={checkpoint}", f"--output_dir={tmp_path / checkpoint.name}", first_epoch=epoch
        )
        assert_same_weights(resumed, whole)


@pytest.mark.parametrize(("size", "times"), [(0, 1), (100, 3)])
def test_statistics_are_recomputed_where_somebody_looks_and_not_twice(recomputed, monkeypatch, size, times):
    """Without validation once, at the end; with it once an epoch, the last of which is the end."""
    calls = []
    update = averaged_weights.update_bn
    monkeypatch.setattr(averaged_weights, "update_bn", lambda *args: (calls.append(args), update(*args)))
    train(recomputed, f"--validation_size={size}", "--max_train_samples=64")
    assert len(calls) == times


def test_a_callback_that_stops_the_run_gets_statistics_too(recomputed):
    class Stops(TrainerCallback):
        def on_epoch_end(self, args, state, control, **_):
            control.should_training_stop = True

    folder = train(recomputed, "--validation_size=0", callbacks=[Stops()])
    tracked = [value for name, value in weights(folder).items() if "num_batches" in name]
    assert read(folder, "trainer_state.json")["global_step"] == 7 and all(value == 7 for value in tracked)


def test_augmentation_is_not_in_the_precision_of_the_network(recomputed, monkeypatch):
    """Around the blur, as around every transform, there is no autocast in training, and none here."""
    seen = {}
    update = averaged_weights.update_bn

    def look(images, network):
        def watch(images):
            for each in images:
                seen.setdefault("images", []).append((each.dtype, torch.is_autocast_enabled("cpu")))
                yield each

        network.network.slimresnet.embedder.register_forward_pre_hook(
            lambda *_: seen.setdefault("network", []).append(torch.is_autocast_enabled("cpu"))
        )
        update(watch(images), network)

    monkeypatch.setattr(averaged_weights, "update_bn", look)
    train(recomputed, "--validation_size=0", "--max_train_steps=2", "--mixed_precision=bf16")
    assert {*seen["images"]} == {(torch.float32, False)} and {*seen["network"]} == {True}


def test_without_an_average_there_is_nothing_to_recompute():
    with pytest.raises(RecipeError, match="--ema_batchnorm recompute needs an --ema_decay above 0"):
        parse_recipe(["--ema_batchnorm=recompute"])


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_save_the_statistics_that_they_score(tiny_config_dir, tmp_path):
    flags = [*tiny_run_flags(tiny_config_dir, tmp_path / "run"), *RECOMPUTE, "--max_eval_samples=1000"]
    folder = train_on_two([*flags, "--num_train_epochs=2"], tmp_path)
    entry = read(folder, "trainer_state.json")["log_history"][-1]
    assert read(folder)["eval_loss"] == pytest.approx(entry["eval_loss_ema"], abs=1e-6)
    assert all(value == 7 for name, value in weights(folder).items() if "num_batches" in name)
    assert all(value.isfinite().all() for name, value in weights(folder).items() if "running" in name)
