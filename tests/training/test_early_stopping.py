"""Which epoch is best, by which score, and when a run ends before its last epoch."""

import dataclasses
import os
import signal

import pytest
from training_runs import (
    SECONDS,
    Told,
    assert_same_weights,
    read,
    start,
    train,
    train_on_two,
    wait_until,
)
from transformers import TrainerCallback

from slimresnet.cli import train as train_script
from slimresnet.cli.train import parse_recipe
from slimresnet.data.opening import open_data
from slimresnet.hub.card_text import render_model_card
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import Recipe
from slimresnet.run_folder.checkpoints import list_checkpoints
from slimresnet.training import run as run_module
from slimresnet.training.loop import stops_early
from slimresnet.training.optim.schedule import schedule
from slimresnet.training.state.progress import Progress


def validated(score, values):
    """Has validation find these values of a score, an epoch each, of which each is a step."""

    def find(state, metrics, **_):
        metrics[f"eval_{score}"] = values[state.global_step - 1]

    return Told(on_evaluate=find)


@pytest.fixture
def short(flags):
    """Of a run of up to eight epochs, each a step, whose checkpoints stay."""
    return [*flags, "--max_train_samples=32", "--num_train_epochs=8", "--save_total_limit=100", "--temperature=1"]


def without_timing(state):
    for entry in state["log_history"]:
        del entry["train_samples_per_second"], entry["data_time"]
    return state


def test_a_run_ends_where_nothing_has_improved_and_goes_on_to_the_same_end(short, tmp_path, capsys):
    """Macro F1 is best behind step 3; step 5 is better than 4 alone. From any checkpoint, its last one too."""
    flags = [*short, "--early_stopping_patience=3", "--metric_for_best_model=macro_f1", "--load_best_model_at_end"]
    values = [0.2, 0.1, 0.5, 0.3, 0.4, 0.5, 0.9, 0.9]

    def run(*more):
        return train(flags, *more, callbacks=[validated("macro_f1", values)])

    whole = run()
    state, results = read(whole, "trainer_state.json"), read(whole)
    assert (state["global_step"], state["epoch"], state["max_steps"], state["num_train_epochs"]) == (6, 6, 8, 8)
    assert (state["best_metric"], state["best_global_step"]) == (0.5, 3)
    assert (results["epoch"], results["train_ended_by"]) == (6, "early_stopping_patience")
    assert_same_weights(whole, whole / "checkpoint-3")
    said = capsys.readouterr().out
    assert "stopped early behind epoch 6 of 8: 3 without a better macro f1; epoch 3 was the best, whose weights" in said
    assert "macro f1 50.00%" in said
    card = render_model_card(whole, "name")
    assert "6 of 8 epochs, stopped early" in card and "when training ended (by macro f1)" in card
    # The schedule is that of eight epochs.
    rates = [entry["learning_rate"] for entry in state["log_history"]]
    assert rates == [0.1 * schedule(parse_recipe(flags), step, 8) for step in range(6)] and rates[-1] > 0.03
    for step in (4, 6):
        resumed = run(
            f"--resume_from_checkpoint={whole / f'checkpoint-{step}'}", f"--output_dir={tmp_path / str(step)}"
        )
        assert_same_weights(resumed, whole)
        assert without_timing(read(resumed, "trainer_state.json")) == without_timing(read(whole, "trainer_state.json"))
        assert read(resumed)["train_ended_by"] == "early_stopping_patience"


def test_the_last_weights_stay_unless_the_best_are_asked_for(short, capsys):
    """As with transformers' Trainer, which warns. A lower loss is the better one."""
    values = [3.0, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0]
    more = ["--early_stopping_patience=2", "--metric_for_best_model=loss"]
    folder = train(short, *more, callbacks=[validated("loss", values)])
    state = read(folder, "trainer_state.json")
    assert (state["global_step"], state["best_metric"], state["best_global_step"]) == (4, 1.0, 2)
    assert_same_weights(folder, folder / "checkpoint-4")
    assert "but the last weights are kept: --load_best_model_at_end keeps the best" in capsys.readouterr().out


@pytest.mark.processes
def test_killed_by_the_system_a_run_ends_where_it_would_have(flags, tmp_path):
    """No accuracy is more than one better: only the first epoch improves. Two processes stop at the same one."""
    flags += ["--max_train_samples=64", "--early_stopping_patience=2", "--early_stopping_threshold=1"]
    flags += ["--num_train_epochs=1000", "--balanced_sampling"]
    whole = train(flags, f"--output_dir={tmp_path / 'whole'}")
    assert read(whole)["epoch"] == 3
    folder, log = tmp_path / "run", tmp_path / "log"
    process = start(train_script.main, flags, log)
    wait_until(lambda: list_checkpoints(folder), lambda: process.is_alive() or list_checkpoints(folder), log.read_text)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join(SECONDS)
    if not (folder / "all_results.json").exists():
        train(flags, "--resume_from_checkpoint=last")
    assert_same_weights(folder, whole)
    assert read(folder)["epoch"] == 3
    two = train_on_two([*flags, f"--output_dir={tmp_path / 'two'}"], tmp_path)
    assert (read(two)["epoch"], read(two)["train_ended_by"]) == (3, "early_stopping_patience")


def test_patience_counts_from_the_last_improvement_as_transformers_does():
    """An epoch that is better by the threshold or less is the best one, and no improvement."""
    recipe, progress = Recipe(early_stopping_patience=2), Progress(steps_per_epoch=1, max_steps=10)
    counts = []
    for value in (0.5, 0.5625, 0.5, 0.75, 0.75, 0.8125):
        progress.global_step += 1
        is_best = progress.take_validation(value, lower_is_better=False, threshold=0.125)
        counts.append((is_best, progress.epochs_without_improvement, stops_early(recipe, progress)))
    assert counts == [
        (True, 0, False), (True, 1, False), (False, 2, True), (True, 0, False), (False, 1, False), (True, 2, True),
    ]  # fmt: skip
    assert (progress.best_metric, progress.best_step) == (0.8125, 6)
    assert not stops_early(Recipe(), progress)


def test_progress_of_an_earlier_version_goes_on():
    """It knew accuracy alone, and never stopped early."""
    there = Progress(steps_per_epoch=2, max_steps=10).state_dict() | {"global_step": 4, "best_step": 2}
    del there["best_metric"], there["epochs_without_improvement"]
    progress = Progress(steps_per_epoch=2, max_steps=10)
    progress.load_state_dict(there | {"best_accuracy": 0.5})
    assert (progress.best_metric, progress.best_step, progress.epochs_without_improvement) == (0.5, 2, 0)
    assert progress.trainer_state().best_metric == 0.5 and not hasattr(progress, "best_accuracy")
    with pytest.raises(ValueError, match="does not say where the run stood"):
        progress.load_state_dict(there)


def test_nothing_to_wait_for_is_refused(flags):
    with pytest.raises(RecipeError, match=r"--early_stopping_patience waits for .* give a --validation_size above 0"):
        Recipe(early_stopping_patience=2, validation_size=0)
    with pytest.raises(RecipeError, match=r"--early_stopping_threshold needs an --early_stopping_patience"):
        Recipe(early_stopping_threshold=0.1)


class StopsAtOnce(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = True


def test_what_ended_other_runs(short):
    folder = train(short, "--max_train_steps=2")
    assert (read(folder)["epoch"], read(folder)["train_ended_by"]) == (2, "max_train_steps")
    folder = train(short, "--overwrite_output_dir", callbacks=[StopsAtOnce])
    assert (read(folder)["epoch"], read(folder)["train_ended_by"]) == (1, "callback")


@pytest.mark.parametrize("flag", ["--early_stopping_patience=2", "--load_best_model_at_end"])
def test_a_choice_without_validation_images_is_refused_where_they_are_known(flags, monkeypatch, flag):
    """Whatever the recipe asked for, data may have left none."""

    def open_without_validation(*arguments):
        data = open_data(*arguments)
        return dataclasses.replace(data, validation_rows=data.validation_rows[:0])

    monkeypatch.setattr(run_module, "open_data", open_without_validation)
    with pytest.raises(RecipeError, match=f"{flag.partition('=')[0]} needs validation images, and there are none"):
        train(flags, flag)
