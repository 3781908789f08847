"""Linux's, macOS's and Windows's own ways, as far as they can be taken away here or be set to another's."""

import ast
import ctypes
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
import torch
from conftest import REPOSITORY, SAMPLE, run_python
from joblib import cpu_count
from PIL import Image
from training_runs import assert_same_weights, train

from slimresnet.data.corruptions.extra import EXTRA_CORRUPTIONS
from slimresnet.data.corruptions.frost import open_photographs
from slimresnet.data.corruptions.standard import CORRUPTIONS, with_photographs
from slimresnet.data.loader import STOP_SIGNALS, Loading, load_batches
from slimresnet.data.sources.arrays import open_arrays
from slimresnet.data.sources.corrupted import CorruptedImages
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.data.sources.source import DatasetError
from slimresnet.recipe import hardware
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.launch import start_accelerator
from slimresnet.recipe.settings import Recipe

CORES = cpu_count(only_physical_cores=True)
BATCHES = [np.arange(4), np.arange(4, 8)]


@pytest.fixture(params=["spawn", "forkserver"])
def start_method(request):
    """How macOS and Windows start workers, and how Python 3.14 does everywhere: without what this process has."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


def read(split, num_workers):
    return torch.cat(
        [pixels for pixels, _ in load_batches(split, BATCHES, Loading(torch.device("cpu"), 0, 1, num_workers))]
    )


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.slow
def test_workers_that_share_nothing_read_the_same(start_method):
    split = open_split(str(SAMPLE), "test", image_size=32)
    assert torch.equal(read(split, num_workers=2), read(split, num_workers=0))


@pytest.mark.processes
def test_other_processes_get_signals_still(start_method):
    """A server that starts processes for all would hand on that signals wait."""
    read(open_split(str(SAMPLE), "test", image_size=32), num_workers=1)
    process = multiprocessing.Process(target=signal.raise_signal, args=(signal.SIGTERM,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGTERM


@pytest.mark.processes
def test_workers_that_share_nothing_hand_a_sentence_on(tmp_path, start_method):
    folder = tmp_path / "[pets]"
    for name in ("cat/1", "cat/2", "dog/1", "dog/2", "dog/3", "dog/4", "dog/5", "dog/6"):
        file = folder / "train" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(file)
    file.write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"row 7 .*/dog/6\.png, holds no image"):
        read(open_split(str(folder), "train", image_size=8), num_workers=1)


def test_all_that_goes_to_workers_can_go_to_another_process(tmp_path):
    """Each of the sources that eval.py scores, as `spawn` sends it."""
    split = open_split(str(SAMPLE), "test", image_size=32)
    np.save(tmp_path / "fog.npy", np.zeros((8, 32, 32, 3), dtype=np.uint8))
    np.save(tmp_path / "labels.npy", np.zeros(8, dtype=np.int64))
    for number in range(2):
        Image.new("RGB", (64, 64)).save(tmp_path / f"{number}.png")
    photographs = with_photographs(open_photographs(tmp_path, 32))
    corruptions = {**CORRUPTIONS, **EXTRA_CORRUPTIONS, **photographs}
    sources = [CorruptedImages(split, name, each, 1, 0) for name, each in corruptions.items()]
    sources += [split.images, open_arrays(tmp_path, PixelFormat(32), ["a", "b"])["fog"].images]
    for source in sources:
        sent = multiprocessing.reduction.ForkingPickler.loads(multiprocessing.reduction.ForkingPickler.dumps(source))
        assert torch.equal(next(sent.read(BATCHES[:1])), next(source.read(BATCHES[:1])))


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["spawn"], indirect=True)  # its workers have least of this process
def test_a_run_whose_workers_share_nothing_has_the_same_weights(flags, tmp_path, start_method):
    """Each epoch and each evaluation starts one, which imports everything: a run of few."""
    flags += ["--num_train_epochs=1", "--validation_size=0"]
    alone = train(flags, f"--output_dir={tmp_path / 'alone'}")
    assert_same_weights(train(flags, "--streaming=true", "--dataloader_num_workers=1"), alone)


@pytest.mark.processes
def test_without_masks_of_signals(monkeypatch, flags, trained):
    """Windows has none."""
    monkeypatch.delattr(signal, "pthread_sigmask")
    assert_same_weights(train(flags, "--streaming=true", "--dataloader_num_workers=2"), trained)


@pytest.mark.processes
def test_signals_that_a_system_has_of_its_own_are_heeded():
    code = (
        "import datasets, signal; signal.SIGBREAK = signal.SIGUSR1\n"
        "from slimresnet.data.loader import STOP_SIGNALS; print(*map(int, STOP_SIGNALS))"
    )
    process = run_python("-c", code)
    assert process.stdout.split() == [str(int(each)) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)], (
        process.stderr
    )
    assert {signal.SIGINT, signal.SIGTERM} <= {*STOP_SIGNALS}


def test_freed_memory_is_left_alone_where_the_library_is_not_glibc(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("Windows has no library of that name"))
    hardware.keep_freed_memory()


def test_a_processor_has_a_name_where_pytorch_has_none(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    monkeypatch.setattr(platform, "processor", str)
    assert hardware.processor_name() == platform.machine() and not hardware.has_bf16("cpu")


UNIX_ALONE = {
    "fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "posix", "syslog",
    "chown", "fork", "forkpty", "getpgid", "getpgrp", "getrusage", "getuid", "geteuid", "initgroups", "killpg",
    "mkfifo", "nice", "openpty", "pthread_kill", "pthread_sigmask", "setsid", "setuid", "sched_getaffinity", "sigwait",
    "statvfs", "sysconf", "uname", "alarm", "setitimer", "pause", "SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGQUIT",
    "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGXFSZ", "O_DIRECTORY", "O_NOFOLLOW",
}  # fmt: skip
HAS_ANOTHER_SIDE = {("slimresnet/data/loader.py", "pthread_sigmask")}


def test_no_call_of_one_system_alone():
    """Modules and attributes that Windows lacks, in all that a user runs: each needs its other side, and a test."""
    files = [file for file in REPOSITORY.rglob("*.py") if not {".venv", "tests", "benchmarks"} & {*file.parts}]
    assert len(files) > 60
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [node.attr] if isinstance(node, ast.Attribute) else []
            found |= {(file.relative_to(REPOSITORY).as_posix(), name) for name in UNIX_ALONE & {*names}}
    assert found == HAS_ANOTHER_SIDE


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.slow
def test_each_script_may_be_imported_by_a_worker():
    """`spawn` imports the script that is running: nothing may run that stands outside of `main`."""
    scripts = ("train", "eval", "predict", "export", "push_to_hub")
    code = f"import runpy\nfor each in {scripts}: runpy.run_path(each + '.py', run_name='__mp_main__')"
    process = run_python("-c", code)
    assert process.returncode == 0 and process.stdout == "", process.stderr


def test_apples_gpus_have_no_float64(monkeypatch):
    accelerator = Mock(device=torch.device("mps"), mixed_precision="no", num_processes=1)
    monkeypatch.setattr("slimresnet.recipe.launch.Accelerator", lambda **_: accelerator)
    start_accelerator(Recipe())
    with pytest.raises(RecipeError, match=r"--trivial_augment .* float64, .*: add --use_cpu"):
        start_accelerator(Recipe(trivial_augment=True))


THREADS = """
import torch
from slimresnet.recipe.settings import Recipe
from slimresnet.recipe.launch import start_accelerator

start_accelerator(Recipe(use_cpu=True))
print("threads", torch.get_num_threads())
"""


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.slow
def test_a_launchers_number_of_threads_is_nobodys_word(tmp_path):
    """It says 1 by itself."""
    script = tmp_path / "threads.py"
    script.write_text(THREADS)
    launch = ["-m", "accelerate.commands.accelerate_cli", "launch", "--num_processes=1"]
    bare = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    process = subprocess.run(
        [sys.executable, *launch, script],
        cwd=REPOSITORY,
        env=bare | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert f"threads {CORES}" in process.stdout, process.stdout + process.stderr


@pytest.mark.parametrize(
    ("launched", "before", "words", "is_the_launchers"),
    [
        (True, {}, ["accelerate", "launch", "train.py"], True),
        (True, {"OMP_NUM_THREADS": "1"}, ["accelerate", "launch"], False),
        (True, {"MKL_NUM_THREADS": "1"}, ["torchrun"], False),
        (True, {}, ["accelerate", "launch", "--num-cpu-threads-per-process", "1"], False),
        (True, {}, ["accelerate", "launch", "--num_cpu_threads_per_process=1"], False),
        (True, psutil.AccessDenied(), [], False),
        (False, {}, ["bash"], False),
    ],
)
def test_whose_word_the_number_of_threads_is(monkeypatch, launched, before, words, is_the_launchers):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if launched:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    launcher = Mock()
    launcher.environ.side_effect = [before]
    launcher.cmdline.return_value = words
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(parent=lambda: launcher))
    assert hardware.are_threads_the_launchers() is is_the_launchers
