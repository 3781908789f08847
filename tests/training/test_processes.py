"""Several processes train as one would: launched as the README says, by accelerate with gloo."""

import os
import re
import signal
import subprocess
import sys
import threading
from multiprocessing.connection import Listener
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import REPOSITORY, SAMPLE, run_python, tiny_run_flags
from torch.nn import functional as F
from training_runs import (
    SECONDS,
    Told,
    assert_accuracy,
    assert_same_weights,
    launch,
    read,
    start,
    start_two,
    train,
    train_on_two,
    wait_until,
)
from transformers import AutoImageProcessor, AutoModelForImageClassification

from benchmarks import processes
from slimresnet.cli import train as train_script
from slimresnet.data.sources.dataset import open_split
from slimresnet.recipe import plan
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.hardware import Choice
from slimresnet.run_folder.checkpoints import CheckpointError, find_damage, list_checkpoints
from slimresnet.training import loop, step

ACCELERATE = REPOSITORY / "configuration" / "accelerate"
RESUME = "--resume_from_checkpoint=last"


MULTI_CPU = f"--config_file={ACCELERATE / 'multi_cpu.yaml'}"


def wait_for_a_checkpoint(is_running, log, folder):
    wait_until(lambda: list_checkpoints(folder), is_running, log.read_text)


@pytest.fixture(scope="module")
def two(tmp_path_factory, tiny_config_dir):
    """The flags, the folder and the output of a run on two processes."""
    folder = tmp_path_factory.mktemp("two") / "run"
    flags = [*tiny_run_flags(tiny_config_dir, folder), "--max_eval_samples=1000", "--num_train_epochs=2"]
    process = run_python("-m", "accelerate.commands.launch", MULTI_CPU, "train.py", *flags, "--streaming=true")
    output = process.stdout + process.stderr
    assert process.returncode == 0, output
    return flags, folder, output


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_score_every_test_image_once(two):
    """Launched as the README says, by accelerate with gloo; together they see the batches that one process sees."""
    _, folder, output = two
    assert "processes: 2, device: cpu" in output and "32 images a step = 16 × 2" in output
    assert output.count("test accuracy") == 1
    results = read(folder)
    assert (results["test_samples"], results["eval_samples"]) == (500, 100)
    assert read(folder, "trainer_state.json")["global_step"] == 14
    AcceleratorState._reset_state(reset_partial_state=True)
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    split = open_split(str(SAMPLE), "test", image_size=32)
    (pixels,) = split.images.read([np.arange(500)])
    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.inference_mode():
        logits = model(**processor(list(pixels), return_tensors="pt")).logits
    labels = torch.from_numpy(split.labels)
    assert_accuracy(results["test_accuracy"], logits, labels)
    # Each process ends with BatchNorm statistics of its own: this fails where they score others than are saved.
    assert F.cross_entropy(logits, labels).item() == pytest.approx(results["test_loss"], abs=1e-5)


@pytest.mark.processes
@pytest.mark.slow
def test_a_run_can_go_on_with_another_number_of_processes(two, tmp_path, capsys):
    """From two to one: a machine was lost."""
    flags, folder, _ = two
    one = train(flags, f"--resume_from_checkpoint={folder / 'checkpoint-7'}", f"--output_dir={tmp_path / 'one'}")
    output = capsys.readouterr().out
    assert "processes 2 there, 1 here" in output and "at step 7 of 14" in output
    assert read(one)["epoch"] == read(folder)["epoch"] == 2


def train_and_die():
    """In step 10, and once more after a restart in step 13: one of the two processes."""
    schedule = loop.schedule
    last_step = {"0": 9, "1": 12}[os.environ["TORCHELASTIC_RESTART_COUNT"]]

    def dying(recipe, step, max_steps):
        if step == last_step and os.environ["RANK"] == "1":
            print(f"killed in step {step + 1}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return schedule(recipe, step, max_steps)

    loop.schedule = dying
    train_script.main()


@pytest.mark.processes
@pytest.mark.slow
def test_a_process_that_dies_ends_or_restarts_the_launch(two, tmp_path):
    """One restart is allowed, in which the run goes on; at the second death the launch ends, and loses nothing."""
    folder, log = tmp_path / "run", tmp_path / "log"
    flags = [*two[0], f"--output_dir={folder}", RESUME]
    restarting = [MULTI_CPU, "--rdzv_backend=c10d", "--max_restarts=1", "train.py"]
    process = launch(train_and_die, [*restarting, *flags], log, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
    process.join(SECONDS)
    output = log.read_text()
    assert process.exitcode == 1 and "killed in step 10" in output and "killed in step 13" in output, output
    assert f"resumed from {folder / 'checkpoint-7'} at step 7 of 14" in output
    assert list_checkpoints(folder) == [folder / "checkpoint-7"]
    assert_same_weights(train_on_two(flags, tmp_path), two[1])


def train_and_say_who():
    print(f"rank {os.environ['RANK']} is process {os.getpid()}.", flush=True)
    train_script.main()


def train_as_captured():
    """As on GPUs with `--cuda_graphs true`, without the capture: each step averages the gradients itself."""
    plan.choose_cuda_graphs = lambda *_, **__: Choice(True, "as asked")
    step.GraphedStep = lambda train_step, optimizer: train_step
    train_script.main()


@pytest.mark.processes
@pytest.mark.slow
def test_a_run_whose_steps_average_is_the_run_with_distributed_data_parallel(two, tmp_path):
    flags = [*two[0], f"--output_dir={tmp_path / 'run'}"]
    for process, log in start_two(flags, tmp_path, train_as_captured):
        process.join(SECONDS)
        assert process.exitcode == 0, log.read_text()
    assert "cuda_graphs True" in (tmp_path / "rank-0.log").read_text()
    assert_same_weights(tmp_path / "run", two[1])
    entries, expected = (read(folder, "trainer_state.json")["log_history"] for folder in (tmp_path / "run", two[1]))
    for name in ("loss", "eval_loss", "eval_accuracy"):
        assert [entry[name] for entry in entries] == [entry[name] for entry in expected], name


@pytest.mark.processes
def test_a_signal_to_one_process_stops_all_at_the_same_step(flags, tmp_path):
    log = tmp_path / "log"
    process = launch(train_and_say_who, [MULTI_CPU, "train.py", *flags, "--num_train_epochs=1000"], log)
    wait_for_a_checkpoint(process.is_alive, log, tmp_path / "run")
    os.kill(int(re.search(r"rank 1 is process (\d+)\.", log.read_text())[1]), signal.SIGTERM)
    process.join(SECONDS)
    output = log.read_text()
    assert process.exitcode == 1 and "exitcode  : 143" in output, output
    assert output.count("stopped by SIGTERM behind checkpoint") == 1
    newest = list_checkpoints(tmp_path / "run")[-1]
    assert find_damage(newest) is None and f"behind checkpoint {newest.name.split('-')[1]}:" in output


@pytest.mark.processes
def test_processes_that_diverge_stop_together(flags, tmp_path):
    run = [*flags, "--learning_rate=1e30", "--max_train_steps=1"]
    started = start_two(run, tmp_path)
    for process, log in started:
        process.join(SECONDS)
        assert process.exitcode == 1, log.read_text()
    output = "".join(log.read_text() for _, log in started)
    assert "accuracy" not in output
    said = [line for line in output.splitlines() if line.startswith("train.py: ")]
    assert len(said) == 1 and "after step 1 at a learning rate of 1e+30: lower --learning_rate" in said[0]
    assert not {"README.md", "all_results.json", "model.safetensors"} & set(os.listdir(tmp_path / "run"))


def run_launched(command, **_):
    """Stands for `subprocess.run` of `accelerate launch`: its processes have the imports."""
    _, _, _, config, *words = command
    log = Path(words[-1].removeprefix("--output_dir=")).with_suffix(".log")
    if config.endswith("multi_cpu.yaml"):
        process = launch(processes.main, [config, *words], log)
    else:
        process = start(processes.main, words[2:], log)
    process.join(SECONDS)
    return SimpleNamespace(returncode=process.exitcode, stderr=log.read_text())


@pytest.mark.processes
@pytest.mark.slow
def test_one_process_and_two_see_the_same_samples_and_end_in_the_same_weights(
    flags, smooth_config_dir, tmp_path, monkeypatch
):
    """With BatchNorm frozen they do the same sums in another order: 8 steps of 32 images, on one process or on two."""
    monkeypatch.setattr(processes.subprocess, "run", run_launched)
    flags += [f"--config_name={smooth_config_dir}", "--max_train_steps=8", "--learning_rate=0.01"]
    row = processes.compare(True, tmp_path, flags)
    assert row["samples given to the model"] == 8 * 32
    assert row["the same sample, augmentation and label at every place"]
    assert row["mean loss, 2 processes"] == pytest.approx(row["mean loss, 1 process"], abs=1e-5)
    assert row["weights, relative difference (norms)"] < 1e-5


SRUN = """#!/bin/bash
shift
for node in 0 1; do SLURM_NODEID=$node "$@" & done
trap 'kill -TERM $(jobs -p)' TERM
wait; wait
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> "$SLURM_LOG"; fi
"""
# Has the test launch in its stead, and hands on to that what becomes of the job and of the launch.
ACCELERATE_COMMAND = f"""#!{sys.executable} -S
import os, signal, sys
from multiprocessing.connection import Client
with Client(os.environ["TEST_LAUNCHES"], "AF_UNIX") as test:
    signal.signal(signal.SIGTERM, lambda *_: test.send("stop"))
    test.send((sys.argv[2:], dict(os.environ)))
    sys.exit(test.recv())
"""


@pytest.fixture
def launches(tmp_path):
    """Where the command `accelerate` of a job asks for its launches, which have the imports; a log of each."""
    logs = [tmp_path / f"launch-{number}" for number in range(4)]
    listener = Listener(str(tmp_path / "launches"), "AF_UNIX")

    def serve(connection, log):
        words, environment = connection.recv()
        process = launch(train_script.main, words, log, **environment)
        while process.is_alive():
            if connection.poll(0.02):
                connection.recv()
                process.terminate()
        connection.send(process.exitcode)

    def accept():
        for log in logs:
            threading.Thread(target=serve, args=(listener.accept(), log), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.address, logs
    listener.close()


@pytest.mark.processes
@pytest.mark.slow
def test_a_job_whose_time_is_up_goes_back_into_the_queue_and_on(flags, tmp_path, launches):
    """The Slurm script, with an srun that starts both machines here and an scontrol that notes what it is told."""
    commands = tmp_path / "commands"
    commands.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("accelerate", ACCELERATE_COMMAND)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    log, (address, logs) = tmp_path / "scontrol.log", launches
    job = {
        "PATH": f"{commands}:{os.environ['PATH']}", "SLURM_LOG": str(log), "SLURM_NNODES": "2", "SLURM_JOB_ID": "77",
        "SLURM_GPUS_PER_NODE": "1", "SLURM_JOB_NODELIST": "one", "TEST_LAUNCHES": address,
    }  # fmt: skip

    def submit():
        command = ["bash", ACCELERATE / "slurm.sh", *flags, "--num_train_epochs=8"]
        return subprocess.Popen(command, cwd=REPOSITORY, env=os.environ | job, start_new_session=True)

    def output():
        return "".join(log.read_text() for log in logs if log.exists())

    stopped = submit()
    wait_until(lambda: list_checkpoints(tmp_path / "run"), lambda: stopped.poll() is None, output)
    stopped.terminate()
    stopped.wait(SECONDS)
    assert "stopped by SIGTERM behind checkpoint" in output(), output()
    assert log.read_text() == "requeue 77\n"
    requeued = submit()
    requeued.wait(SECONDS)
    assert requeued.returncode == 0 and "resumed from" in output(), output()
    assert read(tmp_path / "run")["epoch"] == 8
    assert log.read_text() == "requeue 77\n"


def test_synchronised_batchnorm_is_the_same_network(flags, tmp_path):
    """On one process it changes nothing, neither the weights nor their names."""
    flags += ["--max_train_steps=2"]
    assert_same_weights(train(flags, "--sync_batchnorm", f"--output_dir={tmp_path / 'sync'}"), train(flags))


def test_synchronised_batchnorm_on_cpus_is_refused(flags, monkeypatch):
    monkeypatch.setattr("slimresnet.recipe.launch.Accelerator.num_processes", 2)
    with pytest.raises(RecipeError, match="--sync_batchnorm works on GPUs alone"):
        train(flags, "--sync_batchnorm")


def test_a_restart_that_would_hang_is_refused(flags, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(RecipeError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        train(flags)


def test_processes_that_see_different_folders_are_refused(flags, trained, monkeypatch):
    monkeypatch.setattr("slimresnet.training.state.checkpoints.gather_object", lambda steps: [*steps, 0])
    with pytest.raises(CheckpointError, match="file system that all machines share"):
        train(flags, f"--resume_from_checkpoint={trained / 'checkpoint-14'}")


def test_deterministic_runs(flags, tmp_path):
    """All that a step does has an algorithm that gives the same bits each time; on a CPU it is the one used anyway."""
    flags += ["--max_train_steps=2"]
    seen = []
    watch = Told(on_train_begin=lambda state, **_: seen.append(torch.are_deterministic_algorithms_enabled()))
    words = ["--deterministic", f"--output_dir={tmp_path / 'deterministic'}"]
    deterministic = train(flags, *words, callbacks=[watch])
    assert seen == [True] and not torch.are_deterministic_algorithms_enabled()
    assert_same_weights(deterministic, train(flags))
