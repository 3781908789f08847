"""The training loop."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from slimresnet.data.loader import TrainingBatch, TrainingLoader
from slimresnet.errors import SlimResNetError
from slimresnet.recipe.settings import Recipe
from slimresnet.training.optim.optimizer import build_optimizer, schedule, set_learning_rates
from slimresnet.training.optim.sam import is_sharpness_aware
from slimresnet.training.state.checkpoints import Checkpoints
from slimresnet.training.state.fingerprint import RunFingerprint
from slimresnet.training.state.preemption import StopRequest
from slimresnet.training.state.progress import Progress
from slimresnet.training.state.state import TrainingState
from slimresnet.training.step import build_step


class DivergedError(SlimResNetError):
    """The loss, a weight or a logit is no longer a number; the message has the step and the learning rate."""

    def __init__(self, what: str, step: int, recipe: Recipe, max_steps: int):
        rate = recipe.learning_rate * schedule(recipe, step - 1, max_steps)
        super().__init__(
            f"{what} at a learning rate of {rate:.4g}: lower --learning_rate or add --warmup_steps. "
            "Checkpoints written before are kept."
        )


def fit(
    recipe: Recipe,
    accelerator: Accelerator,
    model: nn.Module,
    loader: TrainingLoader,
    make_inputs: Callable[[Iterator[TrainingBatch]], Iterator[dict[str, Tensor]]],
    evaluate: Callable[[nn.Module], dict[str, float]] | None,
    output_dir: Path,
    identity: RunFingerprint,
    checkpoint: Path | None,
    progress: Progress,
) -> dict[str, Tensor]:
    """
    Trains `model`, which stands on its device.

    Args:
        make_inputs: makes the keyword arguments of the model, batch by batch.
        evaluate: gives `loss` and `accuracy` of a model on validation; None where there is no validation.
        output_dir: where checkpoints go.
        identity: what they are checkpoints of.
        checkpoint: where to go on from; None to start anew.
        progress: of a run that is about to begin; filled in on the way.

    Returns:
        The weights to keep: averaged if the recipe averages; best on validation or last, as it says.

    Raises:
        DivergedError: the loss or a weight is not finite; no checkpoint has such a weight.
        CheckpointError: the checkpoint cannot be loaded, or one cannot be written.
        InterruptedRun: SIGTERM or SIGINT came; a checkpoint of the step that was at work is written.
    """
    steps_per_epoch, max_steps = progress.steps_per_epoch, progress.max_steps

    # A copy of the plain model: prepare() changes the forward of the original in place.
    averaged = None
    if recipe.ema_decay:
        averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)
    candidate = averaged.module if averaged else model  # the weights that are chosen among and kept
    modules = [model, candidate] if averaged else [model]  # in the same order on every process
    prepared, optimizer = accelerator.prepare(model, build_optimizer(model, recipe))
    learn = build_step(recipe, accelerator, model, prepared, optimizer)

    state = TrainingState(model, optimizer, progress, averaged, accelerator.scaler)
    checkpoints = Checkpoints(accelerator, state, output_dir, identity, keep=recipe.save_total_limit)
    if checkpoint is not None:
        checkpoints.load(checkpoint, progress)
        accelerator.print(f"resumed from {checkpoint} at step {progress.global_step} of {max_steps}")

    # disable=None: no bar where the output is no terminal, where the line an epoch says it all.
    bar = tqdm(
        total=max_steps,
        initial=progress.global_step,
        disable=None if accelerator.is_main_process else True,
        unit="step",
    )
    # Closed whatever ends the loop, so that the workers of an epoch end with it.
    with StopRequest(accelerator) as stop_request, ExitStack() as epochs:
        while progress.global_step < max_steps:
            epoch, first_step = divmod(progress.global_step, steps_per_epoch)
            last_step = min(steps_per_epoch, max_steps - epoch * steps_per_epoch)
            batches = make_inputs(epochs.enter_context(closing(loader.epoch(epoch, first_step))))
            sharpness_aware = is_sharpness_aware(recipe, epoch, progress.num_epochs)
            model.train()
            unchecked: list[Tensor] = []  # losses since the last look at them, which has to wait for the device
            epoch_started = looked_at = time.perf_counter()
            data_time = 0.0  # seconds that steps waited for their inputs

            for step in range(first_step, last_step):
                share = schedule(recipe, progress.global_step, max_steps)
                rate = recipe.learning_rate * share
                set_learning_rates(optimizer, share)
                for _ in range(recipe.gradient_accumulation_steps):
                    waited_from = time.perf_counter()
                    inputs = next(batches)
                    data_time += time.perf_counter() - waited_from
                    unchecked.append(learn(inputs, sharpness_aware))
                if averaged:
                    averaged.update_parameters(model)
                progress.global_step += 1
                bar.update()

                ends_epoch = step + 1 == last_step
                logs = ends_epoch or progress.global_step % recipe.logging_steps == 0
                stops = stop_request.is_made(waits_for_device=logs)
                # At the end of an epoch the checkpoint follows validation, to have its result.
                saves = not ends_epoch and (stops or _is_checkpointed(recipe, progress.global_step))
                if logs or saves:
                    losses = _mean_losses(unchecked, accelerator, recipe)
                    unchecked.clear()
                    _check_finite(losses, progress.global_step, recipe, max_steps)
                    for loss in losses:  # one by one, so that the sum does not depend on where it is looked at
                        progress.epoch_loss_sum += loss
                    now = time.perf_counter()
                    speed = len(losses) * loader.total_batch_size / (now - looked_at)
                    progress.train_runtime += now - looked_at
                    bar.set_postfix_str(f"loss {losses[-1]:.4f}, learning rate {rate:.4g}, {speed:.0f} images/s")
                    accelerator.log(
                        {"loss": losses[-1], "learning_rate": rate, "train_samples_per_second": speed},
                        step=progress.global_step,
                    )
                    if saves:
                        _check_weights(modules, accelerator, progress.global_step, recipe, max_steps)
                        checkpoints.save(progress.trainer_state())
                    if stops and not ends_epoch:
                        raise stop_request.stop(progress.global_step)
                    looked_at = time.perf_counter()

            seconds = time.perf_counter() - epoch_started
            entry = {
                "epoch": progress.global_step / steps_per_epoch,
                "step": progress.global_step,
                "learning_rate": rate,
                "loss": progress.epoch_loss_sum / last_step,
                "train_samples_per_second": (last_step - first_step) * loader.total_batch_size / seconds,
                "data_time": data_time / seconds,
            }
            progress.epoch_loss_sum = 0.0
            # Each process has BatchNorm statistics of its own share. Those of the first are the model's, as in
            # DistributedDataParallel, so that all processes score the weights that are saved.
            for module in modules:
                broadcast(list(module.buffers()))
            _check_weights(modules, accelerator, progress.global_step, recipe, max_steps)
            if evaluate is not None:
                entry |= {f"eval_{name}": value for name, value in evaluate(model).items()}
                if averaged:
                    entry |= {f"eval_{name}_ema": value for name, value in evaluate(candidate).items()}
                accuracy = entry["eval_accuracy_ema" if averaged else "eval_accuracy"]
                if progress.best_accuracy is None or accuracy > progress.best_accuracy:
                    progress.best_accuracy, progress.best_step = accuracy, progress.global_step
                    if recipe.load_best_model_at_end:
                        progress.best_weights = _copy(candidate)
            progress.log_history.append(entry)
            accelerator.log({name: value for name, value in entry.items() if name != "step"}, step=progress.global_step)
            if accelerator.is_main_process:
                tqdm.write(f"epoch {epoch + 1}/{progress.num_epochs}: {_describe(entry)}, {seconds:.0f} s")
            stops = stop_request.is_made(waits_for_device=True)
            if stops or recipe.checkpointing_steps == "epoch" or _is_checkpointed(recipe, progress.global_step):
                checkpoints.save(progress.trainer_state())
            if stops:
                raise stop_request.stop(progress.global_step)
    bar.close()

    weights = progress.best_weights if recipe.load_best_model_at_end else _copy(candidate)
    return weights


def _is_checkpointed(recipe: Recipe, global_step: int) -> bool:
    return recipe.checkpointing_steps.isdecimal() and global_step % int(recipe.checkpointing_steps) == 0


def _mean_losses(losses: list[Tensor], accelerator: Accelerator, recipe: Recipe) -> list[float]:
    """A number a step: the mean over its accumulated batches and over processes."""
    means = accelerator.reduce(torch.stack(losses).float(), reduction="mean")
    return means.view(-1, recipe.gradient_accumulation_steps).mean(dim=1).tolist()


def _check_finite(losses: list[float], last_step: int, recipe: Recipe, max_steps: int) -> None:
    for step, loss in enumerate(losses, start=last_step - len(losses) + 1):
        if not math.isfinite(loss):
            raise DivergedError(f"the loss of step {step} is {loss}", step, recipe, max_steps)


def _check_weights(
    modules: list[nn.Module], accelerator: Accelerator, step: int, recipe: Recipe, max_steps: int
) -> None:
    """A step may break the weights behind a finite loss; BatchNorm's statistics of any process count for all."""
    values = [value for module in modules for value in module.state_dict().values()]
    broken = torch.stack([~value.isfinite().all() for value in values]).any()
    if accelerator.reduce(broken.float()).item():
        raise DivergedError(f"weights are NaN or infinite after step {step}", step, recipe, max_steps)


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone().cpu() for name, value in model.state_dict().items()}


def _describe(entry: dict[str, float]) -> str:
    text = f"loss {entry['loss']:.4f}, learning rate {entry['learning_rate']:.4g}"
    if "eval_accuracy" in entry:
        text += f", validation loss {entry['eval_loss']:.4f}, accuracy {entry['eval_accuracy']:.2%}"
    if "eval_accuracy_ema" in entry:
        text += f" (averaged weights {entry['eval_accuracy_ema']:.2%})"
    return f"{text}, {entry['train_samples_per_second']:.0f} images/s, {entry['data_time']:.1%} waiting for data"
