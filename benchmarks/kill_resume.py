"""Kills, full disks and doubled commands: python -m benchmarks.kill_resume --kills 100

A run gets SIGKILL, which no process can catch, five times: while it starts, computes, validates or writes. Each time
every checkpoint it left is checked, and it goes on with `--resume_from_checkpoint last`; then it is left to finish,
and its `model.safetensors` has to be that of a run that was never touched. Beside it: what a checkpoint costs.

eval.py, export.py and a run that replaces another are killed in a finished folder, and find its disk full: at a call
that changes files, or at a size that a file may not pass. Whoever opens the folder next has to find all files as they
were or all new ones, and the same command has to come to its end. Two runs are started in one folder: one has to be
whole, and the other told so.
"""

import argparse
import errno
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from benchmarks.broken_disk import before_each_change
from benchmarks.measuring import FOLDER, machine
from modeling_slimresnet import SlimResNetConfig
from slimresnet.api.train import train as api_train
from slimresnet.cli import eval as eval_script
from slimresnet.cli import export as export_script
from slimresnet.cli import train
from slimresnet.cli.train import parse_recipe
from slimresnet.data.sources.diagnosis import SAMPLE_FOLDER
from slimresnet.run_folder.changes import foreign, recorded
from slimresnet.run_folder.checkpoints import checkpoint_folders, find_damage
from slimresnet.run_folder.names import (
    CARD_NAME,
    CHANGE_NAME,
    CHECKPOINT_PREFIX,
    EXPORTS_NAME,
    JOURNAL_NAME,
    OWN_NAME,
    RECIPE_NAME,
    REPLACEMENT_NAME,
    RESULTS_NAME,
    UNFINISHED_NAME,
    WEIGHTS_NAME,
)
from slimresnet.run_folder.ownership import own
from slimresnet.run_folder.writing import write_json
from slimresnet.training.state.checkpoints import Checkpoints

KILLS_A_RUN = 5
TINY = [
    "--max_train_samples=224", "--validation_size=100", "--max_eval_samples=90", "--total_train_batch_size=32",
    "--num_train_epochs=6", "--ema_decay=0.9", "--load_best_model_at_end", "--cutmix_prob=0.5",
    "--random_erasing_prob=0.5", "--checkpointing_steps=3", "--use_cpu", "--mixed_precision=no",
]  # fmt: skip
RESUME = "--resume_from_checkpoint=last"
THEIRS = ("figures/my_plot.png", "experiment_details.json", "onnx/other.onnx", "checkpoint-4-keep-this-backup/notes")
REPLACING, *_ = TOOLS = ["a run that replaces it", "eval.py", "export.py"]
CONTEXT = multiprocessing.get_context("fork")  # a child has all imports done, and starts within a moment


class Tool(NamedTuple):
    """A script and its flags, as they go into a finished folder."""

    script: ModuleType
    flags: Callable[[Path], list[str]]


def run_silently(script: ModuleType, flags: list[str], log: Path, prepare: Callable[[], None]) -> None:
    """What a child process does: a script, its output in a file."""
    with log.open("a") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.argv = [script.__name__, *flags]
    prepare()
    script.main()


def start(
    script: ModuleType, flags: list[str], log: Path, prepare: Callable[[], None] = lambda: None
) -> multiprocessing.Process:
    process = CONTEXT.Process(target=run_silently, args=(script, flags, log, prepare))
    process.start()
    return process


def finish(script: ModuleType, flags: list[str], log: Path) -> None:
    """A script that has to come to its end."""
    process = start(script, flags, log)
    process.join()
    if process.exitcode:
        sys.exit(f"{script.__name__} failed:\n{log.read_text()[-3000:]}")


def is_writing(output_dir: Path) -> bool:
    unfinished = [output_dir / UNFINISHED_NAME, output_dir / REPLACEMENT_NAME / UNFINISHED_NAME]
    return any(any(folder.glob("*")) for folder in unfinished) or (output_dir / CHANGE_NAME).exists()


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
            return is_writing(output_dir)
        return set(checkpoint_folders(output_dir)) != before

    if moment != "anywhere":
        while process.is_alive() and not has_come():
            time.sleep(0.0002)
    time.sleep({"anywhere": 2.0, "within a save": 0.03, "after a checkpoint": 0.3}[moment] * draw.random())
    process.kill()
    process.join()
    if process.exitcode != -signal.SIGKILL:
        return None
    if is_writing(output_dir):
        return "writing or removing files"
    return "between two writes" if checkpoint_folders(output_dir) else "starting"


def digest(output_dir: Path) -> str:
    return hashlib.sha256((output_dir / WEIGHTS_NAME).read_bytes()).hexdigest()


def kill_and_resume(kills: int, base: list[str], folder: Path, draw: random.Random) -> dict:
    """Kills runs `kills` times in all; returns the counts."""
    log = folder / "log.txt"

    def finished(output_dir: Path, flags: list[str]) -> str:
        finish(train, flags, log)
        return digest(output_dir)

    expected = finished(folder / "whole", [*base, f"--output_dir={folder / 'whole'}"])
    found: Counter[str] = Counter()
    runs = identical = damaged = 0
    while found.total() < kills:
        output_dir = folder / f"run-{runs}"
        flags = [*base, RESUME, f"--output_dir={output_dir}", f"--streaming={'true' if runs % 2 else 'false'}"]
        for _ in range(min(KILLS_A_RUN, kills - found.total())):
            doing = kill(start(train, flags, log), output_dir, draw)
            if doing is None:
                break
            found[doing] += 1
            damaged += sum(find_damage(checkpoint) is not None for checkpoint in checkpoint_folders(output_dir))
        is_finished = (output_dir / RESULTS_NAME).exists()
        identical += (digest(output_dir) if is_finished else finished(output_dir, flags)) == expected
        runs += 1
    return {
        "kills": found.total(),
        "found when killed": dict(found),
        "runs": runs,
        "runs with the weights of the uninterrupted one": identical,
        "damaged checkpoints": damaged,
        "model.safetensors, SHA-256": expected,
    }


class FinishedFolders:
    """
    Copies of a finished run, with exported files and with files of a person's own; and what tools may make of them.

    Args:
        base: flags of a run.
        names: of the tools to watch.
    """

    def __init__(self, base: list[str], folder: Path, names: list[str]):
        self._folder, self._number, self.log = folder, 0, folder / "log.txt"
        self._origin, other = folder / "origin", folder / "other"
        self.tools = {
            REPLACING: Tool(
                train, lambda here: [*base, "--seed=2", f"--output_dir={here}", "--overwrite_output_dir", RESUME]
            ),
            "eval.py": Tool(eval_script, lambda here: [str(here), f"--output_dir={here}", "--tta=flip"]),
            "export.py": Tool(
                export_script, lambda here: [str(here), f"--output_dir={here}", "--overwrite_output_dir"]
            ),
        }
        finish(train, [*base, f"--output_dir={self._origin}"], self.log)
        finish(train, [*base, f"--output_dir={other}", "--seed=2"], self.log)
        finish(export_script, [str(self._origin), f"--output_dir={self._origin}"], self.log)
        for name in THEIRS:
            (self._origin / name).parent.mkdir(exist_ok=True)
            (self._origin / name).write_text("mine")
        self._weights = {digest(self._origin): 42, digest(other): 2}  # and the seed of each
        self._before = self._visible(self._origin)
        self.calls, self.seconds = {}, {}
        for name in names:
            self._watch(name)
        self.sizes = sorted({file.stat().st_size for file in self._origin.rglob("*") if file.is_file()} - {0})

    def _watch(self, name: str) -> None:
        """Counts the calls that change files, and the seconds, of a tool that nothing happens to."""
        here, calls, started = self.copy(), CONTEXT.Value("i", 0), time.perf_counter()
        process = self.start(name, here, partial(count_calls, here, calls))
        process.join()
        self.calls[name], self.seconds[name] = calls.value, time.perf_counter() - started
        shutil.rmtree(here)

    def start(
        self, name: str, here: Path, prepare: Callable[[], None] = lambda: None, log: Path | None = None
    ) -> multiprocessing.Process:
        """A tool in a copy."""
        tool = self.tools[name]
        return start(tool.script, tool.flags(here), log or self.log, prepare)

    def comes_to_its_end(self, name: str, here: Path) -> bool:
        """Whether the same command, once more, makes all files new."""
        tool = self.tools[name]
        finish(tool.script, tool.flags(here), self.log)
        return self.found(here) == "new"

    def copy(self) -> Path:
        self._number += 1
        return Path(shutil.copytree(self._origin, self._folder / f"copy-{self._number}"))

    def _visible(self, here: Path) -> dict[str, str]:
        return {
            file.relative_to(here).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in here.rglob("*")
            if file.is_file() and OWN_NAME not in file.parts
        }

    def found(self, here: Path) -> str:
        """What the next to open a folder finds: `old`, `new`, or what is wrong with it."""
        with own(here):
            pass
        now = self._visible(here)
        if now == self._before:
            return "old"
        wrong = [f"{name} of another's" for name in THEIRS if now.get(name) != self._before[name]]
        record = recorded(here)
        wrong += [f"{name} is not as written" for name in record if name not in now or foreign(here, [name])]
        strays = {name for name in now if not name.startswith(CHECKPOINT_PREFIX)} - record.keys() - set(THEIRS)
        wrong += [f"{name} is nobody's" for name in strays]
        wrong += [f"{checkpoint.name} is damaged" for checkpoint in checkpoint_folders(here) if find_damage(checkpoint)]
        return "; ".join(wrong) or ("new" if self._is_of_one_run(here) else "files of two runs")

    def _is_of_one_run(self, here: Path) -> bool:
        results = json.loads((here / RESULTS_NAME).read_text())
        exports = here / EXPORTS_NAME
        facts = json.loads(exports.read_text()) if exports.exists() else {}
        return (
            f"\nseed: {self._weights[digest(here)]}\n" in (here / RECIPE_NAME).read_text()
            and f"{results['test_accuracy']:.2%}" in (here / CARD_NAME).read_text()
            and all((here / name).stat().st_size == each["bytes"] for name, each in facts.items())
        )


def kill_in_finished_folders(kills: int, folders: FinishedFolders, draw: random.Random) -> dict:
    """Kills each tool `kills` times; returns the counts."""
    counts = {}
    for name, seconds in folders.seconds.items():
        found: Counter[str] = Counter()
        finished = 0
        while found.total() < kills:
            here = folders.copy()
            process = folders.start(name, here)
            # At any moment, while new files are made, or while they take their places.
            awaited, longest = draw.choice([(OWN_NAME, seconds), (CHANGE_NAME, 0.3), (JOURNAL_NAME, 0.01)])
            while process.is_alive() and not (here / awaited).exists():
                time.sleep(0.0002)
            time.sleep(longest * draw.random())
            process.kill()
            process.join()
            if process.exitcode == -signal.SIGKILL:
                found[folders.found(here)] += 1
                finished += folders.comes_to_its_end(name, here)
            shutil.rmtree(here)
        counts[name] = {
            "kills": kills, "found after it": dict(found), "came to their end by the same command": finished,
        }  # fmt: skip
    return counts


def fill_disks(times: int, folders: FinishedFolders, draw: random.Random) -> dict:
    """Has each tool find the disk full `times` times; returns the counts."""
    counts = {}
    for name, calls in folders.calls.items():
        found: Counter[str] = Counter()
        finished = said = 0
        for number in range(times):
            here, log = folders.copy(), folders.log.with_name(f"full-{number}.txt")
            if draw.random() < 0.5:
                fault = partial(limit_files, draw.choice(folders.sizes) - 1, here)
            else:
                fault = partial(refuse_call, draw.randint(1, calls), here)
            process = folders.start(name, here, fault, log)
            process.join()
            is_said = process.exitcode in (0, 1) and "Traceback" not in log.read_text()
            if not is_said:
                print(log.read_text(), file=sys.stderr)
            said += is_said
            found[folders.found(here)] += 1
            finished += folders.comes_to_its_end(name, here)
            log.unlink(), shutil.rmtree(here)
        counts[name] = {
            "full disks": times,
            "calls that change files": calls,
            "found after it": dict(found),
            "came to its end, or said why not in a sentence": said,
            "came to their end by the same command": finished,
        }
    return counts


def count_calls(here: Path, calls: Synchronized) -> None:
    def hear(number: int) -> None:
        calls.value = number

    before_each_change(hear, here)


def refuse_call(number: int, here: Path) -> None:
    """One call finds the disk full."""

    def hear(each: int) -> None:
        if each == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before_each_change(hear, here)


def limit_files(size: int, here: Path) -> None:
    """No file grows beyond so many bytes, from when the tool begins to write: its workers' memory is files, too."""

    def hear(_: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    before_each_change(hear, here / CHANGE_NAME)


def start_two(times: int, base: list[str], folder: Path, expected: str, draw: random.Random) -> dict:
    """Starts two runs at a time in one folder; returns the counts."""
    found: Counter[str] = Counter()
    identical = 0
    for number in range(times):
        output_dir, logs = folder / f"two-{number}", [folder / f"two-{number}-{each}.txt" for each in range(2)]
        more = [RESUME] if number % 2 else []
        processes = []
        for log in logs:
            processes.append(start(train, [*base, *more, f"--output_dir={output_dir}"], log))
            time.sleep(draw.random() ** 2)
        for process in processes:
            process.join()
        codes = sorted(process.exitcode for process in processes)
        refusals = [log.read_text().strip().splitlines()[-1] for log in logs if "train.py: error:" in log.read_text()]
        told = [next((each for each in _REFUSALS if each in line), line) for line in refusals]
        found["; ".join(told) if codes == [0, 1] else f"exit codes {codes}"] += 1
        identical += digest(output_dir) == expected
    return {"times": times, "the second was told": dict(found), "the first had the weights of a run alone": identical}


_REFUSALS = ("is in use", "holds a finished run", "holds the checkpoints of a run", "changed by another process")


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
    api_train(parse_recipe(flags))
    newest = max(checkpoint_folders(folder / "cost"), key=lambda path: path.stat().st_mtime)
    return {
        "seconds, median": round(statistics.median(seconds), 3),
        "seconds, longest": round(max(seconds), 3),
        "megabytes": {file.name: round(file.stat().st_size / 1e6, 1) for file in sorted(newest.iterdir())}
        | {"in all": round(sum(file.stat().st_size for file in newest.iterdir()) / 1e6, 1)},
    }


def main() -> None:
    """Measures and writes `benchmarks/kill_resume.json`, or the file that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset_name", default=SAMPLE_FOLDER)
    parser.add_argument("--kills", type=int, default=100, help="Of each kind, and as many full disks and double runs.")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS, help="At work in a finished folder.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=FOLDER / "kill_resume.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, draw, kills = Path(name), random.Random(arguments.seed), arguments.kills
        config = SlimResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], strides=[2, 2])
        config.save_pretrained(folder / "config")
        base = [*TINY, f"--dataset_name={arguments.dataset_name}", f"--config_name={folder / 'config'}"]
        result = {"command": f"python -m benchmarks.kill_resume --kills {kills}", "machine": machine()}

        def measure(title: str, measured: Callable[[], dict]) -> None:
            started = time.perf_counter()
            result[title] = measured()
            result[title]["minutes"] = round((time.perf_counter() - started) / 60, 1)

        # The children come first: this process must not have computed anything before it forks.
        measure("faults", lambda: kill_and_resume(kills, base, folder, draw))
        folders = FinishedFolders([*base, "--num_train_epochs=2"], folder, arguments.tools)
        measure("kills in a finished folder", lambda: kill_in_finished_folders(kills, folders, draw))
        measure("full disks", lambda: fill_disks(kills, folders, draw))
        expected = result["faults"]["model.safetensors, SHA-256"]
        measure("two runs in a folder", lambda: start_two(kills, base, folder, expected, draw))
        result["checkpoint of the default network, with averaged weights"] = cost(arguments.dataset_name, folder)
    write_json(arguments.output, result)
    print(arguments.output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
