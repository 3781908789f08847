"""Checkpoints: complete or absent, proven whole before they are used, the oldest removed."""

import os
import shutil
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object, recursively_apply
from transformers.trainer_callback import TrainerState

from slimresnet.errors import first_line
from slimresnet.run_folder.changes import UNREADABLE, put_aside
from slimresnet.run_folder.checkpoints import (
    CheckpointError,
    checkpoint_folder,
    checkpoint_steps,
    is_ours,
    remove_checkpoint,
    remove_unfinished,
    unfinished_checkpoint,
    write_checksums,
)
from slimresnet.run_folder.names import TRAINER_STATE_NAME
from slimresnet.run_folder.writing import force_to_disk
from slimresnet.training.state.fingerprint import RunFingerprint
from slimresnet.training.state.progress import Progress
from slimresnet.training.state.state import TrainingState


class Checkpoints:
    """
    Saves and loads all that a run needs to go on: weights, optimiser, averaged weights, progress.

    A checkpoint is written under a temporary name, forced to the disk and renamed: whenever the process or the machine
    stops, each `checkpoint-STEP` is whole or absent. It does not depend on the number of processes.

    Args:
        state: what the run goes on with.
        folder: where they go.
        fingerprint: of the run; each checkpoint has it.
        keep: how many of the newest stay; None for all.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        state: TrainingState,
        folder: Path,
        fingerprint: RunFingerprint,
        keep: int | None,
    ):
        self._accelerator, self._state = accelerator, state
        self._folder, self._fingerprint, self._keep = folder, fingerprint, keep

    def save(self, state: TrainerState) -> None:
        """
        Writes `checkpoint-STEP`, then removes the oldest. Every process has to call it.

        Raises:
            CheckpointError: it could not be written; those written before are as they were.
        """
        unfinished = unfinished_checkpoint(self._folder, state.global_step)
        if self._accelerator.is_main_process:
            remove_unfinished(self._folder)
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
            self._fingerprint.save(unfinished)
            write_checksums(unfinished)
            self._put_in_place(unfinished, state.global_step)
        except OSError as error:
            raise self._write_error(unfinished, error) from error

    def _put_in_place(self, unfinished: Path, global_step: int) -> None:
        finished = checkpoint_folder(self._folder, global_step)
        if is_ours(finished):
            remove_checkpoint(finished)
        elif os.path.lexists(finished):
            put_aside(finished)
        unfinished.rename(finished)
        force_to_disk(self._folder)
        if self._keep is not None:
            # Not those of later steps, which a run leaves that was told to go on from an earlier one: they count for
            # nothing until this run has reached them, and then it writes them anew.
            steps = checkpoint_steps(self._folder).items()
            done = [path for path, step in steps if step <= global_step and is_ours(path)]
            for path in done[: -self._keep]:
                remove_checkpoint(path)
        remove_unfinished(self._folder)

    def _write_error(self, unfinished: Path, error: Exception) -> CheckpointError:
        shutil.rmtree(unfinished, ignore_errors=True)
        sizes: list[int] = []
        for each in vars(self._state).values():
            if each is not None:
                recursively_apply(lambda tensor: sizes.append(tensor.nbytes), each.state_dict())
        # The folder may not be there: its making may be what failed.
        free = shutil.disk_usage(next(each for each in unfinished.absolute().parents if each.exists())).free
        return CheckpointError(
            f"no checkpoint could be written to {self._folder} ({first_line(error)}): it takes about "
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
            there = RunFingerprint.load(checkpoint)
        except UNREADABLE as error:
            raise CheckpointError(
                f"checkpoint {checkpoint} cannot be told to be of this run ({error}): go on with that version, or "
                "train anew with --overwrite_output_dir."
            ) from error
        if differing := self._fingerprint.differences(there):
            raise CheckpointError(
                f"checkpoint {checkpoint} is of a different run: {'; '.join(differing)}. Resume with the recipe "
                "that it was written with, or start anew in another --output_dir."
            )
        if elsewhere := self._fingerprint.machine_differences(there):
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
                f"processes found different checkpoints in {self._folder}: it has to be on a file system that all "
                "machines share."
            )


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"
