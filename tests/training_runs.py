"""What the tests of train.py share: a run in this process or in others, and looking at what it wrote."""

import atexit
import json
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed.run
from accelerate.commands import launch as launch_script
from conftest import REPOSITORY, SAMPLE
from safetensors.torch import load_file
from transformers import TrainerCallback

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.api.evaluate import evaluate
from slimresnet.api.train import train as api_train
from slimresnet.cli import train as train_script
from slimresnet.cli.eval import parse, print_scores
from slimresnet.cli.train import parse_recipe
from slimresnet.data.randomness import sample_order
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.splits import random_subset, stratified_split
from slimresnet.data.transforms.normalize import normalize
from slimresnet.run_folder.changes import change
from slimresnet.run_folder.ownership import own

SECONDS = 300  # of patience with a process, on a machine that may have other things to do
PROCESSES = multiprocessing.get_context("forkserver")
# Imports take seconds: done once, a child has them.
PROCESSES.set_forkserver_preload([
    "slimresnet.api.train", "slimresnet.cli.eval", "slimresnet.cli.predict", "slimresnet.cli.export",
    "slimresnet.cli.push_to_hub", "accelerate.commands.launch", "torch.distributed.run", "hypothesis",
])  # fmt: skip
# Python would wait at its end for those that a failed test left.
atexit.register(lambda: [process.kill() for process in multiprocessing.active_children()])


def train(flags, *more, callbacks=()):
    """One run in this process; the last of two equal flags counts. Returns its folder."""
    return api_train(parse_recipe([*flags, *map(str, more)]), callbacks).folder


def start(
    program: Callable[[], None], arguments, log: Path, errors: Path | None = None, **environment: str
) -> multiprocessing.Process:
    """
    Another process, the first of its group, as a terminal or a job scheduler starts it.

    Args:
        program: what it runs, a function of a module, such as `train.main`.
        arguments: of its command line.
        log: gets what it prints.
        errors: gets what it prints to standard error, if that is to be apart.
    """
    errors = errors or log
    log.touch(), errors.touch()
    process = PROCESSES.Process(target=_run, args=(program, list(map(str, arguments)), log, errors, environment))
    process.start()
    return process


def _run(program, arguments, log, errors, environment):
    os.setsid()
    os.environ.update(environment)
    for file, stream in ((log, 1), (errors, 2)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), stream)
    multiprocessing.set_start_method(None, force=True)  # the system's own, as in a fresh process
    sys.argv = [getattr(program, "__module__", "program"), *arguments]
    program()


def run_script(name, *arguments, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """A script of the repository, such as `eval.py`, to its end, in a process that has the imports."""
    streams = folder / f"{name}.out", folder / f"{name}.err"
    process = start(partial(_run_script, name), arguments, *streams, **environment)
    process.join(SECONDS)
    return subprocess.CompletedProcess(name, process.exitcode, *(file.read_text() for file in streams))


def _run_script(name):
    sys.argv[0] = name
    os.chdir(REPOSITORY)
    runpy.run_path(name, run_name="__main__")


def launch(program: Callable[[], None], arguments, log: Path, **environment: str) -> multiprocessing.Process:
    """
    `accelerate launch` with these words: several processes, all with the imports, which run `program` as their script.

    Raises:
        As `accelerate launch` does, in the process that is returned.
    """
    return start(partial(_launch, program), arguments, log, **environment)


def _launch(program):
    prepare = torch.distributed.run.config_from_args

    def prepare_forks(arguments):
        config, _, words = prepare(arguments)
        config.start_method = "fork"
        return config, _run_launched, [program, words]

    torch.distributed.run.config_from_args = prepare_forks
    os.chdir(REPOSITORY)
    launch_script.main()


def _run_launched(program, words):
    script = words.index("-m") + 1 if "-m" in words else 1  # behind Python's own -u
    sys.argv = words[script:]
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # as PyTorch does where it begins
    program()


def start_two(flags, folder: Path, program=train_script.main) -> list[tuple[multiprocessing.Process, Path]]:
    """One run on two processes, as a launcher starts them; beside each the log in `folder` that it writes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    launch = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    logs = [folder / f"rank-{rank}.log" for rank in range(2)]
    return [
        (start(program, flags, log, **launch, RANK=str(rank), LOCAL_RANK=str(rank)), log)
        for rank, log in enumerate(logs)
    ]


def train_on_two(flags, folder: Path) -> Path:
    """One run on two processes to its end; their output goes into `folder`."""
    for process, log in start_two(flags, folder):
        process.join()
        assert process.exitcode == 0, log.read_text()
    return Path(parse_recipe(flags).output_dir)


def wait_until(condition: Callable[[], bool], is_running: Callable[[], bool], output: Callable[[], str]) -> None:
    """Fails with the output of a process where it ends, or minutes pass, before the condition holds."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert is_running() and time.monotonic() < deadline, output()
        time.sleep(0.01)


class Told(TrainerCallback):
    """`Told(on_step_begin=function)` calls the function, with the state and what the event brings, at that event."""

    def __init__(self, **events: Callable):
        for event, function in events.items():
            setattr(self, event, lambda args, state, control, _call=function, **facts: _call(state, **facts))


def spoils_at(step: int, event: str) -> Told:
    """At an event of `TrainerCallback` a weight becomes infinite, where `step` steps are taken."""

    def spoil(state, model, **_):
        if state.global_step == step:
            model.classifier.bias.data[-1:] = torch.inf

    return Told(**{event: spoil})


class Validation(TrainerCallback):
    """Has validation find these accuracies, an epoch each, of the weights that are trained and of the averaged ones."""

    def __init__(self, raw, averaged=()):
        self._raw, self._averaged = iter(raw), iter(averaged)

    def on_evaluate(self, args, state, control, metrics, **_):
        metrics |= {"eval_loss": 1.0, "eval_accuracy": next(self._raw)}
        if "eval_accuracy_ema" in metrics:
            metrics |= {"eval_loss_ema": 1.0, "eval_accuracy_ema": next(self._averaged)}


def by_hand(recipe, config_dir, batch_size):
    """The network that a run of the recipe begins with, and its batches without augmentation: pixel values, labels."""
    torch.manual_seed(recipe.seed)
    model = SlimResNetForImageClassification(SlimResNetConfig.from_pretrained(config_dir)).train()
    split = open_split(str(SAMPLE), "train", image_size=32)
    rows, _ = stratified_split(split.labels, recipe.validation_size, recipe.seed)
    rows = random_subset(rows, recipe.max_train_samples, recipe.seed)
    order = rows[sample_order(recipe.seed, 0, len(rows), recipe.shuffle_buffer_size)]
    batches = [order[start:][:batch_size] for start in range(0, len(order), batch_size)]
    labels = [torch.from_numpy(split.labels[batch]) for batch in batches]
    pixel_values = (normalize(pixels, recipe.image_mean, recipe.image_std) for pixels in split.images.read(batches))
    return model, zip(pixel_values, labels, strict=True)


def assert_accuracy(accuracy, logits, labels):
    """It is that of these logits; an image whose two best classes are as good as equal may be right or wrong."""
    best, second = logits.topk(2).values.T
    close, right = best - second <= 1e-4, logits.argmax(dim=1) == labels
    assert (right & ~close).sum() <= round(accuracy * len(labels)) <= (right | close).sum()


def weights(folder):
    """The tensors of a folder's `model.safetensors`, by name."""
    return load_file(folder / "model.safetensors")


def assert_same_weights(first, second):
    expected = weights(second)
    assert list(expected) == list(weights(first))
    for name, value in weights(first).items():
        assert torch.equal(value, expected[name]), name


def read(folder, name="all_results.json"):
    return json.loads((folder / name).read_text())


def snapshot(folder):
    """The bytes of every file in a folder, but for the lock, which has none."""
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != "lock"}


def write_as_ours(folder, *names):
    """Adds files as eval.py and export.py do."""
    with own(folder), change(folder) as made:
        for name in names:
            (made.files / name).parent.mkdir(exist_ok=True)
            (made.files / name).write_text("{}")


def evaluate_folder(folder, *flags):
    """What eval.py does, in this process: it prints, and mistakes are raised."""
    return evaluate(**vars(parse([str(folder), *flags])), on_scored=print_scores)
