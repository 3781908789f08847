"""The folder that exported files come to: whether it may be written to, and its figures, record and card afterwards."""

import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from slimresnet.formats.format import ExportError
from slimresnet.formats.registry import exported_files, scored_file
from slimresnet.formats.trained import refuse_another_model, weights_digest
from slimresnet.hub.card import is_edited, renew_model_card, say_if_edited
from slimresnet.hub.files import model_code, shared_files
from slimresnet.run_folder.changes import Change, change, foreign, is_run, recorded
from slimresnet.run_folder.names import CARD_NAME, EXPORTS_NAME, RECIPE_NAME, RESULTS_NAME
from slimresnet.run_folder.ownership import own, refuse_if_owned
from slimresnet.run_folder.reading import has_results, read_json
from slimresnet.run_folder.writing import check_place, write_json


def check_output_dir(output_dir: Path, weights: str | None, names: Sequence[str], *, overwrite: bool) -> None:
    """
    Checks, before anything is exported, that a folder can take the files.

    Args:
        weights: SHA-256 of the weights to export.
        names: files to write.
        overwrite: whether existing files of these names may be replaced.

    Raises:
        ExportError: the folder is a file, holds exported files that are not to be replaced, or holds others' files.
        ModelError: the folder holds another model.
        FolderError: the folder's parent does not exist, or another process is at work in the folder.
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
    refuse_another_model(output_dir, weights)


def bring_files(output_dir: Path, folder: Path, weights: str | None, exported: dict[str, Path], facts: dict) -> None:
    """
    Brings exported files to the folder, with all that the trained one shares; renews its card.

    What was scored there stays, but for the scores of files that these replace.

    Args:
        folder: folder of the trained network.
        weights: SHA-256 of the weights that were exported.
        exported: the exported files, by the name that each is to have.
        facts: what `exports.json` says of each file, by name.

    Raises:
        ExportError: MODEL has other weights by now.
        ModelError: `output_dir` has other weights by now.
        FolderError: another process is at work in `output_dir`, or it cannot be written to.
    """
    if weights_digest(folder) != weights:
        raise ExportError(f"MODEL {folder} was replaced while it was exported: export it again.")
    with own(output_dir), change(output_dir) as made:
        refuse_another_model(output_dir, weights)
        files, replaced = dict(exported), list(exported)
        if output_dir.resolve() != folder.resolve():
            shared = (file for file in shared_files(folder) if scored_file(file.name) is None)
            files |= {file.relative_to(folder).as_posix(): file for file in shared}
            if not is_run(folder):  # its Python files may be anybody's
                files |= model_code()
            if (output_dir / RESULTS_NAME).is_file():
                files.pop(RESULTS_NAME, None)
            else:
                # MODEL's results may hold scores of MODEL's own exported files; drop those scores.
                replaced = exported_files()
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
    if has_results(output_dir):
        made.bring([RESULTS_NAME])
    results = read_json(made.files / RESULTS_NAME)
    kept = {figure: value for figure, value in results.items() if scored_file(figure) not in names}
    if kept != results:
        write_json(made.files / RESULTS_NAME, kept)
