"""Kills training at random moments, resumes it, compares the weights: python -m benchmarks.faults --kills 100

A run gets SIGKILL, which no process can catch, five times: while it starts, computes, validates or writes. Each time
every checkpoint it left is checked, and it goes on with `--resume_from_checkpoint last`; then it is left to finish,
and its `model.safetensors` has to be that of a run that was never touched. Beside it: what a checkpoint costs.
"""

import argparse
import hashlib
import multiprocessing
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import train
from benchmarks.measuring import FOLDER, machine
from cifar10.reading import SAMPLE_FOLDER
from modeling_slimresnet import SlimResNetConfig
from run_folder.writing import write_json
from training.checkpoints import Checkpoints, checkpoint_folders, find_damage
from training.recipe import parse_recipe

KILLS_A_RUN = 5
TINY = [
    "--max_train_samples=224", "--validation_size=100", "--max_eval_samples=90", "--total_train_batch_size=32",
    "--num_train_epochs=6", "--ema_decay=0.9", "--load_best_model_at_end", "--cutmix_prob=0.5",
    "--random_erasing_prob=0.5", "--checkpointing_steps=3", "--use_cpu", "--mixed_precision=no",
    "--resume_from_checkpoint=last",
]  # fmt: skip
CONTEXT = multiprocessing.get_context("fork")  # a child has all imports done, and starts within a moment


def run_silently(flags: list[str], log: Path) -> None:
    """What a child process does: train.py, its output in a file."""
    with log.open("a") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        sys.argv = ["train.py", *flags]
        train.main()


def start(flags: list[str], log: Path) -> multiprocessing.Process:
    process = CONTEXT.Process(target=run_silently, args=(flags, log))
    process.start()
    return process


def kill(process: multiprocessing.Process, output_dir: Path, draw: random.Random) -> str | None:
    """
    Kills the process at a random moment.

    Returns:
        What it was doing, as far as its files tell; None where it had finished before.
    """
    before = set(checkpoint_folders(output_dir))
    moment = draw.choice(["anywhere", "within a save", "after a checkpoint"])

    def has_come() -> bool:
        if moment == "within a save":
            return any(output_dir.glob("tmp-*"))
        return set(checkpoint_folders(output_dir)) != before

    if moment != "anywhere":
        while process.is_alive() and not has_come():
            time.sleep(0.0002)
    time.sleep({"anywhere": 2.0, "within a save": 0.03, "after a checkpoint": 0.3}[moment] * draw.random())
    process.kill()
    process.join()
    if process.exitcode != -signal.SIGKILL:
        return None
    if any(output_dir.glob("tmp-*")):
        return "writing or removing files"
    return "between two writes" if checkpoint_folders(output_dir) else "starting"


def digest(output_dir: Path) -> str:
    return hashlib.sha256((output_dir / "model.safetensors").read_bytes()).hexdigest()


def kill_and_resume(kills: int, dataset_name: str, folder: Path, seed: int) -> dict:
    """Kills runs `kills` times in all; returns the counts."""
    config = SlimResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], strides=[2, 2])
    config.save_pretrained(folder / "config")
    base = [*TINY, f"--dataset_name={dataset_name}", f"--config_name={folder / 'config'}"]
    log = folder / "log.txt"

    def finish(output_dir: Path, flags: list[str]) -> str:
        process = start(flags, log)
        process.join()
        if process.exitcode:
            sys.exit(f"a run failed:\n{log.read_text()[-3000:]}")
        return digest(output_dir)

    expected = finish(folder / "whole", [*base, f"--output_dir={folder / 'whole'}"])
    draw = random.Random(seed)
    found: Counter[str] = Counter()
    runs = identical = damaged = 0
    while found.total() < kills:
        output_dir = folder / f"run-{runs}"
        flags = [*base, f"--output_dir={output_dir}", f"--streaming={'true' if runs % 2 else 'false'}"]
        for _ in range(min(KILLS_A_RUN, kills - found.total())):
            doing = kill(start(flags, log), output_dir, draw)
            if doing is None:
                break
            found[doing] += 1
            damaged += sum(find_damage(checkpoint) is not None for checkpoint in checkpoint_folders(output_dir))
        finished = (output_dir / "all_results.json").exists()
        identical += (digest(output_dir) if finished else finish(output_dir, flags)) == expected
        runs += 1
    return {
        "kills": found.total(),
        "found when killed": dict(found),
        "runs": runs,
        "runs with the weights of the uninterrupted one": identical,
        "damaged checkpoints": damaged,
        "model.safetensors, SHA-256": expected,
    }


def cost(dataset_name: str, folder: Path) -> dict:
    """Time and disk of a checkpoint of the default network with averaged weights."""
    seconds = []
    save = Checkpoints.save

    def timed(self, state):
        started = time.perf_counter()
        save(self, state)
        seconds.append(time.perf_counter() - started)

    Checkpoints.save = timed
    flags = [
        f"--dataset_name={dataset_name}", f"--output_dir={folder / 'cost'}", "--max_train_steps=8", "--ema_decay=0.9",
        "--checkpointing_steps=1", "--total_train_batch_size=8", "--validation_size=0", "--max_eval_samples=8",
        "--streaming=false",
    ]  # fmt: skip
    train.run(parse_recipe(flags))
    newest = max(checkpoint_folders(folder / "cost"), key=lambda path: path.stat().st_mtime)
    return {
        "seconds, median": round(statistics.median(seconds), 3),
        "seconds, longest": round(max(seconds), 3),
        "megabytes": {file.name: round(file.stat().st_size / 1e6, 1) for file in sorted(newest.iterdir())}
        | {"in all": round(sum(file.stat().st_size for file in newest.iterdir()) / 1e6, 1)},
    }


def main() -> None:
    """Measures and writes `benchmarks/faults.json`, or the file that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset_name", default=SAMPLE_FOLDER)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=FOLDER / "faults.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        started = time.perf_counter()
        result = {"command": f"python -m benchmarks.faults --kills {arguments.kills}", "machine": machine()}
        # The children come first: this process must not have computed anything before it forks.
        result["faults"] = kill_and_resume(arguments.kills, arguments.dataset_name, Path(name), arguments.seed)
        result["faults"]["minutes"] = round((time.perf_counter() - started) / 60, 1)
        result["checkpoint of the default network, with averaged weights"] = cost(arguments.dataset_name, Path(name))
    write_json(arguments.output, result)
    print(arguments.output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
