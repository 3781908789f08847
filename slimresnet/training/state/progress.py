"""Where a run stands, beyond its weights and its optimiser."""

import torch
from transformers.trainer_callback import TrainerState

_OF_THIS_RUN = ("steps_per_epoch", "max_steps")
_KINDS = {
    "global_step": int, "epoch_loss_sum": float, "train_runtime": float, "earlier_devices": list, "log_history": list,
    "best_metric": float | None, "best_step": int | None, "best_weights": dict | None,
    "epochs_without_improvement": int,
}  # fmt: skip


class Progress:
    """
    What is saved and loaded beside weights and optimiser, so that a resumed run goes on as if it never stopped.

    Args:
        steps_per_epoch, max_steps: optimiser steps of an epoch and of the run; of this run, so not saved.
    """

    def __init__(self, steps_per_epoch: int, max_steps: int):
        self.steps_per_epoch, self.max_steps = steps_per_epoch, max_steps
        self.global_step = 0
        self.epoch_loss_sum = 0.0  # over the steps done of the current epoch
        self.train_runtime = 0.0  # seconds of training steps, over all interruptions
        self.earlier_devices: list[str] = []  # used before each interruption
        self.log_history: list[dict] = []
        self.best_metric: float | None = None  # on validation, by the recipe's metric_for_best_model
        self.best_step: int | None = None
        self.best_weights: dict[str, torch.Tensor] | None = None
        self.epochs_without_improvement = 0  # up to the last validation

    @property
    def num_epochs(self) -> int:
        """Epochs of the run, the last of which may be cut short."""
        return -(-self.max_steps // self.steps_per_epoch)

    def state_dict(self) -> dict:
        """All of it that is saved; `best_weights` are tensors or None, the rest is what JSON has."""
        return {name: value for name, value in vars(self).items() if name not in _OF_THIS_RUN}

    def load_state_dict(self, state: dict) -> None:
        """
        Takes what `state_dict` gave, here or in an earlier version, which knew accuracy alone and never stopped early.

        Raises:
            ValueError: it has other names, or a value of another kind.
        """
        if "best_accuracy" in state and "best_metric" not in state:
            others = {name: value for name, value in state.items() if name != "best_accuracy"}
            state = {"best_metric": state["best_accuracy"], "epochs_without_improvement": 0} | others
        wrong = [name for name, kind in _KINDS.items() if not isinstance(state.get(name), kind)]
        if wrong or state.keys() != _KINDS.keys():
            raise ValueError(f"it does not say where the run stood: {', '.join(wrong or state.keys() - _KINDS.keys())}")
        vars(self).update(state)

    def take_validation(self, value: float, *, lower_is_better: bool, threshold: float) -> bool:
        """
        Counts a validation as an improvement or not, and remembers the best, as transformers' Trainer does.

        Args:
            value: of the score that decides.
            threshold: what an improvement has to be more than. A better epoch below it becomes the best one all the
                same.

        Returns:
            Whether this validation is the best so far.
        """
        gain = None if self.best_metric is None else value - self.best_metric
        gain = -gain if gain is not None and lower_is_better else gain
        improves = gain is None or (gain > 0 and gain > threshold)
        self.epochs_without_improvement = 0 if improves else self.epochs_without_improvement + 1
        is_best = gain is None or gain > 0
        if is_best:
            self.best_metric, self.best_step = value, self.global_step
        return is_best

    def trainer_state(self, at_step: int | None = None) -> TrainerState:
        """
        This progress as transformers' TrainerState, for `trainer_state.json`.

        Args:
            at_step: an earlier step of the current epoch that it is to name; None for the present one.
        """
        step = self.global_step if at_step is None else at_step
        return TrainerState(
            epoch=step / self.steps_per_epoch,
            global_step=step,
            max_steps=self.max_steps,
            num_train_epochs=self.num_epochs,
            log_history=self.log_history,
            best_metric=self.best_metric,
            best_global_step=self.best_step,
        )
