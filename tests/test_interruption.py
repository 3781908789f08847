"""Real processes that get real signals: SIGTERM and SIGINT end a run behind a checkpoint, SIGKILL loses nothing."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import REPOSITORY, run_python, tiny_run_flags
from training_runs import assert_same_weights, train

from training.checkpoints import find_damage, list_checkpoints

MANY_EPOCHS = "--num_train_epochs=30"
RESUME = "--resume_from_checkpoint=last"


def start(*command):
    """In a process group of its own, as a terminal or a job scheduler starts it."""
    return subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip


def wait_until(condition, process):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.01)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, tiny_config_dir):
    """The same run, never interrupted."""
    return train([*tiny_run_flags(tiny_config_dir, tmp_path_factory.mktemp("straight") / "run"), MANY_EPOCHS])


@pytest.mark.parametrize(
    ("number", "more"),
    [(signal.SIGTERM, ["--streaming=true", "--dataloader_num_workers=1"]), (signal.SIGINT, [])],
    ids=["SIGTERM to all with a worker", "SIGINT"],
)
def test_a_signal_ends_the_run_behind_a_checkpoint_of_the_step_at_work(flags, tmp_path, straight, capsys, number, more):
    """To the whole process group, workers included, as a scheduler or Ctrl-C sends it."""
    folder = tmp_path / "run"
    arguments = [*flags, MANY_EPOCHS, "--checkpointing_steps=no", RESUME, *more]
    process = start("train.py", *arguments, "--report_to=tensorboard", "--logging_steps=1")
    wait_until(lambda: any(folder.rglob("events*")), process)
    time.sleep(0.5)  # among the steps
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, output
    assert f"stopped by {number.name} behind checkpoint" in output and "Traceback" not in output
    (checkpoint,) = list_checkpoints(folder)
    assert find_damage(checkpoint) is None and not (folder / "all_results.json").exists()
    assert_same_weights(train(arguments), straight)
    assert f"resumed from {checkpoint}" in capsys.readouterr().out


def test_a_second_signal_ends_it_at_once(flags):
    """Once the first is noted, within a step that never ends."""
    hanging = (
        "import os, signal, time, train; from training.optimization import schedule\n"
        "def hang(*_):\n"
        "    os.kill(os.getpid(), signal.SIGTERM); print('noted', flush=True)\n"
        "    while True: time.sleep(0.01)\n"
        "import training.loop; training.loop.schedule = hang; train.main()"
    )
    process = start("-c", hanging, *flags)
    for line in process.stdout:
        if line == "noted\n":
            break
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGTERM


def test_ctrl_c_before_the_first_step(flags, tmp_path):
    # A shell that runs the tests in the background has them ignore SIGINT, and this process too.
    early = (
        "import signal, train; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "train.open_data = lambda *_: signal.raise_signal(signal.SIGINT); train.main()"
    )
    process = start("-c", early, *flags)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in output and "stopped by SIGINT" in output
    assert not (tmp_path / "run").exists()


def test_killed_by_the_system_and_resumed_by_the_same_command(flags, tmp_path, straight, capsys):
    """`last` finds nothing at first, then what the killed process left."""
    folder = tmp_path / "run"
    arguments = [*flags, MANY_EPOCHS, RESUME]
    process = start("train.py", *arguments)
    wait_until(lambda: list_checkpoints(folder), process)
    process.kill()
    process.communicate()
    assert list_checkpoints(folder) and not (folder / "all_results.json").exists()
    (folder / "tmp-checkpoint-999").mkdir(exist_ok=True)  # as if killed within a save
    train(arguments)
    assert "resumed from" in capsys.readouterr().out
    assert not list(folder.glob("tmp-*"))
    assert_same_weights(folder, straight)


def test_a_random_kill(tmp_path):
    """The benchmark, one kill of it."""
    process = run_python("-m", "benchmarks.faults", "--kills=1", f"--output={tmp_path / 'faults.json'}")
    assert process.returncode == 0, process.stderr
    faults = json.loads((tmp_path / "faults.json").read_text())["faults"]
    assert faults["kills"] == 1 and faults["damaged checkpoints"] == 0
    assert faults["runs with the weights of the uninterrupted one"] == faults["runs"] >= 1


# --- several processes ---------------------------------------------------------------------------------------------


def launch(*arguments):
    config = REPOSITORY / "configuration" / "accelerate" / "multi_cpu.yaml"
    return start("-m", "accelerate.commands.launch", f"--config_file={config}", *arguments)


def ranks(launcher):
    """The training processes of a launch, the first one first."""
    children = psutil.Process(launcher.pid).children(recursive=True)
    return sorted(
        (child for child in children if "train.py" in child.cmdline()), key=lambda child: child.environ()["RANK"]
    )


def test_a_signal_to_one_process_stops_all_at_the_same_step(flags, tmp_path):
    process = launch("train.py", *flags, "--num_train_epochs=1000")
    wait_until(lambda: list_checkpoints(tmp_path / "run"), process)
    ranks(process)[1].terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and "exitcode  : 143" in output
    assert output.count("stopped by SIGTERM behind checkpoint") == 1
    newest = list_checkpoints(tmp_path / "run")[-1]
    assert find_damage(newest) is None and f"behind checkpoint {newest.name.split('-')[1]}:" in output


def test_a_process_that_dies_ends_the_launch_within_a_minute(flags, tmp_path):
    process = launch("train.py", *flags, "--num_train_epochs=1000")
    wait_until(lambda: list_checkpoints(tmp_path / "run"), process)
    ranks(process)[1].kill()
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and "SIGKILL" in output


def test_the_launcher_restarts_what_died_and_the_run_goes_on(flags, tmp_path, monkeypatch):
    """To the weights of a launch that nobody disturbed."""
    undisturbed = launch("train.py", *flags, "--num_train_epochs=20", f"--output_dir={tmp_path / 'undisturbed'}")
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    restarting = launch("--rdzv_backend=c10d", "--max_restarts=1", "train.py", *flags, RESUME, "--num_train_epochs=20")
    wait_until(lambda: list_checkpoints(tmp_path / "run"), restarting)
    ranks(restarting)[1].kill()
    output, _ = restarting.communicate(timeout=120)
    assert restarting.returncode == 0 and "resumed from" in output, output
    assert undisturbed.wait(timeout=120) == 0
    assert_same_weights(tmp_path / "run", tmp_path / "undisturbed")
