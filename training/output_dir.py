"""The output folder: whose it is, and how a finished run's files come into it."""

import dataclasses
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from .checkpoints import TRAINER_STATE_NAME, checkpoint_folders, force_to_disk, remove_unfinished
from .recipe import Recipe, RecipeError, parse_recipe

RESULTS_NAME = "all_results.json"
RECIPE_NAME = "recipe.yaml"
_STAGING_NAME = "tmp-results"
_PRODUCTS = (
    RESULTS_NAME,
    RECIPE_NAME,
    TRAINER_STATE_NAME,
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "README.md",
)
# What eval.py and export.py may have added to a finished run, which a run in its place does not have.
_ADDED_LATER = (
    "*_details.json", "*_corruptions.json", "figures/*.png", "onnx/*.onnx", "model.pt2", "exports.json",
)  # fmt: skip


def check_output_dir(recipe: Recipe) -> Path:
    """
    The output folder, before anything is written.

    Raises:
        RecipeError: it holds a run, finished or not, that is neither to be replaced nor to be resumed, or is a file.
    """
    output_dir = Path(recipe.output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise RecipeError(f"--output_dir {output_dir} is a file: name a folder.")
    if recipe.overwrite_output_dir:
        return output_dir
    present = [name for name in _PRODUCTS if (output_dir / name).exists()]
    # A resumed run may find a part of what it was writing when it was interrupted, but not a finished one.
    if RESULTS_NAME in present or (present and not recipe.resume_from_checkpoint):
        raise RecipeError(
            f"--output_dir {output_dir} holds a finished run ({', '.join(present)}): name another folder, or replace "
            "it with --overwrite_output_dir."
        )
    if checkpoint_folders(output_dir) and not recipe.resume_from_checkpoint:
        raise RecipeError(
            f"--output_dir {output_dir} holds the checkpoints of a run: go on with --resume_from_checkpoint last, "
            "name another folder, or replace them with --overwrite_output_dir."
        )
    return output_dir


def read_recipe(folder: Path) -> Recipe:
    """
    The recipe of a finished run.

    Raises:
        RecipeError: it cannot be read.
    """
    return parse_recipe([f"--config={folder / RECIPE_NAME}"])


def read_recipe_with(folder: Path, **settings) -> Recipe:
    """
    The recipe of a trained folder, the default one where it has none, with those settings that are not None.

    Raises:
        RecipeError: it cannot be read, or a setting is out of range.
    """
    recipe = read_recipe(folder) if (folder / RECIPE_NAME).is_file() else Recipe()
    return dataclasses.replace(recipe, **{name: value for name, value in settings.items() if value is not None})


def claim_output_dir(recipe: Recipe, output_dir: Path) -> None:
    """
    Makes the folder; removes what an interrupted save left and, where the run is to be replaced, its checkpoints.

    Its other files stay until the new run has theirs. Called on the main process.

    Raises:
        RecipeError: the folder cannot be written to.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        remove_unfinished(output_dir)
        if recipe.overwrite_output_dir and not recipe.resume_from_checkpoint:
            for checkpoint in checkpoint_folders(output_dir):
                shutil.rmtree(checkpoint)
    except OSError as error:
        raise RecipeError(f"--output_dir {output_dir} cannot be written to: {error.strerror}.") from error


@contextmanager
def finished_files(output_dir: Path) -> Iterator[Path]:
    """
    A folder to write a finished run's files into; at the end each takes its place in `output_dir`.

    `all_results.json` leaves first and comes last: a folder that has it is a finished run, with all files of that run,
    whenever the process is killed.

    Raises:
        RecipeError: a file cannot be written. What `output_dir` held is as it was.
    """
    staging = output_dir / _STAGING_NAME
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir()
        yield staging
        files = [file.relative_to(staging) for file in staging.rglob("*") if file.is_file()]
        for file in files:
            force_to_disk(staging / file)
        (output_dir / RESULTS_NAME).unlink(missing_ok=True)
        for pattern in _ADDED_LATER:
            for file in output_dir.glob(pattern):
                if file.relative_to(output_dir) not in files:
                    file.unlink()
        for file in sorted(files, key=lambda file: file == Path(RESULTS_NAME)):
            (output_dir / file).parent.mkdir(exist_ok=True)
            os.replace(staging / file, output_dir / file)
        force_to_disk(output_dir)
    except (OSError, SafetensorError) as error:
        raise RecipeError(
            f"the finished run could not be written to --output_dir {output_dir} ({error}): make room, then run the "
            "same command with --resume_from_checkpoint last."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
