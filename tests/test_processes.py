"""Several processes train as one would: launched as the README says, by accelerate with gloo."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import REPOSITORY, SAMPLE, run_python
from torch.nn import functional as F
from training_runs import assert_same_weights, read, train
from transformers import AutoImageProcessor, AutoModelForImageClassification

from benchmarks.processes import compare
from cifar10.reading import open_split
from training.checkpoints import CheckpointError, list_checkpoints
from training.recipe import RecipeError

ACCELERATE = REPOSITORY / "configuration" / "accelerate"


def test_two_processes_score_every_test_image_once(flags, tmp_path):
    """Launched as the README says, by accelerate with gloo; together they see the batches that one process sees."""
    folder = tmp_path / "two"
    flags = [*flags, f"--output_dir={folder}", "--max_eval_samples=1000", "--num_train_epochs=1", "--streaming=true"]
    config = REPOSITORY / "configuration" / "accelerate" / "multi_cpu.yaml"
    process = run_python("-m", "accelerate.commands.launch", f"--config_file={config}", "train.py", *flags)
    assert process.returncode == 0, process.stderr[-3000:]
    assert "processes: 2, device: cpu" in process.stdout and "32 images a step = 16 × 2" in process.stdout
    assert process.stdout.count("test accuracy") == 1
    results = read(folder)
    assert (results["test_samples"], results["eval_samples"]) == (500, 100)
    assert read(folder, "trainer_state.json")["global_step"] == 7
    AcceleratorState._reset_state(reset_partial_state=True)
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    split = open_split(str(SAMPLE), "test", image_size=32)
    (pixels,) = split.images.read([np.arange(500)])
    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.inference_mode():
        logits = model(**processor(list(pixels), return_tensors="pt")).logits
    assert (logits.argmax(dim=1).numpy() == split.labels).mean() == results["test_accuracy"]
    # Each process ends with BatchNorm statistics of its own: this fails where they score others than are saved.
    assert F.cross_entropy(logits, torch.from_numpy(split.labels)).item() == pytest.approx(
        results["test_loss"], abs=1e-5
    )


def test_processes_that_diverge_stop_together(flags, tmp_path):
    run = [*flags, "--learning_rate=1e36", "--max_train_steps=1"]
    config = ACCELERATE / "multi_cpu.yaml"
    process = run_python("-m", "accelerate.commands.launch", f"--config_file={config}", "train.py", *run)
    assert process.returncode == 1 and "accuracy" not in process.stdout
    said = [line for line in process.stderr.splitlines() if line.startswith("train.py: ")]
    assert len(said) == 1 and "after step 1 at a learning rate of 1e+36: lower --learning_rate" in said[0]
    assert not {"README.md", "all_results.json", "model.safetensors"} & set(os.listdir(tmp_path / "run"))


def test_one_process_and_two_see_the_same_samples_and_end_in_the_same_weights(flags, tmp_path):
    """With BatchNorm frozen they do the same sums in another order: 20 steps of 32 images, on one process or on two."""
    row = compare(True, tmp_path, [*flags, "--max_train_steps=20", "--learning_rate=0.01"])
    assert row["samples given to the model"] == 640
    assert row["the same sample, augmentation and label at every place"]
    assert row["mean loss, 2 processes"] == pytest.approx(row["mean loss, 1 process"], abs=1e-5)
    assert row["weights, relative difference (norms)"] < 1e-6


def test_a_run_can_go_on_with_another_number_of_processes(flags, tmp_path, capsys):
    """From two to one: a machine was lost."""
    two = [*flags, "--num_train_epochs=2", "--max_train_steps=20", "--checkpointing_steps=10", "--save_total_limit=9"]
    process = run_python("-m", "accelerate.commands.launch", f"--config_file={ACCELERATE / 'multi_cpu.yaml'}",
                         "train.py", *two)  # fmt: skip
    assert process.returncode == 0, process.stderr[-3000:]
    checkpoint = tmp_path / "run" / "checkpoint-10"
    folder = train(two, f"--resume_from_checkpoint={checkpoint}", f"--output_dir={tmp_path / 'one'}")
    output = capsys.readouterr().out
    assert "processes 2 there, 1 here" in output and "at step 10 of 20" in output
    assert read(folder)["epoch"] == read(tmp_path / "run")["epoch"]


SRUN = """#!/bin/bash
shift
for node in 0 1; do SLURM_NODEID=$node "$@" & done
trap 'kill -TERM $(jobs -p)' TERM
wait; wait
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> "$SLURM_LOG"; fi
"""


def test_a_job_whose_time_is_up_goes_back_into_the_queue_and_on(flags, tmp_path):
    """The Slurm script, with an srun that starts both machines here and an scontrol that notes what it is told."""
    commands = tmp_path / "commands"
    commands.mkdir()
    python = f'#!/bin/bash\nexec {sys.executable} -m accelerate.commands.accelerate_cli "$@"\n'
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("accelerate", python)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    log = tmp_path / "scontrol.log"
    job = {
        "PATH": f"{commands}:{os.environ['PATH']}", "SLURM_LOG": str(log), "SLURM_NNODES": "2", "SLURM_JOB_ID": "77",
        "SLURM_GPUS_PER_NODE": "1", "SLURM_JOB_NODELIST": "one",
    }  # fmt: skip

    def start():
        return subprocess.Popen(
            ["bash", ACCELERATE / "slurm.sh", *flags, "--num_train_epochs=12"], cwd=REPOSITORY, env=os.environ | job,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    stopped = start()
    deadline = time.monotonic() + 120
    while not list_checkpoints(tmp_path / "run") and stopped.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    stopped.terminate()
    output, _ = stopped.communicate(timeout=120)
    assert "stopped by SIGTERM behind checkpoint" in output, output
    assert log.read_text() == "requeue 77\n"
    requeued = start()
    output, _ = requeued.communicate(timeout=240)
    assert requeued.returncode == 0 and "resumed from" in output, output
    assert read(tmp_path / "run")["epoch"] == 12
    assert log.read_text() == "requeue 77\n"


def test_synchronised_batchnorm_is_the_same_network(flags, tmp_path):
    """On one process it changes nothing, neither the weights nor their names."""
    assert_same_weights(train(flags, "--sync_batchnorm", f"--output_dir={tmp_path / 'sync'}"), train(flags))


def test_synchronised_batchnorm_on_cpus_is_refused(flags, monkeypatch):
    monkeypatch.setattr("training.setup.Accelerator.num_processes", 2)
    with pytest.raises(RecipeError, match="--sync_batchnorm works on GPUs alone"):
        train(flags, "--sync_batchnorm")


def test_a_restart_that_would_hang_is_refused(flags, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(RecipeError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        train(flags)


def test_processes_that_see_different_folders_are_refused(flags, monkeypatch):
    train(flags, "--max_train_steps=14", "--checkpointing_steps=7")
    monkeypatch.setattr("training.checkpoints.gather_object", lambda steps: [*steps, 0])
    with pytest.raises(CheckpointError, match="file system that all machines share"):
        train(flags, "--max_train_steps=14", "--overwrite_output_dir", "--resume_from_checkpoint=last")


def test_deterministic_runs(flags, tmp_path):
    """All that a step does has an algorithm that gives the same bits each time; on a CPU it is the one used anyway."""
    try:
        deterministic = train(flags, "--deterministic", f"--output_dir={tmp_path / 'deterministic'}")
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same_weights(deterministic, train(flags))
