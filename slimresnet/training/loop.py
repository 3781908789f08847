"""The training loop."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import torch
from accelerate.utils import broadcast
from torch import Tensor, nn
from tqdm.auto import tqdm

from slimresnet.data.feed import training_inputs
from slimresnet.data.task import TASKS
from slimresnet.recipe.settings import Recipe
from slimresnet.training.averaged_weights import AveragedWeights
from slimresnet.training.averaging import prepare_network
from slimresnet.training.bookkeeping import DivergedError, Meter
from slimresnet.training.callbacks import Callbacks
from slimresnet.training.freezing import keep_statistics
from slimresnet.training.objective import build_objective
from slimresnet.training.optim.optimizer import build_optimizer, set_learning_rates
from slimresnet.training.optim.sam import is_sharpness_aware
from slimresnet.training.optim.schedule import learning_rates, schedule
from slimresnet.training.run import Run
from slimresnet.training.state.checkpoints import Checkpoints
from slimresnet.training.state.preemption import StopRequest
from slimresnet.training.state.progress import Progress
from slimresnet.training.state.state import TrainingState
from slimresnet.training.step import build_train_step


class TrainingLoop:
    """
    Trains the network of a run, epoch by epoch.

    Args:
        run: whose network stands on its device; its progress is filled in on the way.
        checkpoints_dir: folder that checkpoints go to.
        callbacks: told what happens.
    """

    def __init__(self, run: Run, checkpoints_dir: Path, callbacks: Callbacks):
        self._run, self._recipe, self._progress = run, run.plan.recipe, run.progress
        self._accelerator, self._model, self._callbacks = run.accelerator, run.model, callbacks
        self._averaged = AveragedWeights(run) if self._recipe.ema_decay else None
        # The weights that are chosen among and kept.
        self._candidate: nn.Module = self._averaged.module if self._averaged else self._model
        # In the same order on every process.
        self._modules = [self._model, self._candidate] if self._averaged else [self._model]
        prepared = prepare_network(run.plan, self._accelerator, self._model)
        self._optimizer = self._accelerator.prepare(build_optimizer(self._model, self._recipe))
        objective = build_objective(run.plan, self._accelerator, run.teachers, run.class_weights)
        self._train_step = build_train_step(
            run.plan, self._accelerator, self._model, prepared, self._optimizer, objective
        )
        averaged = self._averaged.model if self._averaged else None
        state = TrainingState(self._model, self._optimizer, self._progress, averaged, self._accelerator.scaler)
        self._checkpoints = Checkpoints(
            self._accelerator, state, checkpoints_dir, run.fingerprint, keep=self._recipe.save_total_limit
        )

    def fit(self) -> dict[str, Tensor]:
        """
        Trains to the end of the run, or until it stops early, or a callback asks to stop.

        Returns:
            The weights to keep: those of the last epoch, or of the best one on validation where the recipe sets
            `load_best_model_at_end`. They are the averaged weights where the recipe sets `ema_decay`.

        Raises:
            DivergedError: the loss or a weight is not finite; no checkpoint has such a weight.
            CheckpointError: the checkpoint cannot be loaded, or one cannot be written.
            InterruptedRun: SIGTERM or SIGINT came; a checkpoint of the step that was at work is written.
        """
        progress = self._progress
        if self._run.checkpoint is not None:
            self._checkpoints.load(self._run.checkpoint, progress)
            self._accelerator.print(
                f"resumed from {self._run.checkpoint} at step {progress.global_step} of {progress.max_steps}"
            )
        # disable=None: no bar where the output is no terminal, where the line an epoch says it all.
        self._bar = tqdm(
            total=progress.max_steps,
            initial=progress.global_step,
            disable=None if self._accelerator.is_main_process else True,
            unit="step",
        )
        batches = training_inputs(self._run.loader, self._run.inputs, progress.global_step, progress.max_steps)
        # Batches are closed whatever ends the run, so that their workers end with it.
        with StopRequest(self._accelerator) as self._stop_request, closing(self._bar), closing(batches):
            self._callbacks.on_train_begin()
            # A run that is resumed behind its last epoch, an early one too, has nothing left to train.
            while progress.global_step < progress.max_steps and not stops_early(self._recipe, progress):
                self._train_epoch(batches)
                if self._callbacks.ask_to_stop():
                    break
            self._callbacks.on_train_end()
        if self._recipe.load_best_model_at_end and progress.best_weights is not None:
            return progress.best_weights
        if self._averaged:
            self._averaged.complete()
        return _copy(self._candidate)

    def _train_epoch(self, batches: Iterator[dict[str, Tensor]]) -> None:
        """The rest of the epoch that the run stands in, its end included."""
        progress = self._progress
        epoch, first_step = divmod(progress.global_step, progress.steps_per_epoch)
        last_step = min(progress.steps_per_epoch, progress.max_steps - epoch * progress.steps_per_epoch)
        sharpness_aware = is_sharpness_aware(self._recipe, epoch, progress.num_epochs)
        self._model.train()
        keep_statistics(self._model, self._run.frozen)
        self._callbacks.on_epoch_begin()
        meter = Meter(self._recipe, self._accelerator, progress, self._run.plan.images_per_step)
        for step in range(first_step, last_step):
            self._take_step(batches, sharpness_aware, meter)
            self._after_step(meter, ends_epoch=step + 1 == last_step)
        self._end_epoch(epoch, last_step, meter)

    def _take_step(self, batches: Iterator[dict[str, Tensor]], sharpness_aware: bool, meter: Meter) -> None:
        """One step of the optimiser."""
        progress = self._progress
        self._callbacks.on_step_begin()
        set_learning_rates(self._optimizer, schedule(self._recipe, progress.global_step, progress.max_steps))
        for _ in range(self._recipe.gradient_accumulation_steps):
            with meter.waiting():
                inputs = next(batches)
            meter.took(self._train_step(inputs, sharpness_aware))
            self._callbacks.on_substep_end(inputs=inputs)
        if self._averaged:
            self._averaged.update()
        progress.global_step += 1
        self._bar.update()
        self._callbacks.on_step_end()

    def _after_step(self, meter: Meter, ends_epoch: bool) -> None:
        """Logs, saves and stops, where it is time to."""
        progress = self._progress
        logs = ends_epoch or progress.global_step % self._recipe.logging_steps == 0
        stops = self._stop_request.is_made(waits_for_device=logs)
        # At the end of an epoch the checkpoint follows validation, to have its result.
        saves = not ends_epoch and (stops or self._is_checkpointed())
        if not (logs or saves):
            return
        for step, seen in meter.look(waits=ends_epoch or saves):
            self._log(step, seen | learning_rates(self._recipe, step - 1, progress.max_steps))
        if saves:
            self._check_weights()
            self._save()
        if stops and not ends_epoch:
            raise self._stop_request.stop(progress.global_step)
        meter.go_on()

    def _log(self, step: int, logs: dict[str, float]) -> None:
        """Tells what a look at the steps up to `step` has read."""
        self._bar.set_postfix_str(
            "loss {loss:.4f}, learning rate {learning_rate:.4g}, {train_samples_per_second:.0f} images/s".format(**logs)
        )
        self._accelerator.log(logs, step=step)
        self._callbacks.on_log(at_step=step, logs=logs)

    def _end_epoch(self, epoch: int, steps_done: int, meter: Meter) -> None:
        """Validates, keeps the books, saves."""
        progress, seconds = self._progress, meter.seconds
        entry: dict[str, float] = {
            "epoch": progress.global_step / progress.steps_per_epoch,
            "step": progress.global_step,
            **learning_rates(self._recipe, progress.global_step - 1, progress.max_steps),
            "loss": progress.epoch_loss_sum / steps_done,
            **meter.summary(),
        }
        progress.epoch_loss_sum = 0.0
        # Each process has BatchNorm statistics of its own share. Those of the first are the model's, as in
        # DistributedDataParallel, so that all processes score the weights that are saved.
        for module in self._modules:
            broadcast(list(module.buffers()))
        self._check_weights()
        if (validate := self._run.validate) is not None:
            entry |= self._validate(validate)
        progress.log_history.append(entry)
        logged = {name: value for name, value in entry.items() if name != "step"}
        self._accelerator.log(logged, step=progress.global_step)
        if self._accelerator.is_main_process:
            described = _describe(entry, self._recipe.metric_for_best_model)
            tqdm.write(f"epoch {epoch + 1}/{progress.num_epochs}: {described}, {seconds:.0f} s")
        self._callbacks.on_epoch_end(logs=entry)
        stops = self._stop_request.is_made(waits_for_device=True)
        if stops or self._recipe.checkpointing_steps == "epoch" or self._is_checkpointed():
            self._save()
        if stops:
            raise self._stop_request.stop(progress.global_step)

    def _validate(self, validate: Callable[[nn.Module], dict[str, float]]) -> dict[str, float]:
        """Scores the weights, and the averaged ones beside them; remembers the best."""
        progress = self._progress
        metrics = {f"eval_{name}": value for name, value in validate(self._model).items()}
        if self._averaged:
            self._averaged.complete()
            metrics |= {f"eval_{name}_ema": value for name, value in validate(self._candidate).items()}
        self._callbacks.on_evaluate(metrics=metrics)
        name = self._recipe.metric_for_best_model
        is_best = progress.take_validation(
            metrics[f"eval_{name}_ema" if self._averaged else f"eval_{name}"],
            lower_is_better=name == "loss",
            threshold=self._recipe.early_stopping_threshold,
        )
        if is_best and self._recipe.load_best_model_at_end:
            progress.best_weights = _copy(self._candidate)
        return metrics

    def _is_checkpointed(self) -> bool:
        steps = self._recipe.checkpointing_steps
        return steps.isdecimal() and self._progress.global_step % int(steps) == 0

    def _save(self) -> None:
        self._checkpoints.save(self._progress.trainer_state())
        self._callbacks.on_save()

    def _check_weights(self) -> None:
        """A step may break the weights behind a finite loss; BatchNorm's statistics of any process count for all."""
        values = [value for module in self._modules for value in module.state_dict().values()]
        broken = torch.stack([~value.isfinite().all() for value in values]).any()
        if self._accelerator.reduce(broken.float()).item():
            step = self._progress.global_step
            raise DivergedError(
                f"weights are NaN or infinite after step {step}", step, self._recipe, self._progress.max_steps
            )


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone().cpu() for name, value in model.state_dict().items()}


def stops_early(recipe: Recipe, progress: Progress) -> bool:
    """Whether the last validations were without an improvement, as many as `early_stopping_patience` says."""
    patience = recipe.early_stopping_patience
    return patience is not None and progress.epochs_without_improvement >= patience


def _describe(entry: dict[str, float], best_by: str) -> str:
    text = f"loss {entry['loss']:.4f}, learning rate {entry['learning_rate']:.4g}"
    main = next((task.main_score for task in TASKS if f"eval_{task.main_score}" in entry), None)
    if main:
        shown = dict.fromkeys([main, *([best_by] if best_by != "loss" else [])])
        scores = [f"{name.replace('_', ' ')} {entry[f'eval_{name}']:.2%}" for name in shown]
        text += f", validation loss {entry['eval_loss']:.4f}, {', '.join(scores)}"
    if f"eval_{main}_ema" in entry:
        text += f" (averaged weights {entry[f'eval_{main}_ema']:.2%})"
    return f"{text}, {entry['train_samples_per_second']:.0f} images/s, {entry['data_time']:.1%} waiting for data"
