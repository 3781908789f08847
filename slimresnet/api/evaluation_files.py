"""How an evaluation comes into a folder: beside figures that stay true, with pictures, under a card that is renewed."""

import os
from pathlib import Path

from slimresnet.evaluation.merging import still_true
from slimresnet.evaluation.plots import draw
from slimresnet.evaluation.protocol import Evaluation
from slimresnet.evaluation.rows import is_fact_of_training
from slimresnet.formats.trained import refuse_another_model
from slimresnet.hub.card import renew_model_card, say_if_edited
from slimresnet.recipe.checks import RecipeError
from slimresnet.run_folder.changes import change, is_of_an_earlier_version
from slimresnet.run_folder.names import (
    CARD_NAME,
    FIGURES_FOLDER,
    RECIPE_NAME,
    RESULTS_NAME,
)
from slimresnet.run_folder.ownership import own, refuse_if_owned
from slimresnet.run_folder.reading import read_results
from slimresnet.run_folder.writing import check_place, write_json


def check_output_dir(output_dir: Path | None, weights: str | None) -> None:
    """
    Checks, before anything is scored, that a folder can take the figures.

    Args:
        weights: SHA-256 of the weights to score.

    Raises:
        RecipeError: `output_dir` is a file or cannot be written to.
        ModelError: `output_dir` holds another model.
        FolderError: the parent of `output_dir` does not exist, or another process is at work in `output_dir`.
    """
    if output_dir is None:
        return
    check_place("--output_dir", output_dir)
    existing = output_dir if output_dir.exists() else output_dir.absolute().parent
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise RecipeError(f"--output_dir {output_dir} cannot be written to: name another folder.")
    refuse_if_owned(output_dir)
    refuse_another_model(output_dir, weights)


def write_evaluation(output_dir: Path, weights: str | None, found: Evaluation) -> None:
    """
    Adds figures to a folder's `all_results.json`, writes details and pictures beside it, renews its card.

    An `all_results.json` of another program is renamed, and a line on standard error says so.

    Args:
        weights: SHA-256 of the weights that were scored.

    Raises:
        ModelError: the folder has other weights by now.
        FolderError: another process is at work in the folder, or it cannot be written to.
    """
    facts = [name for name in found.results if is_fact_of_training(name)]
    assert not facts, f"a score in the place of a fact of training: {facts}"
    with own(output_dir):
        refuse_another_model(output_dir, weights)
        earlier = read_results(output_dir)
        is_run = (output_dir / RECIPE_NAME).is_file()
        with change(output_dir) as made:
            if is_of_an_earlier_version(output_dir):
                made.own |= {RESULTS_NAME, *found.details, *(f"{FIGURES_FOLDER}/{name}" for name in found.pictures)}
            # Remove the old pictures: they show earlier figures, and drawing new ones may fail.
            made.remove(f"{FIGURES_FOLDER}/{name}" for name in found.pictures)
            for name, content in found.details.items():
                write_json(made.files / name, content)
            write_json(made.files / RESULTS_NAME, still_true(earlier, found.results) | found.results)
            if is_run:
                renew_model_card(made, output_dir)
        print(f"written to {output_dir / RESULTS_NAME} and {', '.join(found.details)}")
        if is_run:
            say_if_edited(output_dir / CARD_NAME)
        if found.pictures:
            with change(output_dir) as made:
                draw(found.pictures, made.files / FIGURES_FOLDER)
                if is_run:
                    renew_model_card(made, output_dir)
