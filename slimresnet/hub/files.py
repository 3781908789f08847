"""Which files of a folder go to the Hub, and whether they may go."""

import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import torch
from huggingface_hub import EvalResult, ModelCard

import modeling_slimresnet
from modeling_slimresnet.configuration_slimresnet import AUTO_MAP
from slimresnet.formats.registry import exported_files
from slimresnet.formats.trained import ModelError, check_finite, explain_unfinished, load_model, load_processing
from slimresnet.hub.card import is_edited
from slimresnet.hub.card_text import render_model_card
from slimresnet.hub.model_index import eval_results
from slimresnet.hub.shared_recipe import shared_recipe
from slimresnet.hub_errors import HubError
from slimresnet.run_folder.changes import is_run, is_written_here
from slimresnet.run_folder.names import (
    CARD_NAME,
    CLASS_WEIGHTS_NAME,
    CONFIG_NAME,
    CORRUPTIONS_SUFFIX,
    DETAILS_SUFFIX,
    EXPORTS_NAME,
    FIGURES_FOLDER,
    LOADABLE_FILES,
    MODEL_CODE,
    NETWORK_FILES,
    PAGE_NAME,
    RECIPE_NAME,
    RESULTS_NAME,
    RUN_PICTURES,
    SCORE_PICTURE_SUFFIXES,
    TRAINER_STATE_NAME,
    WEIGHTS_NAME,
)
from slimresnet.run_folder.reading import read_json, read_results
from slimresnet.run_folder.writing import FolderError

_NEEDED = (*LOADABLE_FILES, RECIPE_NAME, RESULTS_NAME)
# Whatever else lies in the folder, checkpoints, logs and other people's files, stays at home.
_SHARED = (
    CARD_NAME, *_NEEDED, CLASS_WEIGHTS_NAME, TRAINER_STATE_NAME,
    *(f"{FIGURES_FOLDER}/{name}" for name in RUN_PICTURES),
)  # fmt: skip
# Suffixes of files of scores. The prefix of such a file is the prefix of its scores in the results.
_OF_SCORES = (DETAILS_SUFFIX, CORRUPTIONS_SUFFIX, *SCORE_PICTURE_SUFFIXES)


def collect(
    folder: Path, repo_id: str, *, overwrite_card: bool = False, license: str | None = None
) -> dict[str, Path | bytes]:
    """
    The files that go to the Hub, by their paths there. None of them tells a path of this machine.

    The card is written anew unless a person edited it. The recipe is the one of `shared_recipe`. A folder that another
    program wrote has none, and gets the network's code of this package: its own may be anybody's.

    Args:
        license: licence of the weights, where it differs from the recipe's.

    Raises:
        HubError: the folder is not a finished run, its weights do not load, they or its figures are not finite, or the
            metadata of an edited card has other figures than its results, or another licence.
    """
    is_ours = is_run(folder)
    # Without an image processor `_check_network` says how one is saved.
    needed = _NEEDED if is_ours else (CONFIG_NAME, WEIGHTS_NAME)
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing and (reason := explain_unfinished(folder)):
        raise HubError(reason)
    if missing:
        raise HubError(f"{folder} is not a finished run, it has no {', '.join(missing)}: name the folder of one.")
    exports = (*exported_files(), EXPORTS_NAME)
    try:
        exported = [file for file in _written_here(folder, (folder / name for name in exports)) if file.is_file()]
        files: dict[str, Path | bytes] = {
            file.relative_to(folder).as_posix(): file for file in shared_files(folder) + exported
        }
        _refuse_links(folder, dict.fromkeys((*_SHARED, *exports, *files)))
        _check_network(folder)
        for name in files:
            if name.endswith(".json"):
                read_json(folder / name)
        recipe = shared_recipe(folder, license)
        if recipe:
            files[RECIPE_NAME], license = recipe.to_yaml().encode(), recipe.license
        else:
            files |= {CONFIG_NAME: _config_of_others(folder), **model_code()}
        card = folder / CARD_NAME
        if overwrite_card or not is_edited(card):
            files[CARD_NAME] = render_model_card(folder, repo_id, license).encode()
        else:
            _check_metadata(folder, card, license)
    except (ModelError, FolderError) as error:
        raise HubError(f"{error} Nobody could use such a folder.") from error
    return files


def model_code() -> dict[str, Path]:
    """The network's two Python files, as this package has them, by their names in a folder."""
    package = Path(modeling_slimresnet.__file__).parent
    return {name: package / name for name in MODEL_CODE}


def _config_of_others(folder: Path) -> bytes:
    """A `config.json` that another program wrote, without a path of this machine, which names the code beside it."""
    content = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    content.pop("_name_or_path", None)
    return (json.dumps(content | {"auto_map": AUTO_MAP}, indent=2, sort_keys=True) + "\n").encode()


def shared_files(folder: Path) -> list[Path]:
    """
    The files of a finished folder that others get, without what export.py made of it.

    Of a folder that another program wrote, those are the network's, without Python files, and what was added here.

    Details and pictures of scores are those of the splits that the results tell of. A link is followed where it stays
    in the folder, or in the Hub's cache that the folder is a part of.

    Raises:
        FolderError: the results cannot be read.
    """
    results = read_results(folder)
    scores = [
        file
        for suffix in _OF_SCORES
        for file in sorted(
            folder.glob(f"{FIGURES_FOLDER}/*{suffix}" if suffix in SCORE_PICTURE_SUFFIXES else f"*{suffix}")
        )
        if any(name.startswith(file.name.removesuffix(suffix) + "_") for name in results)
    ]
    home = folder.resolve()
    blobs = home.parent.parent / "blobs"
    files = _written_here(folder, [*(folder / name for name in _SHARED), *scores])
    if not is_run(folder):
        files = list(dict.fromkeys([*(folder / name for name in NETWORK_FILES), *files]))
    return [
        file
        for file in files
        if file.is_file() and (file.resolve().is_relative_to(home) or file.resolve().parent == blobs)
    ]


def _written_here(folder: Path, files: Iterable[Path]) -> list[Path]:
    """The files that this program wrote, and the card, which a person may have written."""
    names = {file: file.relative_to(folder).as_posix() for file in files}
    return [file for file, name in names.items() if name == CARD_NAME or is_written_here(folder, name)]


def collect_page(folder: Path) -> dict[str, Path]:
    """
    The files that go to a Space, by their paths there: those that `demo.build` wrote, as `about.json` lists them.

    Raises:
        HubError: the folder is not a page that `demo.build` made, or no longer, or it holds links.
    """
    names = read_json(folder / PAGE_NAME).get("files")
    if not isinstance(names, list) or not all(isinstance(name, str) and _is_below(name) for name in names):
        raise HubError(
            f"{folder} has no {PAGE_NAME} that lists its files, and is no page: make one with python -m demo.build "
            "MODEL --output_dir DIR."
        )
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise HubError(f"{folder} lacks {', '.join(missing)}, which demo.build wrote there: make it anew.")
    files = {name: folder / name for name in names}
    _refuse_links(folder, files)
    return files


def _is_below(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _refuse_links(folder: Path, names: Iterable[str]) -> None:
    """Refuses links: the file that a link points to was not written here, and may be anybody's."""
    links = [name for name in names if any(each.is_symlink() for each in _way(folder, name))]
    if links:
        raise HubError(
            f"{folder} holds links, which are not followed ({', '.join(links)}): put the files themselves in their "
            "place."
        )


def _way(folder: Path, name: str) -> list[Path]:
    """A file in a folder, and the folders between the two."""
    path = PurePosixPath(name)
    return [folder / each for each in (path, *path.parents[:-1])]


@torch.inference_mode()
def _check_network(folder: Path) -> None:
    """Loads the network as others will, and runs it on an image of noise: finite weights may give infinite logits."""
    model, normalize = load_model(folder), load_processing(folder).normalize
    size = model.config.image_size
    noise = torch.randint(0, 256, (1, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    check_finite(model(pixel_values=normalize(noise)).logits, ["an image of noise"])


def _check_metadata(folder: Path, card: Path, license: str | None) -> None:
    """Checks that a card which a person edited has the results and the licence asked for in its metadata."""
    try:
        metadata = ModelCard.load(card).data
    except Exception as error:  # YAML's and huggingface_hub's own
        raise HubError(
            f"the metadata at the top of {card} cannot be read ({error}): correct it, or write the card anew with "
            "--overwrite_card."
        ) from error
    if license not in (None, metadata.get("license")):
        raise HubError(
            f"the licence is {license} by --license or {RECIPE_NAME}, but {card} was edited by hand and says "
            f"{metadata.get('license')}: give that as --license, change it there, or write the card anew with "
            "--overwrite_card."
        )

    def place(each: EvalResult) -> tuple[str, str | None, str | None]:
        return each.dataset_type, each.dataset_split, each.metric_name

    if not is_run(folder):  # its figures are its authors' own, and nothing here says otherwise
        return
    measured = {place(each): each.metric_value for each in eval_results(folder)}
    for each in metadata.eval_results or []:
        value = measured.get(place(each))
        if value != each.metric_value:
            raise HubError(
                f"{card} claims {each.metric_name} {each.metric_value} on {each.dataset_split} of "
                f"{each.dataset_type}, where {folder / RESULTS_NAME} has {value}: correct it, or write the card anew "
                "with --overwrite_card."
            )
