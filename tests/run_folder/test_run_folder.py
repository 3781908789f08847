"""A folder is changed as a whole or not at all, by one process at a time, and nobody's files but ours are."""

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from training_runs import snapshot

from benchmarks.broken_disk import before_each_change
from slimresnet.run_folder import changes, ownership, writing
from slimresnet.run_folder.changes import change, foreign, is_own, is_pending, recorded, settle
from slimresnet.run_folder.names import OWN_NAME
from slimresnet.run_folder.ownership import own, owner_of, prepare_to_read, refuse_if_owned
from slimresnet.run_folder.writing import FolderError, check_output_file, open_output, replacing, write_json, write_text

CONTEXT = multiprocessing.get_context("fork")  # of processes that only touch files


def in_a_process(function, *arguments):
    process = CONTEXT.Process(target=function, args=arguments)
    process.start()
    return process


def write_change(folder, content, names=("a.json", "figures/b.png"), removed=()):
    with own(folder), change(folder) as made:
        made.remove(removed)
        for name in names:
            (made.files / name).parent.mkdir(exist_ok=True)
            (made.files / name).write_text(content)


def visible(folder):
    """What lies in a folder, but for what is this program's alone."""
    return {
        str(file.relative_to(folder)): file.read_text()
        for file in folder.rglob("*")
        if file.is_file() and OWN_NAME not in file.parts
    }


# --- a file --------------------------------------------------------------------------------------------------------


def test_a_file_keeps_its_permissions_and_a_link_what_it_points_to(tmp_path):
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file)
    write_text(link, "new")
    assert link.is_symlink() and file.read_text() == "new" and stat.S_IMODE(file.stat().st_mode) == 0o640
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "link"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_what_a_file_system_refuses_is_one_sentence_and_nothing_is_lost(tmp_path, monkeypatch, number, call):
    write_json(tmp_path / "file.json", {"old": 1})

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(writing.os, call, refuse)
    with pytest.raises(
        FolderError, match=rf"file\.json cannot be written \({os.strerror(number)}\): [a-z ]+"
    ) as refused:
        write_json(tmp_path / "file.json", {"new": 2})
    monkeypatch.undo()
    assert "\n" not in str(refused.value) and visible(tmp_path) == {"file.json": '{\n  "old": 1\n}\n'}


def test_a_name_may_be_as_long_as_a_name_can_be_and_no_longer(tmp_path):
    write_text(tmp_path / ("n" * 255), "text")
    with pytest.raises(FolderError, match=r"File name too long.*give it a shorter name"):
        write_text(tmp_path / ("n" * 256), "text")
    with pytest.raises(FolderError, match=r"No such file or directory.*make the folder"):
        write_text(tmp_path / "typo" / "file", "text")
    assert os.listdir(tmp_path) == ["n" * 255]


def test_what_breaks_within_is_not_taken_for_the_file(tmp_path):
    (tmp_path / "file").write_text("old")
    for error in (OSError("cannot identify image"), OSError(errno.ENOENT, "No such file", "image.png"), KeyError("x")):
        with pytest.raises(type(error)) as raised, replacing(tmp_path / "file") as unfinished:
            unfinished.write_text("half")
            raise error
        assert raised.value is error and visible(tmp_path) == {"file": "old"}


def test_json_has_no_word_for_nan(tmp_path):
    write_json(tmp_path / "file.json", {"loss": 1.0})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "file.json", {"loss": float("nan")})
    assert json.loads((tmp_path / "file.json").read_text()) == {"loss": 1.0}


def test_an_output_that_is_no_file_is_written_straight(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    with open_output(pipe) as file:
        file.write("rows\n")
    reader.join()
    assert got == ["rows\n"] and stat.S_ISFIFO(pipe.stat().st_mode) and os.listdir(tmp_path) == ["pipe"]
    with open_output(Path("/dev/null")) as file:
        file.write("rows\n")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(FolderError, match="No space left on device"), open_output(Path("/dev/full")) as file:
        file.write("rows\n")
    for place, said in ((tmp_path, "is a folder: name a file"), (tmp_path / "typo" / "file", "does not exist")):
        with pytest.raises(FolderError, match=f"--output {place} .*{said}"):
            check_output_file("--output", place)


def test_standard_output_into_a_file_is_added_to(tmp_path, capfd):
    """As in a shell's `>>`: what stood there and what is printed later stay around the rows."""
    with capfd.disabled():
        before, descriptor = os.dup(1), os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        try:
            os.dup2(descriptor, 1)
            os.write(1, b"before\n")
            with open_output(Path("/dev/stdout")) as file:
                file.write("rows\n")
            os.write(1, b"after\n")
        finally:
            os.dup2(before, 1)
    assert (tmp_path / "log").read_text() == "before\nrows\nafter\n"


# --- a change ------------------------------------------------------------------------------------------------------


def test_a_change_is_made_at_the_end_and_recorded(tmp_path):
    write_change(tmp_path, "old")
    assert visible(tmp_path) == {"a.json": "old", "figures/b.png": "old"}
    assert recorded(tmp_path).keys() == {"a.json", "figures/b.png"} and is_own(tmp_path, "a.json")
    write_change(tmp_path, "new", ["a.json"], removed=["figures/b.png", "figures/never.png"])
    assert visible(tmp_path) == {"a.json": "new"} and recorded(tmp_path).keys() == {"a.json"}
    with pytest.raises(KeyError), own(tmp_path), change(tmp_path) as made:
        (made.files / "a.json").write_text("half")
        raise KeyError
    assert visible(tmp_path) == {"a.json": "new"}
    assert sorted(os.listdir(tmp_path / OWN_NAME)) == ["lock", "record.json"]


def test_what_others_wrote_or_changed_is_theirs(tmp_path, capsys):
    write_change(tmp_path, "old", ["a.json", "b.json", "c.json"])
    (tmp_path / "b.json").write_text("mine now")
    (tmp_path / "c.json").unlink()
    (tmp_path / "c.json").symlink_to(tmp_path / "a.json")
    (tmp_path / "d.json").write_text("mine")
    (tmp_path / "figures").write_text("no folder")
    names = ["a.json", "b.json", "c.json", "d.json", "e.json"]
    assert foreign(tmp_path, names) == ["b.json", "c.json", "d.json"]
    write_change(tmp_path, "new", [*names, "figures/f.png"])
    assert visible(tmp_path) == {
        **dict.fromkeys([*names, "figures/f.png"], "new"), "b.json.bak": "mine now", "c.json.bak": "new",
        "d.json.bak": "mine", "figures.bak": "no folder",
    }  # fmt: skip
    assert (tmp_path / "c.json.bak").is_symlink() and not (tmp_path / "c.json").is_symlink()
    said = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'd.json'} was not written by this program, or was changed since: it is" in said[2]
    assert len(said) == 4
    (tmp_path / "d.json").write_text("mine again")
    write_change(tmp_path, "newer", ["d.json"], removed=["b.json"])
    assert visible(tmp_path)["d.json.bak1"] == "mine again" and "b.json" not in visible(tmp_path)


def test_what_changes_nothing_is_left_with_its_owner(tmp_path):
    (tmp_path / "a.json").write_text("same")
    write_change(tmp_path, "same", ["a.json"])
    assert visible(tmp_path) == {"a.json": "same"} and not recorded(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": 3}', "\udc80"])
def test_with_a_damaged_record_nothing_is_ours(tmp_path, content):
    write_change(tmp_path, "old", ["a.json"])
    (tmp_path / OWN_NAME / "record.json").write_bytes(content.encode(errors="surrogateescape"))
    write_change(tmp_path, "new", ["a.json"])
    assert visible(tmp_path) == {"a.json": "new", "a.json.bak": "old"}


def replace_run(folder):
    """A change with all that a change can have."""
    with own(folder), change(folder) as made:
        for name in ("results", "weights", "figures/new", "theirs"):
            (made.files / name).parent.mkdir(exist_ok=True)
            (made.files / name).write_text("new")
        made.remove(["results", "figures/old"])
        made.remove_folders(["checkpoint-3"])
        made.move(folder / OWN_NAME / "next" / "checkpoint-3", "checkpoint-3")


OLD = {"results": "old", "weights": "old", "figures/old": "old", "checkpoint-3/state": "old", "theirs": "mine"}
NEW = {"results": "new", "weights": "new", "figures/new": "new", "checkpoint-3/state": "new", "theirs": "new"}


@pytest.fixture
def with_a_run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    write_change(folder, "old", ["results", "weights", "figures/old"])
    (folder / "theirs").write_text("mine")
    for place, content in ((folder, "old"), (folder / OWN_NAME / "next", "new")):
        (place / "checkpoint-3").mkdir(parents=True)
        (place / "checkpoint-3" / "state").write_text(content)
    return folder


def replace_run_and_die_at(folder, number):
    before_each_change(lambda each: os._exit(9) if each == number else None)
    replace_run(folder)


@pytest.mark.processes
@pytest.mark.slow
def test_killed_at_any_call_the_old_set_or_the_new_one_is_whole(with_a_run, tmp_path):
    """`results` is there only with the files that it is of, even before anybody completes the change."""
    number, seen = 0, set()
    while True:
        number += 1
        folder = Path(shutil.copytree(with_a_run, tmp_path / f"run-{number}"))
        process = in_a_process(replace_run_and_die_at, folder, number)
        process.join()
        found = visible(folder)
        if "results" in found:
            assert len({found[name] for name in ("results", "weights", "checkpoint-3/state")}) == 1, (number, found)
        prepare_to_read(folder)
        assert not is_pending(folder)
        with own(folder):  # tidies up
            pass
        found = visible(folder)
        kept = found.pop("theirs.bak", "mine")
        assert found in (OLD, NEW) and kept == "mine", (number, found)
        assert not (folder / OWN_NAME / "change").exists()
        seen.add(found["results"])
        if process.exitcode == 0:
            break
    assert seen == {"old", "new"} and number > 30


def replace_run_on_a_disk_full_at(folder, number):
    """Exit code 0: it was done all the same; 7: refused in a sentence; 5: there are not so many calls."""

    calls = 0

    def hear(each):
        nonlocal calls
        calls = each
        if each == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before_each_change(hear)
    try:
        replace_run(folder)
    except FolderError as error:
        os._exit(7 if "\n" not in str(error) else 8)
    os._exit(5 if calls < number else 0)


@pytest.mark.processes
@pytest.mark.slow
def test_refused_at_any_call_it_is_said_in_a_sentence_and_nothing_is_lost(with_a_run, tmp_path):
    number, codes = 0, []
    while 5 not in codes:
        number += 1
        folder = Path(shutil.copytree(with_a_run, tmp_path / f"run-{number}"))
        process = in_a_process(replace_run_on_a_disk_full_at, folder, number)
        process.join()
        codes.append(process.exitcode)
        with own(folder):
            pass
        found = visible(folder)
        kept = found.pop("theirs.bak", "mine")
        assert found in (OLD, NEW) and kept == "mine", (number, found)
        assert found == NEW or process.exitcode == 7, number
    assert set(codes) == {0, 5, 7} and codes.count(7) > 30


def test_a_journal_that_cannot_be_read_is_said(tmp_path):
    home = tmp_path / OWN_NAME / "change"
    (home / "files").mkdir(parents=True)
    (home / "journal.json").write_text("{")
    with pytest.raises(FolderError, match=r"lie whole in .*files, but cannot take their places"):
        prepare_to_read(tmp_path)
    assert (home / "files").is_dir()


# --- one owner -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("journal", [
    {"files": ["../stolen"]}, {"files": ["link/stolen"]}, {"files": ["/ROOT/stolen"]}, {"files": [".."]},
    {"removed": {"../mine": "DIGEST"}}, {"removed": {"link/mine": "DIGEST"}}, {"removed": {"/ROOT/mine": "DIGEST"}},
    {"removed": {"link/kept": None}}, {"removed": {"../kept": None}}, {"removed": ["../mine"]},
    {"moved": {"../mine": "here"}}, {"moved": {"link/mine": "here"}}, {"moved": {".slimresnet/change/x": "../stolen"}},
    {"files": ["mine"], "linked": "files"}, {"removed": {"a": None}, "linked": "removed"},
])  # fmt: skip
def test_a_strangers_journal_moves_nothing_into_the_folder_or_out_of_it(tmp_path, journal):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / "kept").mkdir()
    folder = tmp_path / "folder"
    home = folder / OWN_NAME / "change"
    (home / "x").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path)
    (folder / "a").mkdir()
    if linked := journal.get("linked"):
        (home / linked).symlink_to(tmp_path)
    for name in ("a", "stolen", "link/stolen"):
        if linked != "files":
            (home / "files" / name).parent.mkdir(parents=True, exist_ok=True)
            (home / "files" / name).write_text("theirs")
    whole = {"removed": {}, "moved": {}, "files": [], "replaced": {}} | journal
    text = json.dumps(whole).replace("ROOT", str(tmp_path).lstrip("/"))
    (home / "journal.json").write_text(text.replace("DIGEST", hashlib.sha256(b"mine").hexdigest()))
    with suppress(FolderError):
        settle(folder)
    assert sorted(os.listdir(tmp_path)) == ["folder", "kept", "mine"] and mine.read_text() == "mine"


@pytest.mark.parametrize("linked", [OWN_NAME, f"{OWN_NAME}/change", f"{OWN_NAME}/lock", f"{OWN_NAME}/record.json"])
def test_nothing_happens_in_a_folder_whose_own_part_is_a_link(tmp_path, linked):
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "folder"
    write_change(elsewhere, "theirs")
    (elsewhere / OWN_NAME / "change").mkdir()
    (elsewhere / OWN_NAME / "change" / "thesis").write_text("mine")
    before = snapshot(elsewhere)
    (folder / linked).parent.mkdir(parents=True)
    (folder / linked).symlink_to(elsewhere / linked)
    with pytest.raises(FolderError, match=r"is a link, which this program does not make: remove it"):
        write_change(folder, "new")
    assert not is_pending(folder)
    prepare_to_read(folder)
    assert snapshot(elsewhere) == before


def test_a_link_to_a_folder_elsewhere_is_put_aside(tmp_path, capsys):
    """What lies there is nobody's to replace or remove, recorded or not."""
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    write_change(folder, "old")
    (folder / "figures").rename(elsewhere)
    (folder / "figures").symlink_to(elsewhere)
    assert not is_own(folder, "figures/b.png")
    write_change(folder, "new", ["a.json", "figures/c.png"], removed=["figures/b.png"])
    assert os.listdir(elsewhere) == ["b.png"] and (folder / "figures.bak").is_symlink()
    assert (folder / "figures/c.png").read_text() == "new" and "it is" in capsys.readouterr().err
    prepare_to_read(folder)


def test_what_comes_between_a_change_and_its_end_is_put_aside(with_a_run, monkeypatch):
    """A process died; its owner wrote a note before the folder was opened again."""
    monkeypatch.setattr(changes, "_complete", lambda *_: (_ for _ in ()).throw(OSError("died")))
    with pytest.raises(FolderError):
        replace_run(with_a_run)
    monkeypatch.undo()
    for name in ("weights", "figures/new", "figures/old"):
        (with_a_run / name).write_text("mine")
    prepare_to_read(with_a_run)
    kept = {"weights.bak": "mine", "figures/new.bak": "mine", "figures/old": "mine", "theirs.bak": "mine"}
    assert visible(with_a_run) == NEW | kept


def write_first_run_and_die_at(folder, number):
    before_each_change(lambda each: os._exit(9) if each == number else None)
    with own(folder), change(folder) as made:
        for name in ("a results", "b weights"):
            (made.files / name).write_text("new")
        made.remove(["a results"])


@pytest.mark.processes
@pytest.mark.slow
def test_the_last_file_of_a_first_run_comes_last(tmp_path):
    number, seen = 0, []
    while True:
        number += 1
        folder = tmp_path / f"run-{number}"
        process = in_a_process(write_first_run_and_die_at, folder, number)
        process.join()
        seen.append(tuple(sorted(visible(folder))))
        if process.exitcode == 0:
            break
    assert set(seen) == {(), ("b weights",), ("a results", "b weights")}


@pytest.mark.parametrize("content", ["[" * 100_000, '{"files": {"../mine": "DIGEST"}}'])
def test_a_strangers_record_makes_nothing_ours(tmp_path, content):
    (tmp_path / "mine").write_text("mine")
    folder = tmp_path / "folder"
    write_change(folder, "old")
    digest = hashlib.sha256(b"mine").hexdigest()
    (folder / OWN_NAME / "record.json").write_text(content.replace("DIGEST", digest))
    assert recorded(folder) == {}
    write_change(folder, "new", removed=["../mine"])
    assert (tmp_path / "mine").read_text() == "mine" and not is_pending(folder)


def test_who_only_looks_is_nobody_at_work(tmp_path, capsys):
    """A look takes the lock for a moment."""
    write_change(tmp_path, "old")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: prepare_to_read(tmp_path), range(200)))
    assert capsys.readouterr().err == ""


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(ownership, "PATIENCE", 0.1)


def own_until_told(folder, told, owned):
    with own(folder):
        owned.set()
        told.wait()


@pytest.fixture
def another(tmp_path):
    """A process that owns a folder."""
    told, owned = CONTEXT.Event(), CONTEXT.Event()
    process = in_a_process(own_until_told, tmp_path / "run", told, owned)
    assert owned.wait(60)
    yield process, told
    process.kill()
    process.join()


def test_one_process_at_a_time_and_the_other_is_told_who(another, tmp_path, impatient, capsys):
    folder, said = (
        tmp_path / "run",
        rf"run is in use: .+ \(process {another[0].pid} on .+, since \d{{4}}-.+\) is at work",
    )
    before = snapshot(folder)
    for attempt in (own(folder).__enter__, lambda: refuse_if_owned(folder)):
        with pytest.raises(FolderError, match=said):
            attempt()
    prepare_to_read(folder)
    assert "is at work there; what is read is what was finished before" in capsys.readouterr().err
    assert snapshot(folder) == before
    another[1].set()
    another[0].join()
    assert owner_of(folder, 0.0) is None
    with own(folder):
        pass


def test_the_death_of_the_owner_frees_the_folder(another, tmp_path, impatient):
    another[0].kill()
    another[0].join()
    refuse_if_owned(tmp_path / "run")
    with own(tmp_path / "run"):
        pass


def own_and_leave_a_child(folder, ready):
    with own(folder):
        child = in_a_process(threading.Event().wait, 60)
        ready.send(child.pid)
        threading.Event().wait()


@pytest.mark.processes
def test_a_child_that_outlives_the_owner_does_not_hold_the_folder(tmp_path, impatient):
    """Such as a worker that reads images."""
    receiving, sending = CONTEXT.Pipe()
    process = in_a_process(own_and_leave_a_child, tmp_path, sending)
    child = receiving.recv()
    process.kill()
    process.join()
    try:
        os.kill(child, 0)
        with own(tmp_path):
            pass
    finally:
        os.kill(child, 9)


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(ownership.FileLock, "acquire", refuse)
    write_change(tmp_path, "text", ["a.json"])
    assert "its file system has no locks" in capsys.readouterr().err and visible(tmp_path) == {"a.json": "text"}


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="a file stands where a folder has to be"), own(tmp_path / "file"):
        pass


def test_a_full_disk_does_not_keep_a_decided_change_from_its_end(with_a_run, monkeypatch):
    """It needs no room any more."""
    with monkeypatch.context() as patched:
        patched.setattr(changes, "_complete", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        with pytest.raises(FolderError, match="new files lie whole"):
            replace_run(with_a_run)
    assert is_pending(with_a_run) and "results" in visible(with_a_run)

    def full(*_):
        raise FolderError("full")

    monkeypatch.setattr(ownership, "write_json", full)
    prepare_to_read(with_a_run)
    assert visible(with_a_run) == NEW | {"theirs.bak": "mine"}
    settle(with_a_run)  # and once more changes nothing
    assert visible(with_a_run) == NEW | {"theirs.bak": "mine"}
