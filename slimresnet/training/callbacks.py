"""Who is told what happens in training: callbacks as transformers' Trainer has them."""

from collections.abc import Sequence
from functools import partial

import torch
from accelerate import Accelerator
from torch import nn
from transformers.trainer_callback import TrainerCallback, TrainerControl

from slimresnet.recipe.settings import Recipe
from slimresnet.training.state.progress import Progress


class Callbacks:
    """
    Calls the methods of `transformers.TrainerCallback` by their names: `callbacks.on_epoch_end(logs=…)`.

    Each method gets the recipe in the place of the `TrainingArguments`, a `TrainerState`, a `TrainerControl`, and by
    name the `model` and what the event brings:

    - `on_init_end`: data and network are ready, nothing is written yet.
    - `on_train_begin`, `on_train_end`: the first step comes; the last one is done.
    - `on_epoch_begin`, `on_epoch_end`: the latter's `logs` are the entry of `log_history`.
    - `on_step_begin`, `on_step_end`: around a step of the optimiser.
    - `on_substep_end`: after each batch; `inputs` are those of the network.
    - `on_evaluate`: `metrics` are those of validation, and may be changed.
    - `on_log`: `logs` is what the trackers get. The state's `global_step` is the step that `logs` is about. One GPU
      tells of a step `logging_steps` later, or at the end of its epoch.
    - `on_save`: a checkpoint is written.

    Of the control `should_training_stop` is obeyed, at the end of an epoch.
    """

    def __init__(
        self,
        callbacks: Sequence[TrainerCallback | type[TrainerCallback]],
        recipe: Recipe,
        accelerator: Accelerator,
        progress: Progress,
        model: nn.Module,
    ):
        self._callbacks = [each() if isinstance(each, type) else each for each in callbacks]
        self._recipe, self._accelerator = recipe, accelerator
        self._progress, self._model, self._control = progress, model, TrainerControl()

    def __getattr__(self, event: str) -> partial[None]:
        if not event.startswith("on_"):
            raise AttributeError(event)
        return partial(self._call, event)

    def _call(self, event: str, at_step: int | None = None, **facts) -> None:
        if not self._callbacks:
            return
        state = self._progress.trainer_state(at_step)
        state.is_local_process_zero = self._accelerator.is_local_main_process
        state.is_world_process_zero = self._accelerator.is_main_process
        for callback in self._callbacks:
            returned = getattr(callback, event)(self._recipe, state, self._control, model=self._model, **facts)
            self._control = returned or self._control

    def ask_to_stop(self) -> bool:
        """Whether a callback of any process wants training to stop. Every process has to ask."""
        if self._accelerator.num_processes == 1:
            return self._control.should_training_stop
        wanted = torch.tensor(float(self._control.should_training_stop), device=self._accelerator.device)
        return bool(self._accelerator.reduce(wanted).item())
