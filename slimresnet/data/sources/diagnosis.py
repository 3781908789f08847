"""Why a dataset cannot be used: a sentence a cause, with what was found, what was expected and the flag that helps."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import datasets.config
from datasets import ClassLabel, DatasetBuilder, Features, get_dataset_config_names
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DataFilesNotFoundError
from huggingface_hub import HfApi
from huggingface_hub.utils import validate_repo_id

from slimresnet.data.sources.folders import ARCHIVES, Folder, count_kinds, extension, miswritten_split, read_folder
from slimresnet.errors import first_line, printable
from slimresnet.hub_errors import cannot_be_written, explain_hub_error, is_cache_error

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
    if printable(name) != name:
        return f"{flag} {printable(name)} has a name that is no UTF-8, as `datasets` needs it: rename the folder."
    if is_cache_error(error, datasets.config.HF_DATASETS_CACHE):
        cache = datasets.config.HF_DATASETS_CACHE
        return f"the cache of `datasets`, {cache}, {cannot_be_written(error, 'HF_DATASETS_CACHE')}."
    path = Path(name)
    if path.is_dir():
        return _explain_folder(error, called, read_folder(path), config_name)
    if path.exists():
        return f"{called} is a file: give the folder that holds it, with its images as {_LAYOUT}{sample}."
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
    if folder.archives and not folder.pictures:
        return f"{called} {_packed(folder.archives)}"
    if isinstance(error, DataFilesNotFoundError | EmptyDatasetError):
        if folder.names_its_splits:
            return (
                f"{called} holds none of the files that its README.md names under configs and data_files: correct "
                "them there. Links to folders are not followed, and a path with [ or * is taken for a pattern."
            )
        if not folder.names:
            return f"{called} is an empty folder: give one with images as {_LAYOUT}, or with Parquet files."
        return f"{called} {_others_alone(folder)}"
    if folder.pictures and len(folder.visible) > len(folder.pictures):
        return f"{called} {_others_beside(folder)} (it said: {first_line(error)})"
    return f"{called} cannot be used ({first_line(error)}): correct it, or give another folder."


def _packed(archives: Sequence[str]) -> str:
    return (
        f"holds packed files ({_some(archives)}), in which classes are not seen: unpack them, so that images lie as "
        f"{_LAYOUT}, and take the packed ones away."
    )


def _others_alone(folder: Folder) -> str:
    kinds = count_kinds(folder.names)
    return f"holds no images and no Parquet files, only others ({kinds}): give a folder with images as {_LAYOUT}."


def _others_beside(folder: Folder) -> str:
    others = count_kinds(sorted({*folder.visible} - {*folder.pictures}))
    return (
        f"holds {len(folder.pictures)} images beside files of other kinds ({others}), for which `datasets` does not "
        "take it for a folder of images: take those out of it."
    )


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(map(printable, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def explain_missing_split(name: str, split: str, splits: Sequence[str]) -> str:
    """A sentence on a split that a dataset lacks, with the names of the splits that it has."""
    found = f"{name} has no split {split!r}, only {', '.join(splits)}"
    if "[" in split:
        return f"{found}: a part of one, in brackets, cannot be streamed; take its name, and --max_eval_samples."
    folder = read_folder(Path(name)) if Path(name).is_dir() else None
    if folder and folder.archives:
        return f"{found}. It {_packed(folder.archives)}"
    if split == "train":
        return f"{found}: training reads the one called train; rename another, or list it in README.md under configs."
    return (
        f"{found}: name one of them with --test_split (train.py) or --split (eval.py, predict.py), or add a folder or "
        f"file called {split}."
    )


def explain_capitals(name: str) -> str | None:
    """A split of a folder that `datasets` does not take for one, since it is written with capitals."""
    wrong = miswritten_split(Path(name)) if Path(name).is_dir() else None
    return wrong and (
        f"{name} has {wrong} where a split is called {wrong.lower()}, in small letters: rename it, since its images "
        "count for no split, or for another one."
    )


def packed_images(builder: DatasetBuilder, features: Features, name: str) -> str | None:
    """What is wrong with folders of classes in packed files, whose names `datasets` does not see; None without any."""
    if builder.info.builder_name != "imagefolder" or not isinstance(features.get("label"), ClassLabel):
        return None
    packed = _packed_files(builder)
    return f"{name} {_packed(packed)}" if packed else None


def _packed_files(builder: DatasetBuilder) -> list[str]:
    files = [Path(file).name for files in builder.config.data_files.values() for file in files]
    return [file for file in files if extension(file) in ARCHIVES]


def explain_columns(builder: DatasetBuilder, name: str) -> str | None:
    """Why a local folder gives no column of images, or none of classes; None where its files do not tell."""
    path = Path(name)
    folder = read_folder(path) if path.is_dir() else None
    if folder is None or folder.names_its_splits:
        return None
    pictures, archives = folder.pictures, folder.archives
    if builder.info.builder_name in ("parquet", "arrow"):
        return None
    if builder.info.builder_name != "imagefolder":
        if archives and not pictures:
            return f"{name} {_packed(archives)}"
        return f"{name} {_others_beside(folder) if pictures else _others_alone(folder)}"
    if any(Path(file).name.startswith("metadata.") for files in builder.config.data_files.values() for file in files):
        return None
    if packed := _packed_files(builder):
        return f"{name} {_packed(packed)}"
    return _explain_labels(name, folder, builder)


def _explain_labels(name: str, folder: Folder, builder: DatasetBuilder) -> str | None:
    """`datasets` takes classes from folders where all images of all splits lie equally deep, in two folders or more."""
    below = folder.path.resolve(), folder.path.absolute()
    of_splits: dict[str, list[PurePosixPath]] = {}
    for split, files in builder.config.data_files.items():
        of_split = [Path(file) for file in files]
        base = next((each for each in below if all(path.is_relative_to(each) for path in of_split)), None)
        if base is None:
            return None
        of_splits[str(split)] = [PurePosixPath(path.relative_to(base).as_posix()) for path in of_split]
    depths = {split: {len(path.parts) for path in paths} for split, paths in of_splits.items()}
    all_depths = {depth for of_split in depths.values() for depth in of_split}
    classes = {path.parent.name for paths in of_splits.values() for path in paths}
    if len(all_depths) == 1 and len(classes) > 1:
        return None
    if len(all_depths) == 1:
        count = sum(map(len, of_splits.values()))
        return (
            f"all {count} images of {name} are of one class, {', '.join(map(printable, classes))}: two folders of "
            f"classes are needed at least, as {_LAYOUT}."
        )
    for split, paths in of_splits.items():
        if len({path.parent for path in paths}) == 1 and depths[split] == {min(all_depths)} and len(of_splits) > 1:
            return (
                f"the {len(paths)} images of split {split!r} of {name} lie in no folders of classes "
                f"({printable(str(paths[0]))}), without which no split of it has labels: sort them, as {_LAYOUT}, or "
                "move them to a folder elsewhere, for predict.py."
            )
    shown = [
        str(next(path for paths in of_splits.values() for path in paths if len(path.parts) == depth))
        for depth in sorted(all_depths)
    ]
    return (
        f"images of {name} lie at different depths ({_some(shown)}), where each has to lie in the folder of its class, "
        f"as {_LAYOUT}: move them."
    )
