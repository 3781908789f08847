"""The folder that exported files come to: whether it may be written to, and its figures, record and card afterwards."""

import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from slimresnet.formats.format import ExportError
from slimresnet.formats.registry import exported_files, scored_file
from slimresnet.formats.trained import holds_another_model, weights_digest
from slimresnet.hub.card import is_edited, renew_model_card, say_if_edited
from slimresnet.hub.files import shared_files
from slimresnet.run_folder.changes import Change, change, foreign, recorded
from slimresnet.run_folder.names import CARD_NAME, EXPORTS_NAME, RECIPE_NAME, RESULTS_NAME
from slimresnet.run_folder.ownership import own, refuse_if_owned
from slimresnet.run_folder.reading import read_json
from slimresnet.run_folder.writing import check_place, write_json


def check_output_dir(output_dir: Path, weights: str | None, names: Sequence[str], *, overwrite: bool) -> None:
    """
    Looks before anything is exported.

    Args:
        weights: digest of those that are to be exported.
        names: of the files that are to come.
        overwrite: whether they may replace files of these names.

    Raises:
        ExportError: the folder is a file, holds another model, exported files that are not to be replaced, or others'.
        FolderError: it lies in a folder that is not there, or another process is at work there.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise ExportError(f"--output_dir {output_dir} is a file: name a folder.")
    check_place("--output_dir", output_dir)
    refuse_if_owned(output_dir)
    present = [name for name in names if os.path.lexists(output_dir / name)]
    if present and not overwrite:
        raise ExportError(
            f"--output_dir {output_dir} holds {', '.join(present)}: name another folder, or replace them with "
            "--overwrite_output_dir."
        )
    if others := foreign(output_dir, present):
        raise ExportError(
            f"--output_dir {output_dir} holds {', '.join(others)}, and has no record that this program wrote them as "
            "they stand: move them away, or name another folder."
        )
    _check_model(output_dir, weights)


def _check_model(output_dir: Path, weights: str | None) -> None:
    if holds_another_model(output_dir, weights):
        raise ExportError(f"--output_dir {output_dir} holds another model than is exported: name another folder.")


def bring_files(output_dir: Path, folder: Path, weights: str | None, exported: dict[str, Path], facts: dict) -> None:
    """
    Brings exported files to the folder, with all that the trained one shares; renews its card.

    What was scored there stays, but for the scores of files that these replace.

    Args:
        folder: of the trained network.
        weights: digest of those that were exported.
        exported: where the files are that were made, by name.
        facts: of each file, for `exports.json`.

    Raises:
        ExportError: MODEL or the folder has other weights by now.
        FolderError: another process is at work there, or it cannot be written to.
    """
    if weights_digest(folder) != weights:
        raise ExportError(f"MODEL {folder} was replaced while it was exported: export it again.")
    with own(output_dir), change(output_dir) as made:
        _check_model(output_dir, weights)
        files, replaced = dict(exported), list(exported)
        if output_dir.resolve() != folder.resolve():
            shared = (file for file in shared_files(folder) if scored_file(file.name) is None)
            files |= {file.relative_to(folder).as_posix(): file for file in shared}
            if (output_dir / RESULTS_NAME).is_file():
                files.pop(RESULTS_NAME, None)
            else:
                replaced = exported_files()  # what exported files of MODEL scored is not of these
        if is_edited(output_dir / CARD_NAME):
            files.pop(CARD_NAME, None)
        for name, file in files.items():
            (made.files / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, made.files / name)
        write_json(made.files / EXPORTS_NAME, read_json(output_dir / EXPORTS_NAME) | facts)
        _forget_scores(made, output_dir, replaced)
        if any((each / RECIPE_NAME).is_file() for each in (made.files, output_dir)):
            renew_model_card(made, output_dir)
            say_if_edited(output_dir / CARD_NAME)


def _forget_scores(made: Change, output_dir: Path, names: Collection[str]) -> None:
    """Takes figures, details and pictures of exported files out of a folder."""
    made.remove(name for name in recorded(output_dir) if scored_file(name) in names)
    made.bring([RESULTS_NAME])
    results = read_json(made.files / RESULTS_NAME)
    kept = {figure: value for figure, value in results.items() if scored_file(figure) not in names}
    if kept != results:
        write_json(made.files / RESULTS_NAME, kept)
