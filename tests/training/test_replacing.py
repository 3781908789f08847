"""train.py in a folder that is not empty: what is replaced, when, and what stays."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from training_runs import (
    SECONDS,
    Told,
    assert_same_weights,
    evaluate_folder,
    read,
    snapshot,
    start,
    train,
    wait_until,
    weights,
)

from slimresnet.api.export import export
from slimresnet.api.push import push
from slimresnet.recipe.checks import RecipeError
from slimresnet.run_folder import ownership
from slimresnet.run_folder.checkpoints import CheckpointError, list_checkpoints
from slimresnet.run_folder.names import AVERAGE_PRECISION_SUFFIX, CLASS_WEIGHTS_NAME, FIGURES_FOLDER, RUN_FILES
from slimresnet.run_folder.ownership import own
from slimresnet.run_folder.writing import FolderError

REPLACE, RESUME = "--overwrite_output_dir", "--resume_from_checkpoint=last"
REPLACEMENT = ".slimresnet/replacement"


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a finished run, where `flags` write to."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def visible(folder):
    return {file: content for file, content in snapshot(folder).items() if ".slimresnet" not in file.parts}


def stops_at(step):
    """Has training break before a step."""

    def stop(state, **_):
        if state.global_step == step:
            raise KeyError("broken")

    return [Told(on_step_begin=stop)]


def test_the_old_run_stays_whole_until_the_new_one_is(run, flags):
    before = visible(run)
    for more in ([], [RESUME], [RESUME]):
        with pytest.raises(KeyError):
            train(flags, "--seed=2", REPLACE, *more, callbacks=stops_at(10))
        assert visible(run) == before
        assert [each.name for each in list_checkpoints(run / REPLACEMENT)] == ["checkpoint-7"]
    with pytest.raises(RecipeError, match="interrupted, and goes on with --resume_from_checkpoint last beside that"):
        train(flags, "--seed=2", RESUME)
    train(flags, "--seed=2", REPLACE, RESUME)
    assert read(run)["epoch"] == 3 and not (run / REPLACEMENT).exists()
    assert [each.name for each in list_checkpoints(run)] == ["checkpoint-14", "checkpoint-21"]
    other = train(flags, "--seed=2", f"--output_dir={run.with_name('other')}")
    assert_same_weights(run, other)
    assert_same_weights(run / "checkpoint-21", other / "checkpoint-21")
    assert visible(run).keys() == before.keys()


def test_an_interrupted_run_may_be_replaced_or_gone_on_with(run, flags, capsys):
    for file in run.iterdir():
        if file.name != "checkpoint-14":
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    before = visible(run)
    with pytest.raises(KeyError):
        train(flags, "--seed=2", REPLACE, "--checkpointing_steps=2", callbacks=stops_at(3))
    assert visible(run) == before
    with pytest.raises(RecipeError, match=r"holds the checkpoints of a run.*interrupted, and goes on"):
        train(flags)
    shutil.rmtree(run / REPLACEMENT)
    train(flags, REPLACE, RESUME)  # as a job does that always says both
    assert f"resumed from {run / 'checkpoint-14'}" in capsys.readouterr().out


def test_a_first_run_that_says_both_leaves_its_checkpoints_in_sight(flags, tmp_path, capsys):
    with pytest.raises(KeyError):
        train(flags, REPLACE, RESUME, callbacks=stops_at(10))
    train(flags, REPLACE, RESUME)
    assert f"resumed from {tmp_path / 'run' / 'checkpoint-7'} at step 7" in capsys.readouterr().out


def test_what_others_put_into_the_folder_stays(run, flags):
    theirs = {
        "figures/my_plot.png", "experiment_details.json", "onnx/other.onnx", "model.pt2", "notes.txt",
        "test_corruptions.json", "checkpoint-21-keep-this-backup/model.safetensors", "tmp-checkpoint-mine/file",
        "checkpoint-007/trainer_state.json", "checkpoint-14/notes.txt", "runs/checkpoint-7/model.safetensors",
    }  # fmt: skip
    for name in theirs:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("mine")
    (run / "checkpoint-3").symlink_to(shutil.copytree(run / "checkpoint-21", run.parent / "elsewhere"))
    shutil.copytree(run / "checkpoint-21", run / "checkpoint-4-keep-this-backup")
    train(flags, "--seed=2", REPLACE, "--save_total_limit=1", "--checkpointing_steps=3")
    assert all((run / name).read_text() == "mine" for name in theirs)
    assert (run / "checkpoint-3").is_symlink() and (run.parent / "elsewhere" / "model.safetensors").exists()
    assert (run / "checkpoint-4-keep-this-backup" / "model.safetensors").exists()
    assert weights(run / "checkpoint-21").keys() == weights(run).keys()
    checkpoints = {each.name for each in run.glob("checkpoint-*")}
    assert checkpoints == {
        "checkpoint-21", "checkpoint-14", "checkpoint-3", "checkpoint-4-keep-this-backup",
        "checkpoint-21-keep-this-backup", "checkpoint-007",
    }  # fmt: skip


def test_while_it_rotates_its_own_checkpoints(flags, tmp_path):
    """Copies and links in the places of checkpoints are renamed, or left where they are."""
    run = tmp_path / "run"
    (run / "checkpoint-4").mkdir(parents=True)
    (run / "checkpoint-4" / "photo.png").write_text("mine")
    (run / "checkpoint-6").symlink_to(run / "checkpoint-4")
    train(flags, "--max_train_steps=7", "--checkpointing_steps=2", "--save_total_limit=1")
    assert (run / "checkpoint-4.bak" / "photo.png").read_text() == "mine" and (run / "checkpoint-6.bak").is_symlink()
    assert [each.name for each in list_checkpoints(run)] == ["checkpoint-6"]


def test_files_of_others_in_the_places_of_a_runs_are_refused_before_training(run, flags):
    (run / "figures" / "curves.png").write_text("mine")
    (run / "config.json").unlink()
    (run / "config.json").symlink_to(run.parent / "config")
    (run / "README.md").write_text("my words stay as they are")
    before = snapshot(run)
    with pytest.raises(RecipeError, match=r"holds config\.json, figures/curves\.png, which a run .* move them away"):
        train(flags, REPLACE)
    shutil.rmtree(run / ".slimresnet")  # as of an earlier version
    with pytest.raises(RecipeError, match=r"holds all_results\.json, recipe\.yaml, .* has no record that this program"):
        train(flags, REPLACE)
    with pytest.raises(RecipeError, match=r"holds all_results\.json, recipe\.yaml, .* has no record that this program"):
        train(flags)
    assert {file: content for file, content in before.items() if ".slimresnet" not in file.parts} == visible(run)


def test_a_file_that_comes_to_stand_in_the_way_while_training_is_renamed(flags, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"

    def place(state, **_):
        (run / "model.safetensors").write_text("mine")
        (run / "figures").write_text("mine")

    train(flags, "--max_train_steps=1", callbacks=[Told(on_train_end=place)])
    assert (run / "model.safetensors.bak").read_text() == (run / "figures.bak").read_text() == "mine"
    missing = [CLASS_WEIGHTS_NAME, f"{FIGURES_FOLDER}/test{AVERAGE_PRECISION_SUFFIX}"]  # of other runs than this one
    assert [name for name in RUN_FILES if not (run / name).exists()] == missing
    assert f"it is {run / 'model.safetensors.bak'} now" in capsys.readouterr().err


def train_and_dwell_in_step_3():
    def dwell(state, **_):
        if state.global_step == 2:
            print("in step 3", flush=True)
            signal.pause()

    train(sys.argv[1:], callbacks=[Told(on_step_begin=dwell)])


@pytest.mark.processes
@pytest.mark.slow
def test_of_two_runs_in_a_folder_the_second_is_refused_and_the_death_of_the_first_frees_it(
    flags, tmp_path, monkeypatch
):
    log, run = tmp_path / "log", tmp_path / "run"
    process = start(train_and_dwell_in_step_3, [*flags, "--checkpointing_steps=1"], log)
    wait_until(lambda: b"in step 3" in log.read_bytes(), process.is_alive, log.read_text)
    monkeypatch.setattr(ownership, "PATIENCE", 0.1)
    before = snapshot(run)
    said = rf"run is in use: .* \(process {process.pid} on .*\) is at work there\. Wait for its end, stop it, or name"
    for more in ([], [RESUME], [REPLACE]):
        with pytest.raises(FolderError, match=said):
            train(flags, *more)
    finished = train(flags, f"--output_dir={tmp_path / 'other'}", "--max_train_steps=1")
    with pytest.raises(FolderError, match=said):
        evaluate_folder(finished, f"--output_dir={run}")
    with pytest.raises(FolderError, match=said):
        export(finished, output_dir=run)
    with pytest.raises(FolderError, match=said):
        push(run, "user/name", dry_run=True)
    assert snapshot(run) == before
    os.kill(process.pid, signal.SIGKILL)
    process.join(SECONDS)
    train(flags, RESUME)
    assert read(run)["epoch"] == 3


def test_a_second_run_that_starts_within_the_first_seconds_is_refused_too(flags, tmp_path, monkeypatch):
    """It looked before the first one owned the folder."""
    monkeypatch.setattr(ownership, "PATIENCE", 0.1)
    (tmp_path / "run").mkdir()
    other = own(tmp_path / "run")
    try:
        with pytest.raises(FolderError, match="is in use"):
            train(flags, callbacks=[Told(on_init_end=lambda state, **_: other.__enter__())])
    finally:
        other.__exit__(None, None, None)
    assert os.listdir(tmp_path / "run") == [".slimresnet"]


def test_what_another_run_finished_meanwhile_is_not_replaced(flags, trained, tmp_path, monkeypatch):
    finished = [Told(on_init_end=lambda state, **_: shutil.copytree(trained, tmp_path / "run"))]
    with pytest.raises(RecipeError, match="holds a finished run"):
        train(flags, callbacks=finished)
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(RecipeError, match="was changed by another process just now: try again"):
        train(flags, REPLACE, callbacks=finished)
    assert visible(tmp_path / "run").keys() == {
        tmp_path / "run" / file.relative_to(trained) for file in visible(trained)
    }


def test_no_checkpoint_is_found_where_none_is_named_exactly_so(flags, trained, tmp_path):
    for name in ("checkpoint-14-copy", "checkpoint-014", "checkpoint-", "checkpoint-١٤"):
        shutil.copytree(trained / "checkpoint-14", tmp_path / "run" / name)
    before = snapshot(tmp_path / "run")
    folder = train(flags, RESUME, "--max_train_steps=1")
    assert [each.name for each in list_checkpoints(folder)] == ["checkpoint-1"]
    assert before.items() <= snapshot(folder).items()
    with pytest.raises(CheckpointError, match="different run"):  # by its path it is one
        train(flags, f"--output_dir={tmp_path / 'other'}", "--seed=2",
              f"--resume_from_checkpoint={folder / 'checkpoint-14-copy'}")  # fmt: skip


def test_the_recipe_of_a_run_does_not_replace_it(run, flags):
    train(flags, REPLACE, "--max_train_steps=1")
    before = snapshot(run)
    with pytest.raises(RecipeError, match="holds a finished run"):
        train([f"--config={run / 'recipe.yaml'}"])
    assert snapshot(run) == before
