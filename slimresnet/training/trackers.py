"""Trackers that get every figure of a run, as accelerate has them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from accelerate import Accelerator

from slimresnet.errors import first_line
from slimresnet.recipe.checks import RecipeError

_PROJECT = "slimresnet"


@contextmanager
def running_trackers(accelerator: Accelerator, output_dir: Path, settings: dict[str, str]) -> Iterator[None]:
    """
    Starts the trackers of an accelerator; finishes them at the end of the block, however it ends.

    What trackers write on this machine goes into the output folder, unless their own variables of the environment say
    where. trackio and ClearML have a place of their own in the user's home.

    Args:
        output_dir: folder of the run.
        settings: what the trackers are told of the run.

    Raises:
        RecipeError: a tracker does not start.
    """
    home = output_dir.absolute()
    if accelerator.log_with:
        for name, value in _places(home).items():
            os.environ.setdefault(name, value)
    try:
        accelerator.init_trackers(_PROJECT, config=settings, init_kwargs=_arguments(home))
    except Exception as error:  # each package raises its own, without a key or without a connection
        _finish_started(accelerator)
        names = ",".join(map(str, accelerator.log_with))
        raise RecipeError(
            f"--report_to {names} could not be started ({first_line(error)}): log in, choose the offline mode of the "
            "tracker, or leave it out."
        ) from error
    try:
        yield
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()


def _places(home: Path) -> dict[str, str]:
    """Variables of the environment that say where trackers write, and else would mean the current folder."""
    return {
        "MLFLOW_TRACKING_URI": f"sqlite:///{(home / 'mlflow.db').as_posix()}",
        "COMET_OFFLINE_DIRECTORY": str(home / "comet"),
        "SWANLAB_LOG_DIR": str(home / "swanlog"),
    }


def _arguments(home: Path) -> dict[str, dict[str, str]]:
    """What the constructors of trackers take beside the name of the project, by the name of the tracker."""
    # wandb reads its variables once in a process, which may train twice.
    of_wandb = {"WANDB_DIR": ("dir", str(home)), "WANDB_NAME": ("name", home.name)}
    return {
        "wandb": dict(argument for name, argument in of_wandb.items() if name not in os.environ),
        "mlflow": {"logging_dir": (home / "mlartifacts").as_uri(), "run_name": home.name},
        "dvclive": {"dir": str(home / "dvclive"), "dvcyaml": str(home / "dvclive" / "dvc.yaml")},
    }


def _finish_started(accelerator: Accelerator) -> None:
    for tracker in accelerator.trackers:
        with suppress(Exception):  # of those that did not start
            tracker.finish()
