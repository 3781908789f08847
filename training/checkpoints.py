"""Checkpoints: complete or absent, the oldest removed, the last one found again."""

import json
import shutil
from pathlib import Path

from accelerate import Accelerator
from transformers.trainer_callback import TrainerState

TRAINER_STATE_NAME = "trainer_state.json"
_PREFIX = "checkpoint-"
_UNFINISHED_PREFIX = "tmp-checkpoint-"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names it and says what to do."""


def save_checkpoint(accelerator: Accelerator, output_dir: Path, state: TrainerState, keep: int | None) -> None:
    """
    Writes `checkpoint-STEP` under a temporary name, then renames it; then removes all but the `keep` newest.

    Every process has to call it.
    """
    unfinished = output_dir / f"{_UNFINISHED_PREFIX}{state.global_step}"
    finished = output_dir / f"{_PREFIX}{state.global_step}"
    if accelerator.is_main_process:
        remove_unfinished(output_dir)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(unfinished))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        state.save_to_json(str(unfinished / TRAINER_STATE_NAME))
        if finished.exists():
            shutil.rmtree(finished)
        unfinished.rename(finished)
        if keep is not None:
            for checkpoint in list_checkpoints(output_dir)[:-keep]:
                shutil.rmtree(checkpoint)


def list_checkpoints(output_dir: Path) -> list[Path]:
    """The finished checkpoints in a folder, the oldest first, by the step that each says it was written at."""
    steps = {}
    for file in output_dir.glob(f"{_PREFIX}*/{TRAINER_STATE_NAME}"):
        try:
            steps[file.parent] = json.loads(file.read_text())["global_step"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # none of ours, or damaged: neither counted nor removed
    return sorted(steps, key=steps.__getitem__)


def remove_unfinished(output_dir: Path) -> None:
    """Removes what a process left that was killed while it wrote a checkpoint."""
    for folder in output_dir.glob(f"{_UNFINISHED_PREFIX}*"):
        shutil.rmtree(folder)


def find_checkpoint(name: str | None, output_dir: Path) -> Path | None:
    """
    The checkpoint that `--resume_from_checkpoint` means: a folder, or `last` of those in `output_dir`.

    Returns:
        The folder; None where no name is given, or `last` finds none yet, so that the same command starts and resumes.

    Raises:
        CheckpointError: the folder is no checkpoint.
    """
    if name is None:
        return None
    if name == "last":
        return (list_checkpoints(output_dir) or [None])[-1]
    if not (Path(name) / TRAINER_STATE_NAME).is_file():
        raise CheckpointError(
            f"--resume_from_checkpoint {name} is no checkpoint, a folder with a {TRAINER_STATE_NAME} in it: "
            f"give one, or last for the newest in {output_dir}."
        )
    return Path(name)


def load_checkpoint(accelerator: Accelerator, checkpoint: Path) -> None:
    """
    Restores all that `save_checkpoint` wrote.

    Raises:
        CheckpointError: a file is missing or damaged, or the checkpoint is of another network.
    """
    try:
        accelerator.load_state(str(checkpoint))
    except Exception as error:  # safetensors, pickle, zipfile and torch raise their own
        raise CheckpointError(
            f"checkpoint {checkpoint} cannot be loaded ({type(error).__name__}: {str(error).splitlines()[0]}): "
            "resume from another one, or train anew with --overwrite_output_dir."
        ) from error
