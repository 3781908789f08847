"""The output folder: whose it is, and how a finished run's files come into it."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import Recipe
from slimresnet.run_folder.changes import Change, change, foreign, is_pending, recorded
from slimresnet.run_folder.checkpoints import checkpoint_folders, is_ours, remove_unfinished
from slimresnet.run_folder.names import CARD_NAME, REPLACEMENT_NAME, RESULTS_NAME, RUN_FILES
from slimresnet.run_folder.ownership import own, refuse_if_owned
from slimresnet.run_folder.writing import FolderError, explain

_SECONDS_TO_COMPLETE = 60  # that other processes wait for the first, which renames files


def check_output_dir(recipe: Recipe) -> Path:
    """
    The output folder, before anything is written; a change that a dead process left there is completed.

    Raises:
        RecipeError: it holds a run, finished or not, that is neither to be replaced nor to be resumed, or files of
            others in the places of a run's; or is a file.
        FolderError: another process is at work there.
    """
    output_dir = Path(recipe.output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise RecipeError(f"--output_dir {output_dir} is a file: name a folder.")
    if os.environ.get("RANK", "0") == "0":  # of several processes the first looks for all
        refuse_if_owned(output_dir)
        if is_pending(output_dir):
            with own(output_dir):
                pass
    else:
        give_up = time.monotonic() + _SECONDS_TO_COMPLETE
        while is_pending(output_dir) and time.monotonic() < give_up:
            time.sleep(0.1)
    _check_what_is_there(recipe, output_dir)
    return output_dir


def _check_what_is_there(recipe: Recipe, output_dir: Path) -> None:
    present = [name for name in RUN_FILES if os.path.lexists(output_dir / name)]
    others = foreign(output_dir, present)
    stays = not recipe.overwrite_output_dir and (RESULTS_NAME in present or not recipe.resume_from_checkpoint)
    if stays and len(others) < len(present):
        raise RecipeError(
            f"--output_dir {output_dir} holds a finished run ({', '.join(present[:3])}, …): name another folder (with "
            f"--model_name_or_path {output_dir} to train on from its weights), or replace it with "
            "--overwrite_output_dir" + _with_what_was_begun(output_dir)
        )
    if recipe.overwrite_output_dir or recipe.resume_from_checkpoint:
        others = [name for name in others if name != CARD_NAME]  # it stays as it is
    if others:
        raise RecipeError(
            f"--output_dir {output_dir} holds {', '.join(others)}, which a run would replace, and has no record that "
            "this program wrote them as they stand: move them away, or name another folder."
        )
    if not recipe.overwrite_output_dir and not recipe.resume_from_checkpoint and checkpoint_folders(output_dir):
        raise RecipeError(
            f"--output_dir {output_dir} holds the checkpoints of a run: go on with --resume_from_checkpoint last, "
            "name another folder, or replace them with --overwrite_output_dir" + _with_what_was_begun(output_dir)
        )


def _with_what_was_begun(output_dir: Path) -> str:
    if not checkpoint_folders(output_dir / REPLACEMENT_NAME):
        return "."
    return "; a run that was to do so was interrupted, and goes on with --resume_from_checkpoint last beside that."


def checkpoint_home(recipe: Recipe, output_dir: Path) -> Path:
    """
    Where the checkpoints of the run go that is about to begin or to go on.

    That is the output folder, unless the run is to replace the one that the folder holds: this one's checkpoints stay
    beside it until the new run is finished.
    """
    if not recipe.overwrite_output_dir:
        return output_dir
    replacement, is_finished = output_dir / REPLACEMENT_NAME, (output_dir / RESULTS_NAME).exists()
    if recipe.resume_from_checkpoint and checkpoint_folders(replacement):
        return replacement
    if recipe.resume_from_checkpoint == "last" and not is_finished:
        return output_dir  # there is nothing to replace but what goes on
    return replacement if is_finished or checkpoint_folders(output_dir) else output_dir


@contextmanager
def owned_output_dir(recipe: Recipe, output_dir: Path, checkpoints: Path) -> Iterator[None]:
    """
    The output folder as this process's alone, with nothing in it that an interrupted save left. For the main process.

    Args:
        checkpoints: what `checkpoint_home` gave.

    Raises:
        RecipeError: as `check_output_dir`.
        FolderError: another process is at work there, or the folder cannot be written to.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(error, f"--output_dir {output_dir}") from error
    with own(output_dir):
        _check_what_is_there(recipe, output_dir)  # another process may have been at work since
        if checkpoint_home(recipe, output_dir) != checkpoints:
            raise RecipeError(f"--output_dir {output_dir} was changed by another process just now: try again.")
        try:
            if recipe.overwrite_output_dir and not recipe.resume_from_checkpoint:
                shutil.rmtree(output_dir / REPLACEMENT_NAME, ignore_errors=True)
            for folder in (output_dir, checkpoints):
                remove_unfinished(folder)
        except OSError as error:
            raise explain(error, f"--output_dir {output_dir}") from error
        yield


@contextmanager
def finished_files(output_dir: Path, checkpoints: Path) -> Iterator[Change]:
    """
    The change that brings a finished run's files to `output_dir`, and takes away those of the run that was there.

    A folder that has `all_results.json` is a finished run, with all files of that run.

    Args:
        checkpoints: where those of the run are, which come along.

    Raises:
        RecipeError: a file cannot be written. What `output_dir` held is as it was, or the files of the run lie whole
            beside it, and take their places when the folder is opened again.
    """
    try:
        with change(output_dir) as made:
            yield made
            came = {file.relative_to(made.files).as_posix() for file in made.files.rglob("*")}
            made.remove([RESULTS_NAME, *(name for name in recorded(output_dir) if name not in came)])
            if checkpoints != output_dir:
                made.remove_folders(folder.name for folder in checkpoint_folders(output_dir) if is_ours(folder))
                for folder in checkpoint_folders(checkpoints):
                    made.move(folder, folder.name)
    except (FolderError, SafetensorError) as error:
        then = "" if is_pending(output_dir) else " Then run the same command with --resume_from_checkpoint last."
        raise RecipeError(
            f"the finished run could not be written to --output_dir {output_dir}: {error}{then}"
        ) from error
    if checkpoints != output_dir:
        shutil.rmtree(checkpoints, ignore_errors=True)
