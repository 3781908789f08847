"""Train a SlimResNet: accelerate launch train.py --config configuration/paper.yaml [--flag value …]"""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from slimresnet.cli.parser import Parser
from slimresnet.errors import InterruptedRun, SlimResNetError
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.reading import Texts, recipe_of_texts, shipped_recipes, texts_of_config
from slimresnet.recipe.settings import SETTINGS, Recipe, setting_types
from slimresnet.run_folder.console import tolerant_output

# What people call a setting: its name here.
SYNONYMS = {
    "lr": "learning_rate", "epochs": "num_train_epochs", "steps": "max_train_steps", "wd": "weight_decay",
    "batch_size": "total_train_batch_size", "train_batch_size": "total_train_batch_size", "optimizer": "optim",
    "scheduler": "lr_scheduler_type", "warmup": "warmup_steps", "workers": "dataloader_num_workers",
    "num_workers": "dataloader_num_workers", "data": "dataset_name", "dataset": "dataset_name",
    "amp": "mixed_precision", "precision": "mixed_precision", "compile": "torch_compile",
    "resume": "resume_from_checkpoint", "label_smoothing": "label_smoothing_factor", "cutmix": "cutmix_prob",
    "mixup": "mixup_prob", "copies": "augmented_copies", "teacher": "teacher_name_or_path",
    "model": "model_name_or_path", "pretrained": "model_name_or_path", "finetune": "model_name_or_path",
    "freeze_backbone": "freeze",
    "distill": "teacher_name_or_path", "twin": "calibration_run", "ema": "ema_decay", "sam": "sam_rho",
    "out": "output_dir", "overwrite": "overwrite_output_dir", "cpu": "use_cpu", "no_cuda": "use_cpu",
}  # fmt: skip
_METAVARS = {int: "N", float: "X", str: "TEXT"}


class _TrainParser(Parser):
    def error(self, message: str) -> NoReturn:
        raise RecipeError(message if message.endswith("?") else f"{message.rstrip('.')}.")


def build_parser() -> Parser:
    """The command line: each setting of `Recipe` once, in groups. All values stay text, for `recipe_of_texts`."""
    parser = _TrainParser(
        prog="train.py",
        usage="accelerate launch train.py [--config RECIPE] [--NAME VALUE …]",
        description="Train a SlimResNet. A flag wins over the same setting of the --config file.",
        synonyms=SYNONYMS,
    )
    parser.add_argument(
        "--config",
        metavar="RECIPE",
        help=f"Recipe: a YAML file of the same names as the flags, or one of {', '.join(shipped_recipes())}.",
    )
    groups: dict[str, Any] = {}
    for name, setting in SETTINGS.items():
        if setting.group not in groups:
            groups[setting.group] = parser.add_argument_group(setting.group)
        kind = setting_types()[name]
        shape: dict[str, Any] = {"nargs": "+" if kind.is_sequence else None, "metavar": _METAVARS.get(kind.of)}
        if kind.of is bool:
            shape = {"nargs": "?", "const": "true", "metavar": "true|false" + "|auto" * kind.or_auto}
        elif kind.choices:
            shape["metavar"] = "|".join(kind.choices)
        group = groups[setting.group]
        group.add_argument(f"--{name}", default=None, help=setting.help + _default(name), **shape)
        if setting.no_help:
            group.add_argument(f"--no_{name}", dest=name, action="store_const", const="false", help=setting.no_help)
    return parser


def _default(name: str) -> str:
    """A sentence on the default; where None is the default, the help tells what that means."""
    value = getattr(Recipe, name)
    if value is None:
        return ""
    values = value if isinstance(value, tuple) else (value,)
    return f" Default: {' '.join(str(each).lower() if isinstance(each, bool) else str(each) for each in values)}."


def parse_recipe(arguments: Sequence[str] | None = None) -> Recipe:
    """
    Reads `--config` and the flags beside it; a flag wins over the file.

    Args:
        arguments: as on the command line; None for `sys.argv`.

    Raises:
        RecipeError: an unknown name (the one that was meant is suggested), or a value that cannot be used.
    """
    given = vars(build_parser().parse_args(sys.argv[1:] if arguments is None else list(arguments)))
    config = given.pop("config")
    flags: Texts = {
        name: value if isinstance(value, list) else [value] for name, value in given.items() if value is not None
    }
    return recipe_of_texts((texts_of_config(config) if config is not None else {}) | flags)


@tolerant_output()
def main() -> None:
    """
    Trains. Exit code 0: finished; 1: a mistake in the input, told in one sentence by one process; 143 or 130: stopped
    by SIGTERM or SIGINT, from the first training step on behind a checkpoint.
    """
    try:
        recipe = parse_recipe()
        # Only now: --help and a mistyped flag are answered at once.
        from transformers.utils.logging import disable_progress_bar

        from slimresnet.api.train import train
        from slimresnet.recipe.launch import leave_group

        disable_progress_bar()  # transformers': a run has one of its own
        train(recipe)
        leave_group()
    except SlimResNetError as error:
        _leave(f"error: {error}", 1)
    except InterruptedRun as stop:
        _leave(str(stop), stop.exit_code)
    except KeyboardInterrupt:
        _leave(
            "stopped by SIGINT before the first step or after the last: what is saved is whole.", 128 + signal.SIGINT
        )


def _leave(message: str, exit_code: int) -> NoReturn:
    """Ends this process; the first one of its machine says why."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"train.py: {message}", file=sys.stderr)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
