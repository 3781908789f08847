"""Why a dataset cannot be used: a sentence a cause, with what was found, what was expected and the flag that helps."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import datasets.config
from datasets import get_dataset_config_names
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DataFilesNotFoundError
from huggingface_hub import HfApi
from huggingface_hub.utils import validate_repo_id

from slimresnet.data.sources.folders import ZIP, Folder, count_kinds, extension, is_hidden, read_folder
from slimresnet.data.sources.layouts import PICTURES, TABLES
from slimresnet.data.sources.opened import OpenedDataset, parts_of_split
from slimresnet.data.sources.spellings import spelt_split
from slimresnet.errors import first_line, printable
from slimresnet.hub_errors import cannot_be_written, explain_hub_error, is_cache_error
from slimresnet.recipe.settings import TRAIN_SPLIT

SAMPLE_FOLDER = "examples/cifar10_sample"
DATASET_FLAG = "--dataset_name"
_LAYOUT = "SPLIT/CLASS/IMAGE, such as train/cat/1.png"


def looks_like_path(name: str) -> bool:
    """Whether a name can only be one of a file or folder here, and of nothing on the Hub."""
    return (
        name.startswith((".", "~")) or os.path.isabs(name) or (os.sep != "/" and os.sep in name) or name.count("/") > 1
    )


def nearest(name: str) -> str:
    """A file or folder that is there and has nearly that name, as ` (is … meant?)`; empty where there is none."""
    path = Path(name)
    there = next((parent for parent in path.parents if parent.is_dir()), None)
    if there is None:
        return ""
    missing = path.relative_to(there).parts[0]
    try:
        alike = difflib.get_close_matches(missing, os.listdir(there), n=1)
    except OSError:
        return ""
    return f" (is {there / alike[0]} meant?)" if alike else ""


def explain_opening(error: Exception, name: str, config_name: str | None, revision: str | None, flag: str) -> str:
    """
    Why `datasets` opens nothing of that name.

    Args:
        error: what `datasets` raised.
        name, config_name, revision: what `datasets` was asked for.
        flag: flag that gave the name, such as `--dataset_name`.
    """
    called = f"{flag} {name}"
    sample = f", or train on the sample that ships with this project, {flag} {SAMPLE_FOLDER}"
    sample = sample if flag == DATASET_FLAG else ""
    if not name.strip():
        return f"{flag} is empty: give a folder, or a dataset on the Hub{sample}."
    if is_cache_error(error, datasets.config.HF_DATASETS_CACHE):
        cache = datasets.config.HF_DATASETS_CACHE
        return f"the cache of `datasets`, {cache}, {cannot_be_written(error, 'HF_DATASETS_CACHE')}."
    path = Path(name)
    if path.is_dir():
        return _explain_folder(error, called, read_folder(path), config_name)
    if path.exists():
        if extension(path.name) in (*TABLES, ZIP):
            return f"{called} cannot be used ({first_line(error)}): correct it, or give another file."
        return (
            f"{called} is a file: give the folder that holds it, with its images as {_LAYOUT}, a ZIP file of them, or "
            f"a table ({', '.join(TABLES)}){sample}."
        )
    if looks_like_path(name):
        return f"{called} is not there{nearest(name)}: give a folder{sample}."
    try:  # `datasets` has one kind of error for many of huggingface_hub's
        validate_repo_id(name)
        HfApi().auth_check(name, repo_type="dataset")
        HfApi().dataset_info(name, revision=revision)
    except Exception as reason:  # huggingface_hub's, httpx's and OSErrors
        why = explain_hub_error(reason, name, "dataset")
        return f"{called} is no folder here{nearest(name)}, and {why}; or give a folder{sample}."
    return _explain_configs(called, name, config_name, revision) or f"{called} {_explain_files_of_hub(error)}{sample}."


def _explain_files_of_hub(error: Exception) -> str:
    if isinstance(error, DataFilesNotFoundError | EmptyDatasetError):
        return "is on the Hub, but holds no files that `datasets` reads without code of their own: give another one"
    return f"is on the Hub, but cannot be opened ({first_line(error)}): give another one"


def _explain_configs(called: str, name: str, config_name: str | None, revision: str | None) -> str | None:
    """A choice among configurations that is missing or wrong; None where it is neither."""
    try:
        configs = get_dataset_config_names(name, revision=revision)
    except Exception:  # why it cannot be opened at all is told by what asks
        return None
    listed = ", ".join(configs)
    if config_name is None and len(configs) > 1:
        return f"{called} has {len(configs)} configurations, {listed}: choose one with --dataset_config_name."
    if config_name is not None and config_name not in configs:
        return f"--dataset_config_name {config_name} is no configuration of {name}, which has {listed}: name one."
    return None


def _explain_folder(error: Exception, called: str, folder: Folder, config_name: str | None) -> str:
    if reason := _explain_configs(called, str(folder.path), config_name, None):
        return reason
    if folder.names_its_splits and isinstance(error, DataFilesNotFoundError | EmptyDatasetError):
        return (
            f"{called} holds none of the files that its README.md names under configs and data_files: correct them "
            "there. Links to folders are not followed, and a path with [ or * is taken for a pattern."
        )
    return f"{called} cannot be used ({first_line(error)}): correct it, or give another folder."


def explain_nothing(called: str, folder: Folder) -> str:
    """Why a folder holds no dataset of any layout; `called` says which folder, with the flag."""
    if folder.archives:
        return f"{called} {_packed(folder.archives)}"
    if not folder.names:
        kind = "folder" if folder.path.is_dir() else "file"
        return f"{called} is an empty {kind}: give one with images as {_LAYOUT}, or with Parquet files."
    kinds = count_kinds(folder.names)
    return (
        f"{called} holds no images and no Parquet files, only others ({kinds}): give a folder with images as {_LAYOUT}."
    )


def _packed(archives: Sequence[str]) -> str:
    return (
        f"holds packed files ({_some(archives)}) that are no ZIP: unpack them, so that images lie as {_LAYOUT}, and "
        "take the packed ones away."
    )


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(map(printable, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def explain_missing_split(name: str, split: str, dataset: OpenedDataset) -> str:
    """A sentence on a split that a dataset lacks, with the names of the splits that it has."""
    found = f"{name} has no split {split!r}, only {', '.join(map(printable, dataset.files))}"
    if "[" in split:
        return f"{found}: a part of one, in brackets, cannot be streamed; take its name, and --max_eval_samples."
    if dataset.folder and dataset.folder.archives and dataset.kind == PICTURES:
        return f"{found}. It {_packed(dataset.folder.archives)}"
    if split == TRAIN_SPLIT and (outside := _outside_of_splits(dataset)):
        return f"{found}, and {_some(outside)} beside: move these folders into one called train, or take them away."
    if split == TRAIN_SPLIT:
        return f"{found}: training reads the one called train; rename another, or list it in README.md under configs."
    if [*dataset.files] == [TRAIN_SPLIT]:
        return (
            f"{found}: name that with --split (eval.py, predict.py), have train.py cut one off with --test_size, or "
            f"add a folder or file called {split}."
        )
    return (
        f"{found}: name one of them with --test_split (train.py) or --split (eval.py, predict.py), or add a folder or "
        f"file called {split}."
    )


def _outside_of_splits(dataset: OpenedDataset) -> list[str]:
    """The folders beside those of splits whose pictures belong to no split."""
    if dataset.folder is None or dataset.layout is None or dataset.kind != PICTURES:
        return []
    kept = {name for names in dataset.layout.splits.values() for name in names}
    return sorted({name.split("/")[0] for name in dataset.folder.pictures if name not in kept and "/" in name})


def explain_layout(dataset: OpenedDataset, name: str, split: str) -> str | None:
    """What keeps the folders of a dataset of pictures from being classes; None where nothing does."""
    folder, layout = dataset.folder, dataset.layout
    if folder is None or layout is None or layout.kind != PICTURES:
        return None
    for part in [dataset.own_name(part) for part in parts_of_split(split, dataset.files)]:
        if not {*layout.splits[part]} <= layout.classes.keys():
            return _explain_loose(name, part, layout.splits[part])
    labels = {*layout.classes.values()}
    if len(labels) < 2:
        return (
            f"all {len(layout.classes):,} images of {name} are of one class, {', '.join(map(printable, labels))}: two "
            f"folders of classes are needed at least, as {_LAYOUT}."
        )
    around = set()
    for names in layout.splits.values():
        depth = _depth(names)
        around |= {"/".join(each.split("/")[: depth - 1]) for each in names if each in layout.classes}
    packed = [each for each in folder.archives if layout.says_splits and each.rpartition("/")[0] in around]
    if packed:
        return f"{name} {_packed(packed)}"
    return _explain_packed_folders(name, folder, dataset) or _explain_empty_folder(name, folder, around, labels)


def _explain_packed_folders(name: str, folder: Folder, dataset: OpenedDataset) -> str | None:
    """A ZIP file beside folders of classes: a split, or a class, or else nothing that could be told."""
    if folder.members.keys() >= {*folder.pictures}:
        return None
    for stem in sorted(folder.opened):
        inside = [each.removeprefix(f"{stem}/") for each in folder.pictures if each.startswith(f"{stem}/")]
        if (
            any("/" in each for each in inside)
            and not spelt_split(PurePosixPath(stem).name)
            and stem not in dataset.files
        ):
            return (
                f"{name} holds folders in {printable(stem)}{ZIP} beside images that are not packed: unpack that file, "
                "or take it away."
            )
    return None


def _explain_empty_folder(name: str, folder: Folder, around: set[str], labels: set[str]) -> str | None:
    """A folder beside those of classes that would be no class, since it holds no images."""
    full = {str(parent) for each in folder.pictures for parent in PurePosixPath(each).parents}
    for each in folder.subfolders:
        above, _, last = each.rpartition("/")
        is_other = spelt_split(last) or is_hidden(f"{last}/") or (folder.root / each).is_symlink()
        if above in around and each not in full and last not in labels and not is_other:
            inside = count_kinds([every for every in folder.names if every.startswith(f"{each}/")])
            return (
                f"{name} has a folder beside those of classes that holds no images, {printable(each)} "
                f"({inside or 'empty'}): put images of a format that is read into it, or take it away."
            )
    return None


def _depth(names: Sequence[str]) -> int:
    """The number of folders around the shallowest picture."""
    return min(name.count("/") for name in names)


def _explain_loose(name: str, split: str, names: Sequence[str]) -> str:
    of_depth = {each.count("/"): printable(each) for each in reversed(names)}
    if len(of_depth) > 1:
        shown = [of_depth[depth] for depth in sorted(of_depth)]
        return (
            f"images of {name} lie at different depths ({_some(shown)}), where each has to lie in the folder of its "
            f"class, as {_LAYOUT}: move them."
        )
    return (
        f"the {len(names):,} images of split {split!r} of {name} lie in no folders of classes ({printable(names[0])}), "
        f"so that they have no labels: sort them, as {_LAYOUT}, or move them to a folder elsewhere, for predict.py."
    )
