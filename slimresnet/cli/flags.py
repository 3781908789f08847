"""Flags that several command lines take, each declared here once."""

from argparse import _ActionsContainer
from collections.abc import Sequence

from slimresnet.evaluation.tta import POLICIES
from slimresnet.formats.registry import backend_choices
from slimresnet.recipe.settings import SETTINGS

Group = _ActionsContainer
"""A parser, or a group of its flags that has a title."""

DATA_FLAGS = (
    "dataset_name",
    "dataset_config_name",
    "dataset_revision",
    "image_column_name",
    "label_column_name",
)
FROM_RECIPE = "Each flag that is left out has the value of MODEL's recipe.yaml."
"""Description of a group of flags whose defaults are those of the trained folder's recipe."""

# What people call a flag: what it is called here.
SYNONYMS = {
    "batch_size": "per_device_eval_batch_size",
    "confidence": "threshold",
    "csv": "output",
    "data": "dataset_name",
    "dataset": "dataset_name",
    "dtype": "mixed_precision",
    "force": "overwrite_output_dir",
    "int8": "quantized",
    "out": "output",
    "out_dir": "output_dir",
    "overwrite": "overwrite_output_dir",
    "precision": "mixed_precision",
    "probs": "probabilities",
    "revision": "dataset_revision",
    "runtime": "backend",
    "test_time_augmentation": "tta",
    "trust": "trust_remote_code",
}


def add_model(group: Group) -> None:
    """The trained network, as the first word of the command line."""
    group.add_argument(
        "model",
        metavar="MODEL",
        help="A folder that train.py, transformers' Trainer or save_pretrained wrote, or a model on the Hub.",
    )


def add_network_flags(group: Group) -> None:
    """In which form the network runs."""
    group.add_argument(
        "--backend", choices=backend_choices(), default="torch", help="Program that runs the network; by default torch."
    )
    group.add_argument(
        "--quantized", action="store_true", help="Run the int8 file that export.py --quantize int8 made."
    )
    group.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="Run code that MODEL brings. --backend torch_export needs it: its file is made of pickles.",
    )


def add_tta_flag(group: Group) -> None:
    """Which views of an image are averaged."""
    group.add_argument(
        "--tta",
        choices=POLICIES,
        default="none",
        help="Test-time augmentation: the views of an image whose logits are averaged; by default none.",
    )


def add_data_flags(group: Group, names: Sequence[str] = DATA_FLAGS, *, from_recipe: bool) -> None:
    """
    Which data, and which columns of it.

    Args:
        names: of `DATA_FLAGS`.
        from_recipe: whether the defaults are those of MODEL's recipe, and not those of training.
    """
    for name in names:
        text, default = _split_help(name)
        group.add_argument(f"--{name}", help=f"{text}." if from_recipe or not default else SETTINGS[name].help)


def _split_help(name: str) -> tuple[str, str]:
    """What the help of a setting says, and what it says of the default; empty where it says nothing of it."""
    text, _, default = SETTINGS[name].help.removesuffix(".").partition("; by default ")
    return text, default


def add_batch_size_flag(group: Group, *, from_recipe: bool) -> None:
    """Images at once; `from_recipe` as in `add_data_flags`."""
    _, device = _split_help("per_device_eval_batch_size")
    default = f"what the recipe of MODEL says, and else {device}" if from_recipe else device
    group.add_argument(
        "--per_device_eval_batch_size",
        type=int,
        help=f"Images that the network takes at once; by default {default}.",
    )


def add_precision_flag(group: Group, choices: Sequence[str]) -> None:
    """What the network computes in."""
    group.add_argument(
        "--mixed_precision",
        choices=choices,
        default="no",
        help="What the network computes in: no is float32, the default; bf16 is for --backend torch alone.",
    )
