"""Real processes that get real signals: SIGTERM and SIGINT end a run behind a checkpoint, SIGKILL loses nothing."""

import json
import os
import signal
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from conftest import tiny_run_flags
from training_runs import SECONDS, assert_same_weights, start, train, wait_until

from benchmarks import kill_resume
from slimresnet.api import evaluation_files
from slimresnet.api import train as api_train
from slimresnet.cli import train as train_script
from slimresnet.formats.trained import ModelError, find_folder
from slimresnet.hub.files import collect
from slimresnet.hub_errors import HubError
from slimresnet.run_folder.checkpoints import find_damage, list_checkpoints
from slimresnet.training import loop
from slimresnet.training import run as run_module
from slimresnet.training.state.preemption import StopRequest

RESUME = "--resume_from_checkpoint=last"


@pytest.fixture(scope="module")
def straight(tmp_path_factory, tiny_config_dir):
    """The folder of a run that was never interrupted."""
    return train(tiny_run_flags(tiny_config_dir, tmp_path_factory.mktemp("straight") / "run"))


def train_and_dwell_in_step_10():
    """The step begins, and goes on once there is a file `go`."""
    schedule = loop.schedule

    def dwelling(recipe, step, max_steps):
        if step == 9:
            print("in step 10", flush=True)
            while not Path(recipe.output_dir, "go").exists():
                time.sleep(0.01)
        return schedule(recipe, step, max_steps)

    loop.schedule = dwelling
    train_script.main()


def wait_for(words, log, process):
    wait_until(lambda: words.encode() in log.read_bytes(), process.is_alive, log.read_text)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("number", "more"),
    [(signal.SIGTERM, ["--streaming=true", "--dataloader_num_workers=1"]), (signal.SIGINT, [])],
    ids=["SIGTERM to all with a worker", "SIGINT"],
)
def test_a_signal_ends_the_run_behind_a_checkpoint_of_the_step_at_work(flags, tmp_path, straight, capsys, number, more):
    """To the whole process group, workers included, as a scheduler or Ctrl-C sends it."""
    folder, log = tmp_path / "run", tmp_path / "log"
    arguments = [*flags, "--checkpointing_steps=no", RESUME, *more]
    process = start(train_and_dwell_in_step_10, arguments, log)
    wait_for("in step 10", log, process)
    os.killpg(process.pid, number)
    wait_for(f"{number.name}: finishing this step", log, process)
    (folder / "go").touch()
    process.join(SECONDS)
    output = log.read_text()
    assert process.exitcode == 128 + number, output
    assert f"stopped by {number.name} behind checkpoint 10:" in output and "Traceback" not in output
    assert list_checkpoints(folder) == [folder / "checkpoint-10"]
    assert find_damage(folder / "checkpoint-10") is None and not (folder / "all_results.json").exists()
    for unfinished in (folder, folder / "checkpoint-10"):  # by the scripts that take a MODEL, and by push_to_hub.py
        with pytest.raises(ModelError, match="resume with the command that began it and --resume_from_checkpoint"):
            find_folder(str(unfinished))
        with pytest.raises(HubError, match="resume with the command that began it and --resume_from_checkpoint"):
            collect(unfinished, "user/name")
    assert_same_weights(train(arguments), straight)
    assert f"resumed from {folder / 'checkpoint-10'} at step 10 of 21" in capsys.readouterr().out


@pytest.mark.processes
def test_a_second_signal_ends_it_at_once(flags, tmp_path):
    """Once the first is noted, within a step that never ends."""
    log = tmp_path / "log"
    process = start(train_and_dwell_in_step_10, flags, log)
    wait_for("in step 10", log, process)
    process.terminate()
    wait_for("SIGTERM: finishing this step", log, process)
    process.terminate()
    process.join(SECONDS)
    assert process.exitcode == -signal.SIGTERM


def train_and_interrupt_before_the_first_step():
    # A shell that runs the tests in the background has them ignore SIGINT, and their processes too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run_module.open_data = lambda *_: signal.raise_signal(signal.SIGINT)
    train_script.main()


@pytest.mark.processes
def test_ctrl_c_before_the_first_step(flags, tmp_path):
    log = tmp_path / "log"
    process = start(train_and_interrupt_before_the_first_step, flags, log)
    process.join(SECONDS)
    output = log.read_text()
    assert process.exitcode == 130, output
    assert "Traceback" not in output and "stopped by SIGINT" in output
    assert not (tmp_path / "run").exists()


def train_and_die_in_step_10():
    schedule = loop.schedule

    def dying(recipe, step, max_steps):
        if step == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return schedule(recipe, step, max_steps)

    loop.schedule = dying
    train_script.main()


@pytest.mark.processes
def test_killed_by_the_system_and_resumed_by_the_same_command(flags, tmp_path, straight, capsys):
    """`last` finds nothing at first, then what the killed process left."""
    folder, arguments = tmp_path / "run", [*flags, RESUME]
    process = start(train_and_die_in_step_10, arguments, tmp_path / "log")
    process.join(SECONDS)
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert list_checkpoints(folder) == [folder / "checkpoint-7"] and not (folder / "all_results.json").exists()
    (folder / ".slimresnet" / "unfinished" / "checkpoint-9").mkdir(parents=True)  # as if killed within a save
    train(arguments)
    assert f"resumed from {folder / 'checkpoint-7'}" in capsys.readouterr().out
    assert not list(folder.glob(".slimresnet/unfinished/*"))
    assert_same_weights(folder, straight)


def test_after_a_run_signals_do_what_they_did(flags):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    train(flags, "--max_train_steps=1")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("signalled", ["this one", "another", "none"])
def test_processes_agree_where_agreeing_costs_nothing(device, signalled):
    """On GPUs that is where the caller waits anyway; the trigger stands for what a process tells the others."""
    asked = []
    accelerator = Mock(num_processes=2, device=torch.device(device), is_main_process=False)
    accelerator.check_trigger.side_effect = lambda: (
        asked.append(True) or (signalled == "another" or accelerator.set_trigger.called)
    )
    with StopRequest(accelerator) as request:
        if signalled == "this one":
            signal.raise_signal(signal.SIGINT)
        assert request.is_made(waits_for_device=False) is (device == "cpu" and signalled != "none")
        assert bool(asked) is (device == "cpu")
        assert request.is_made(waits_for_device=True) is (signalled != "none")
    if signalled != "none":
        stop = request.stop(7)
        assert stop.exit_code == (130 if signalled == "this one" else 143) and "behind checkpoint 7:" in str(stop)


def measure_short_runs_without_pictures():
    api_train.draw = evaluation_files.draw = lambda *_: None
    kill_resume.TINY = [*kill_resume.TINY, "--num_train_epochs=2"]  # checkpoints are most of such a run
    kill_resume.main()


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.slow
def test_random_faults(tmp_path):
    """The benchmark, a fault of each kind, in a folder one tool."""
    file, log = tmp_path / "kill_resume.json", tmp_path / "log"
    process = start(
        measure_short_runs_without_pictures, ["--kills=1", f"--tools={kill_resume.REPLACING}", f"--output={file}"], log
    )
    process.join(4 * SECONDS)
    assert process.exitcode == 0, log.read_text()
    measured = json.loads(file.read_text())
    counts = measured["faults"]
    assert counts["kills"] == 1 and counts["damaged checkpoints"] == 0
    assert counts["runs with the weights of the uninterrupted one"] == counts["runs"] >= 1
    for title in ("kills in a finished folder", "full disks"):
        tools = [each for each in measured[title].values() if isinstance(each, dict)]
        assert len(tools) == 1
        for counts in tools:
            assert set(counts["found after it"]) <= {"old", "new"} and sum(counts["found after it"].values()) == 1
            assert counts["came to their end by the same command"] == 1
            assert counts.get("came to its end, or said why not in a sentence", 1) == 1
    counts = measured["two runs in a folder"]
    assert counts["the first had the weights of a run alone"] == 1 and set(counts["the second was told"]) <= {
        "is in use", "holds a finished run"
    }  # fmt: skip
