"""The checkpoints in a folder: which there are, whether each is whole, which may be removed."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from slimresnet.errors import SlimResNetError
from slimresnet.run_folder.changes import UNREADABLE, sha256
from slimresnet.run_folder.names import (
    CHECKPOINT_PREFIX,
    CHECKSUMS_NAME,
    CONFIG_NAME,
    TRAINER_STATE_NAME,
    UNFINISHED_NAME,
    WEIGHTS_NAME,
)
from slimresnet.run_folder.writing import force_to_disk

_NAME = re.compile(rf"{CHECKPOINT_PREFIX}(0|[1-9][0-9]*)")  # whatever else is beside it is somebody's own


class CheckpointError(SlimResNetError):
    """A checkpoint that cannot be used or written; the message names it and says what to do."""


def checkpoint_folder(output_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return output_dir / f"{CHECKPOINT_PREFIX}{step}"


def unfinished_checkpoint(output_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step is written, before it takes its place."""
    return output_dir / UNFINISHED_NAME / f"{CHECKPOINT_PREFIX}{step}"


def list_checkpoints(output_dir: Path) -> list[Path]:
    """The finished checkpoints in a folder, the oldest first, by the step that each says it was written at."""
    return list(checkpoint_steps(output_dir))


def checkpoint_folders(output_dir: Path) -> list[Path]:
    """The checkpoint folders, damaged ones included, sorted by path."""
    return sorted(
        folder
        for folder in output_dir.glob(f"{CHECKPOINT_PREFIX}*")
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
        say: called with a sentence on each checkpoint that is passed over.

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
    if reason := _explain_other(path, output_dir):
        raise CheckpointError(f"--resume_from_checkpoint {name} {reason}")
    if damage := find_damage(path):
        raise CheckpointError(
            f"--resume_from_checkpoint {name} is damaged ({damage}): give another one, or last for the newest whole "
            f"one in {output_dir}."
        )
    return path


def _explain_other(path: Path, output_dir: Path) -> str | None:
    """What a place is that holds no checkpoint of this program, and what to do; None where it holds one."""
    if (path / CHECKSUMS_NAME).is_file():
        return None
    otherwise = f"give a checkpoint, or last for the newest in {output_dir}."
    if not path.exists():
        return f"is not there: {otherwise}"
    if not path.is_dir():
        return f"is a file, and a checkpoint is a folder: {otherwise}"
    if inside := checkpoint_folders(path):
        return f"is no checkpoint, but holds {len(inside)} of them: give one, such as {inside[-1]}."
    if (path / CONFIG_NAME).is_file() and (path / WEIGHTS_NAME).is_file():
        return (
            "is a trained model, and no checkpoint with the state of its training: to train on from its weights, for "
            f"more epochs or other classes, give --model_name_or_path {path} in its place."
        )
    if (path / TRAINER_STATE_NAME).is_file():
        return f"is damaged ({CHECKSUMS_NAME} is missing or damaged): {otherwise}"
    return f"is no checkpoint, a folder with a {CHECKSUMS_NAME} in it: {otherwise}"


def remove_unfinished(output_dir: Path) -> None:
    """Removes what a process left that was killed while it wrote or removed a checkpoint."""
    if (output_dir / UNFINISHED_NAME).exists():
        shutil.rmtree(output_dir / UNFINISHED_NAME)


def checkpoint_steps(output_dir: Path) -> dict[Path, int]:
    """The finished checkpoints in a folder, each with its step, the oldest first."""
    steps = {}
    for folder in checkpoint_folders(output_dir):
        try:
            state = json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
            steps[folder] = int(state["global_step"])
        except (*UNREADABLE, OverflowError):
            continue  # none of ours, or damaged: neither counted nor removed
    return dict(sorted(steps.items(), key=lambda item: item[1]))


def remove_checkpoint(checkpoint: Path) -> None:
    """Removes a checkpoint. The folder is renamed first, so no half-removed checkpoint is ever found."""
    condemned = checkpoint.parent / UNFINISHED_NAME / f"removed-{checkpoint.name}"
    condemned.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.rename(condemned)
    shutil.rmtree(condemned)


def write_checksums(folder: Path) -> None:
    files = sorted(folder.iterdir())
    text = "".join(f"{sha256(file)}  {file.name}\n" for file in files)
    (folder / CHECKSUMS_NAME).write_text(text, encoding="ascii")
    for path in (*files, folder / CHECKSUMS_NAME, folder):
        force_to_disk(path)
