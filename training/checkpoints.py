"""Checkpoints: complete or absent, proven whole before they are used, the oldest removed."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object, recursively_apply
from transformers.trainer_callback import TrainerState

from cifar10.reading import first_line
from run_folder.changes import OWN_NAME, UNREADABLE, put_aside, sha256
from run_folder.writing import force_to_disk

from .identity import RunIdentity
from .progress import Progress
from .states import TrainingState

TRAINER_STATE_NAME = "trainer_state.json"
CHECKSUMS_NAME = "SHA256SUMS"  # as `sha256sum --check` reads it
_PREFIX = "checkpoint-"
_NAME = re.compile(r"checkpoint-(0|[1-9][0-9]*)")  # whatever else is beside it is somebody's own
_UNFINISHED = f"{OWN_NAME}/unfinished"  # what is being written or removed


class CheckpointError(ValueError):
    """A checkpoint that cannot be used or written; the message names it and says what to do."""


class Checkpoints:
    """
    Saves and loads all that a run needs to go on: weights, optimiser, averaged weights, progress.

    A checkpoint is written under a temporary name, forced to the disk and renamed: whenever the process or the machine
    stops, each `checkpoint-STEP` is whole or absent. It does not depend on the number of processes.

    Args:
        state: what the run goes on with.
        identity: of the run; it goes into each checkpoint.
        keep: how many of the newest stay; None for all.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        state: TrainingState,
        output_dir: Path,
        identity: RunIdentity,
        keep: int | None,
    ):
        self._accelerator, self._state = accelerator, state
        self._output_dir, self._identity, self._keep = output_dir, identity, keep

    def save(self, state: TrainerState) -> None:
        """
        Writes `checkpoint-STEP`, then removes the oldest. Every process has to call it.

        Raises:
            CheckpointError: it could not be written; those written before are as they were.
        """
        unfinished = self._output_dir / _UNFINISHED / f"{_PREFIX}{state.global_step}"
        if self._accelerator.is_main_process:
            remove_unfinished(self._output_dir)
        self._accelerator.wait_for_everyone()
        try:
            if self._accelerator.is_main_process:
                unfinished.mkdir(parents=True)
                self._state.save(unfinished)
        except Exception as error:  # safetensors and torch raise their own where the disk is full
            raise self._write_error(unfinished, error) from error
        self._accelerator.wait_for_everyone()
        if not self._accelerator.is_main_process:
            return
        try:
            state.save_to_json(str(unfinished / TRAINER_STATE_NAME))
            self._identity.save(unfinished)
            _write_checksums(unfinished)
            self._put_in_place(unfinished, state.global_step)
        except OSError as error:
            raise self._write_error(unfinished, error) from error

    def _put_in_place(self, unfinished: Path, global_step: int) -> None:
        finished = self._output_dir / f"{_PREFIX}{global_step}"
        if is_ours(finished):
            _remove(finished)
        elif os.path.lexists(finished):
            put_aside(finished)
        unfinished.rename(finished)
        force_to_disk(self._output_dir)
        if self._keep is not None:
            # Not those of later steps, which a run leaves that was told to go on from an earlier one: they count for
            # nothing until this run has reached them, and then it writes them anew.
            steps = _steps(self._output_dir).items()
            done = [path for path, step in steps if step <= global_step and is_ours(path)]
            for path in done[: -self._keep]:
                _remove(path)
        remove_unfinished(self._output_dir)

    def _write_error(self, unfinished: Path, error: Exception) -> CheckpointError:
        shutil.rmtree(unfinished, ignore_errors=True)
        sizes: list[int] = []
        for each in vars(self._state).values():
            if each is not None:
                recursively_apply(lambda tensor: sizes.append(tensor.nbytes), each.state_dict())
        # The folder may not be there: its making may be what failed.
        free = shutil.disk_usage(next(each for each in unfinished.absolute().parents if each.exists())).free
        return CheckpointError(
            f"no checkpoint could be written to {self._output_dir} ({first_line(error)}): it takes about "
            f"{_megabytes(sum(sizes))}, and {_megabytes(free)} are free there. Those written before are whole: make "
            "room, then go on with --resume_from_checkpoint last."
        )

    def load(self, checkpoint: Path, progress: Progress) -> None:
        """
        Restores what `save` wrote. Every process has to call it.

        Raises:
            CheckpointError: the checkpoint is of another run, or processes do not read the same one.
        """
        try:
            there = RunIdentity.load(checkpoint)
        except UNREADABLE as error:
            raise CheckpointError(
                f"checkpoint {checkpoint} cannot be told to be of this run ({error}): go on with that version, or "
                "train anew with --overwrite_output_dir."
            ) from error
        if differing := self._identity.differences(there):
            raise CheckpointError(
                f"checkpoint {checkpoint} is of a different run: {'; '.join(differing)}. Resume with the recipe "
                "that it was written with, or start anew in another --output_dir."
            )
        if elsewhere := self._identity.machine_differences(there):
            self._accelerator.print(
                f"the checkpoint was written elsewhere ({'; '.join(elsewhere)}): the run goes on with the same samples "
                "and draws, but its weights may differ in their last bits from an uninterrupted run's"
            )
        try:
            self._state.load(checkpoint)
        except Exception as error:  # pickle, zipfile, safetensors and torch raise their own
            raise CheckpointError(
                f"checkpoint {checkpoint} cannot be loaded ({first_line(error)}): resume from another one, or train "
                "anew with --overwrite_output_dir."
            ) from error
        progress.earlier_devices.append(there.device_name)
        if len(set(gather_object([progress.global_step]))) > 1:
            raise CheckpointError(
                f"processes found different checkpoints in {self._output_dir}: it has to be on a file system that all "
                "machines share."
            )


def list_checkpoints(output_dir: Path) -> list[Path]:
    """The finished checkpoints in a folder, the oldest first, by the step that each says it was written at."""
    return list(_steps(output_dir))


def checkpoint_folders(output_dir: Path) -> list[Path]:
    """The checkpoints in a folder, damaged ones too, in no order."""
    return sorted(
        folder
        for folder in output_dir.glob(f"{_PREFIX}*")
        if _NAME.fullmatch(folder.name)
        and any((folder / name).is_file() for name in (CHECKSUMS_NAME, TRAINER_STATE_NAME))
    )


def is_ours(checkpoint: Path) -> bool:
    """Whether a folder is a checkpoint with nothing in it but what was written here, so that it may be removed."""
    if checkpoint.is_symlink() or not _NAME.fullmatch(checkpoint.name):
        return False
    try:
        lines = (checkpoint / CHECKSUMS_NAME).read_text(encoding="ascii").splitlines()
        listed = {line.partition("  ")[2] for line in lines} | {CHECKSUMS_NAME}
        return all(file.name in listed and file.is_file() for file in checkpoint.iterdir())
    except (OSError, ValueError):
        return False


def find_damage(checkpoint: Path) -> str | None:
    """What keeps a checkpoint from being whole, in a few words; None if every file is as it was written."""
    try:
        text = (checkpoint / CHECKSUMS_NAME).read_text(encoding="ascii")
        if not text.endswith("\n"):
            raise ValueError("the last line is cut")
        lines = text.splitlines()
        sums = {name: checksum for checksum, name in (line.split("  ") for line in lines)}
    except (OSError, ValueError):
        return f"{CHECKSUMS_NAME} is missing or damaged"
    try:
        present = {file.name for file in checkpoint.iterdir()} - {CHECKSUMS_NAME}
        if differing := present ^ sums.keys():
            return f"{', '.join(sorted(differing))}: in the folder or in {CHECKSUMS_NAME}, but not in both"
        changed = [name for name, checksum in sums.items() if sha256(checkpoint / name) != checksum]
    except OSError as error:
        return str(error)
    return f"{', '.join(changed)}: not as written" if changed else None


def find_checkpoint(name: str | None, output_dir: Path, say: Callable[[str], None]) -> Path | None:
    """
    The checkpoint that `--resume_from_checkpoint` means: a folder, or `last`, the newest whole one in `output_dir`.

    Args:
        say: gets a sentence on each that is passed over.

    Returns:
        The folder; None where no name is given, or `last` finds none yet, so that the same command starts and resumes.

    Raises:
        CheckpointError: the folder is no checkpoint or is damaged; with `last`, there are some, but none is whole.
    """
    if name is None:
        return None
    if name == "last":
        folders, newest_first = checkpoint_folders(output_dir), list_checkpoints(output_dir)[::-1]
        for path in [*(path for path in folders if path not in newest_first), *newest_first]:
            damage = find_damage(path)
            if damage is None:
                return path
            say(f"checkpoint {path} is passed over, it is damaged: {damage}")
        if folders:
            raise CheckpointError(
                f"none of the {len(folders)} checkpoints in {output_dir} is whole: restore one from a copy, or train "
                "anew with --overwrite_output_dir."
            )
        return None
    path = Path(name)
    if not (path / CHECKSUMS_NAME).is_file() and not (path / TRAINER_STATE_NAME).is_file():
        raise CheckpointError(
            f"--resume_from_checkpoint {name} is no checkpoint, a folder with a {CHECKSUMS_NAME} in it: "
            f"give one, or last for the newest in {output_dir}."
        )
    if damage := find_damage(path):
        raise CheckpointError(
            f"--resume_from_checkpoint {name} is damaged ({damage}): give another one, or last for the newest whole "
            f"one in {output_dir}."
        )
    return path


def remove_unfinished(output_dir: Path) -> None:
    """Removes what a process left that was killed while it wrote or removed a checkpoint."""
    if (output_dir / _UNFINISHED).exists():
        shutil.rmtree(output_dir / _UNFINISHED)


def _steps(output_dir: Path) -> dict[Path, int]:
    steps = {}
    for folder in checkpoint_folders(output_dir):
        try:
            state = json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
            steps[folder] = int(state["global_step"])
        except (*UNREADABLE, OverflowError):
            continue  # none of ours, or damaged: neither counted nor removed
    return dict(sorted(steps.items(), key=lambda item: item[1]))


def _remove(checkpoint: Path) -> None:
    """Out of its place first, so that it is never found half removed."""
    condemned = checkpoint.parent / _UNFINISHED / f"removed-{checkpoint.name}"
    condemned.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.rename(condemned)
    shutil.rmtree(condemned)


def _write_checksums(folder: Path) -> None:
    files = sorted(folder.iterdir())
    text = "".join(f"{sha256(file)}  {file.name}\n" for file in files)
    (folder / CHECKSUMS_NAME).write_text(text, encoding="ascii")
    for path in (*files, folder / CHECKSUMS_NAME, folder):
        force_to_disk(path)


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"
