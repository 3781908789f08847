"""Streams that break, fill up or know ASCII alone, and a clock that jumps, cost a run nothing."""

import io
import itertools
import os
import shutil
import subprocess
import sys
import time

import pytest
from conftest import REPOSITORY, SAMPLE
from training_runs import SECONDS, read, start

from slimresnet.cli import train as train_script
from slimresnet.run_folder.console import tolerant_output


def broken_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def train_without_a_reader():
    for descriptor in (1, 2):
        os.dup2(broken_pipe(), descriptor)
    train_script.main()


def train_with_an_ascii_terminal_and_a_clock_that_goes_back():
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="ascii", errors="strict")
    now = itertools.count(2_000_000_000, -86_400)
    time.time = lambda: float(next(now))
    train_script.main()


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "words"),
    [
        (train_without_a_reader, []),
        (
            train_with_an_ascii_terminal_and_a_clock_that_goes_back,
            [b"saved to", b"l\\xe4uft-\\u732b", b"bilder-\\u732b"],
        ),
    ],
)
def test_a_run_goes_on_and_saves(flags, tmp_path, program, words):
    folder, log = tmp_path / "läuft-猫", tmp_path / "log"
    data = shutil.copytree(SAMPLE, tmp_path / "bilder-猫")
    process = start(program, [*flags, f"--output_dir={folder}", f"--dataset_name={data}"], log)
    process.join(SECONDS)
    assert process.exitcode == 0, log.read_text()
    assert read(folder)["epoch"] == 3 and (folder / "checkpoint-21").exists()
    said = log.read_bytes()
    assert all(each in said for each in words) and bool(said) == bool(words), said


PRINTING = """
import os, sys
sys.path.insert(0, {repository!r})
from slimresnet.run_folder.console import tolerant_output
with tolerant_output():
    for number in range(3000):
        print("line", number, "ä", flush=number % 2 == 0)
        print("note", number, file=sys.stderr)
    open({done!r}, "w").close()
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    "redirection", ["| head -n 1", "2>&1 | head -n 1", ">/dev/full", ">/dev/full 2>&1", ">&-", "2>&-", ">&- 2>&- <&-"]
)
def test_a_program_ends_its_work_and_well(tmp_path, redirection):
    done, script = tmp_path / "done", tmp_path / "script.py"
    script.write_text(PRINTING.format(repository=str(REPOSITORY), done=str(done)))
    command = f"set -o pipefail; {sys.executable} {script} {redirection}"
    process = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.exists() and process.returncode == 0 and "Traceback" not in process.stderr
    if redirection == "| head -n 1":
        assert process.stdout == "line 0 ä\n"
        assert process.stderr.count("standard output cannot be written to (Broken pipe): going on without") == 1


def test_what_a_stream_cannot_say_is_escaped_and_the_stream_is_given_back(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    with tolerant_output():
        print("a/ä/\udc80", end="")
        assert sys.stdout.encoding == "ascii" and not sys.stdout.isatty()
    assert stream.buffer.getvalue() == b"a/\\xe4/\\udc80" and sys.stdout is stream
