"""What training goes on with, as the files of a checkpoint: safetensors, JSON, and pickles that admit tensors alone."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from slimresnet.run_folder.names import (
    AVERAGED_WEIGHTS_NAME,
    BEST_WEIGHTS_NAME,
    OPTIMIZER_NAME,
    PICKLED_AVERAGED_NAME,
    PICKLED_PROGRESS_NAME,
    PROGRESS_NAME,
    SCALER_NAME,
    WEIGHTS_NAME,
)
from slimresnet.training.state.progress import Progress


@dataclass(frozen=True)
class TrainingState:
    """
    All of a run that a step changes.

    No state of a random number generator: every draw of training is a function of seed, epoch and position.

    Attributes:
        model: the plain network, without the wrapper of DistributedDataParallel, whose names another number of
            processes could not read.
        averaged: None where the recipe does not average.
        scaler: of the loss; None but for fp16.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    progress: Progress
    averaged: AveragedModel | None
    scaler: torch.amp.GradScaler | None

    def save(self, folder: Path) -> None:
        """Writes all of it into a folder, on one process."""
        _save_tensors(self.model.state_dict(), folder / WEIGHTS_NAME)
        # Not safetensors, which know nothing of the order of a tensor in memory: sums would be made in another order.
        torch.save(self.optimizer.state_dict(), folder / OPTIMIZER_NAME)
        if self.scaler is not None:
            torch.save(self.scaler.state_dict(), folder / SCALER_NAME)
        if self.averaged is not None:
            _save_tensors(self.averaged.state_dict(), folder / AVERAGED_WEIGHTS_NAME)
        progress = self.progress.state_dict()
        best_weights = progress.pop("best_weights")
        if best_weights is not None:
            _save_tensors(best_weights, folder / BEST_WEIGHTS_NAME)
        (folder / PROGRESS_NAME).write_text(json.dumps(progress, indent=2) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        """
        Takes what `save` wrote, here or in an earlier version. Nothing in the folder is run, whoever made it.

        Raises:
            Exception: a file is missing, damaged, of another network, or holds more than tensors and numbers; of the
                kind that JSON, pickle, safetensors or torch has for that.
        """
        self.model.load_state_dict(load_file(folder / WEIGHTS_NAME))
        self.optimizer.load_state_dict(_load_pickle(folder / OPTIMIZER_NAME))
        if self.scaler is not None:
            self.scaler.load_state_dict(_load_pickle(folder / SCALER_NAME))
        if (folder / PICKLED_PROGRESS_NAME).is_file():
            if self.averaged is not None:
                self.averaged.load_state_dict(_load_pickle(folder / PICKLED_AVERAGED_NAME))
            self.progress.load_state_dict(_load_pickle(folder / PICKLED_PROGRESS_NAME))
            return
        if self.averaged is not None:
            self.averaged.load_state_dict(load_file(folder / AVERAGED_WEIGHTS_NAME))
        progress = json.loads((folder / PROGRESS_NAME).read_text(encoding="utf-8"))
        best = folder / BEST_WEIGHTS_NAME
        self.progress.load_state_dict(progress | {"best_weights": load_file(best) if best.is_file() else None})


def _save_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata={"format": "pt"})


def _load_pickle(file: Path) -> dict[str, Any]:
    return torch.load(file, map_location="cpu", weights_only=True)
