"""Training, from a recipe to a finished folder."""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import TrainerCallback

from modeling_slimresnet import SlimResNetForImageClassification
from slimresnet.data.inputs import build_image_processor
from slimresnet.data.loader import Loading, TrainingBatch, load_batches
from slimresnet.data.randomness import Draws
from slimresnet.evaluation.logits import predict_logits
from slimresnet.evaluation.plots import draw, plot_curves, plot_learning_rate, plot_training_samples, split_pictures
from slimresnet.evaluation.rows import training_facts
from slimresnet.evaluation.temperature import LEAST_IMAGES, SEARCHED_TEMPERATURES
from slimresnet.formats.trained import ModelError
from slimresnet.hub.card import renew_model_card, say_if_edited, write_model_card
from slimresnet.hub.files import collect
from slimresnet.hub.upload import create_repository, upload
from slimresnet.hub_errors import HubError
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.launch import process_left_as_it_was
from slimresnet.recipe.settings import Recipe
from slimresnet.run_folder.changes import change
from slimresnet.run_folder.names import (
    CARD_NAME,
    CLASS_WEIGHTS_NAME,
    CURVES_PICTURE,
    DETAILS_SUFFIX,
    FIGURES_FOLDER,
    LEARNING_RATE_PICTURE,
    RECIPE_NAME,
    RESULTS_NAME,
    TRAINER_STATE_NAME,
    TRAINING_SAMPLES_PICTURE,
)
from slimresnet.run_folder.writing import FolderError, write_json
from slimresnet.training.callbacks import Callbacks
from slimresnet.training.choosing import Scored, score_finished
from slimresnet.training.flops import total_flos
from slimresnet.training.loop import TrainingLoop, stops_early
from slimresnet.training.network import build_network
from slimresnet.training.optim.schedule import learning_rates
from slimresnet.training.output_dir import check_output_dir, checkpoint_home, finished_files, owned_output_dir
from slimresnet.training.run import Run, prepare_run
from slimresnet.training.trackers import running_trackers


@dataclass(frozen=True)
class TrainResult:
    """
    What a run came to.

    Attributes:
        folder: the finished run, which `AutoModelForImageClassification.from_pretrained` opens.
        results: the content of its `all_results.json`: accuracies in 0–1, times in seconds.
        model: the network that was scored and saved, on the CPU, in evaluation mode.
    """

    folder: Path
    results: dict
    model: SlimResNetForImageClassification


def train(recipe: Recipe, callbacks: Sequence[TrainerCallback | type[TrainerCallback]] = ()) -> TrainResult:
    """
    Trains, scores once on the test split, and writes the output folder, which is this run's alone until the end.

    `train` may be called again, from any folder, in a notebook too: it leaves threads, environment, random states and
    accelerate's state as they were. Under `accelerate launch` every process calls it.

    Args:
        callbacks: transformers' `TrainerCallback`s, the same on every process; `training.callbacks.Callbacks` lists the
            events and what each brings.

    Raises:
        SlimResNetError: what was asked for cannot be; one sentence says why, and what to do. What the folder held is as
            it was.
        InterruptedRun: SIGTERM or SIGINT came; a checkpoint is written.
    """
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"train takes a Recipe, got {type(recipe).__name__}: Recipe(learning_rate=0.1, …) makes one.")
    with process_left_as_it_was(), ExitStack() as until_the_end:
        output_dir = check_output_dir(recipe)
        checkpoints_dir = checkpoint_home(recipe, output_dir)
        run = prepare_run(recipe, output_dir, checkpoints_dir)
        events = Callbacks(callbacks, recipe, run.accelerator, run.progress, run.model)
        events.on_init_end()
        if run.plan.torch_compile:
            until_the_end.callback(torch.compiler.reset)  # after some runs PyTorch would compile no more
        if run.accelerator.is_main_process:
            until_the_end.enter_context(owned_output_dir(recipe, output_dir, checkpoints_dir))
            if recipe.push_to_hub and recipe.hub_model_id:
                create_repository(recipe.hub_model_id)  # a token without rights is better found before training
        run.accelerator.wait_for_everyone()
        run.accelerator.print(run.describe())
        settings = {name: str(value) for name, value in run.plan.settings.items()}
        until_the_end.enter_context(running_trackers(run.accelerator, output_dir, settings))
        weights = TrainingLoop(run, checkpoints_dir, events).fit()
        # What is scored is what is saved: these weights, in float32, in a network that training never touched, with the
        # head divided by the temperature. Checkpoints keep the weights as they were trained.
        final = build_network(run.plan, run.config, run.data.train.label_names).to(run.accelerator.device)
        final.load_state_dict(weights)
        scored = _score(run, final)
        results = _results(run, scored)
        tested = {
            name: value for name, value in results.items() if name.startswith("test_") and isinstance(value, float)
        }
        run.accelerator.log(tested, step=run.progress.global_step)
        final.cpu().eval()
        if run.accelerator.is_main_process:
            _finish(run, output_dir, checkpoints_dir, final, results, scored)
    return TrainResult(output_dir, results, final)


def _score(run: Run, final: SlimResNetForImageClassification) -> Scored:
    """Calibrates the network, and scores it."""
    try:
        return score_finished(
            run.plan.recipe, run.data, final, partial(predict_logits, **run.scoring), run.twin, bool(run.seen.facts())
        )
    except ModelError as error:
        raise run.diverged() from error


def _results(run: Run, scored: Scored) -> dict:
    """What `all_results.json` says of the run."""
    progress, plan, accelerator = run.progress, run.plan, run.accelerator
    devices = list(dict.fromkeys([*progress.earlier_devices, run.fingerprint.device_name]))
    results = {
        "epoch": progress.trainer_state().epoch,
        "train_ended_by": _ended_by(run),
        "train_loss": progress.log_history[-1]["loss"],
        "train_runtime": progress.train_runtime,
        "total_flos": total_flos(plan.recipe, run.config, progress, plan.images_per_step, run.teachers, run.frozen),
        "train_samples": len(run.data.train_rows),
        "train_batch_size": plan.batch.total,
        "train_precision": "float32" if plan.mixed_precision == "no" else plan.mixed_precision,
        "train_device": ", then ".join(devices),
        "train_num_processes": accelerator.num_processes,
        **training_facts(plan.recipe, run.data),
        **run.seen.facts(),
        **scored.results,
    }
    if run.class_weights:
        results["train_class_weights"] = run.class_weights.asked
    if run.pretrained:
        results |= run.pretrained.facts(run.data.train.label_names)
    if run.teachers:
        results["train_teacher"] = ",".join(teacher.name for teacher in run.teachers)
        results["train_teacher_is_local"] = any(teacher.is_local for teacher in run.teachers)
        results["train_teacher_parameters"] = sum(teacher.num_parameters for teacher in run.teachers)
    if len(devices) == 1:  # a speed on two machines is that of neither
        results["train_samples_per_second"] = progress.global_step * plan.images_per_step / progress.train_runtime
    return results


def _ended_by(run: Run) -> str:
    """What ended training: the setting that did, or a callback."""
    recipe, progress = run.plan.recipe, run.progress
    if progress.global_step < progress.max_steps:
        return "early_stopping_patience" if stops_early(recipe, progress) else "callback"
    return "num_train_epochs" if recipe.max_train_steps is None else "max_train_steps"


def _finish(
    run: Run,
    output_dir: Path,
    checkpoints_dir: Path,
    final: SlimResNetForImageClassification,
    results: dict,
    scored: Scored,
) -> None:
    """Writes the folder, tells of it, and brings it to the Hub where the recipe says so. On one process."""
    recipe = run.plan.recipe
    with finished_files(output_dir, checkpoints_dir) as made:
        _write_files(made.files, run, final, results, scored.details)
        write_model_card(made, output_dir)
    say_if_edited(output_dir / CARD_NAME)
    _add_pictures(output_dir, _pictures(run, scored))
    if results["train_ended_by"] == "early_stopping_patience":
        print(_describe_early_stop(run))
    main = run.data.test.task.main_score
    print(f"test {main.replace('_', ' ')} {results[f'test_{main}']:.2%} on {results['test_samples']:,} images")
    if results["test_tta"] != "none":
        print(f"  with test-time augmentation, {results['test_tta']}: {results[f'test_{main}_tta']:.2%}")
    if run.data.test.task.is_multi_label:
        print(_describe_threshold(run, results))
    print(_describe_calibration(run, results))
    print(f"saved to {output_dir}; load it with")
    print(f'  AutoModelForImageClassification.from_pretrained("{output_dir}", trust_remote_code=True)')
    if recipe.push_to_hub and recipe.hub_model_id:
        try:
            print(upload(collect(output_dir, recipe.hub_model_id), recipe.hub_model_id))
        except HubError as error:
            raise HubError(
                f"{error} A finished run is pushed by python push_to_hub.py DIR --repo_id user/name."
            ) from error


def _describe_early_stop(run: Run) -> str:
    """When training stopped, and which weights that leaves."""
    recipe, progress = run.plan.recipe, run.progress
    kept = "whose weights are kept" if recipe.load_best_model_at_end else "but the last weights are kept: "
    kept += "" if recipe.load_best_model_at_end else "--load_best_model_at_end keeps the best"
    epoch, best = (-(-step // progress.steps_per_epoch) for step in (progress.global_step, progress.best_step or 0))
    return (
        f"stopped early behind epoch {epoch} of {progress.num_epochs}: {progress.epochs_without_improvement} without a "
        f"better {recipe.metric_for_best_model.replace('_', ' ')}; epoch {best} was the best, {kept}"
    )


def _describe_threshold(run: Run, results: dict) -> str:
    """From which probability on a class is given, where that is from, and what comes of it."""
    held_out = len(run.data.validation_rows)
    chosen = f"the best on {held_out:,} held-out images" if held_out else "as no images were held out to choose it on"
    return (
        f"classes are given from a probability of {results['test_threshold_f1']:.3f} on, {chosen}: micro F1 "
        f"{results['test_micro_f1']:.2%}, macro F1 {results['test_macro_f1']:.2%}, all classes right for "
        f"{results['test_exact_match']:.2%} of the test images"
    )


def _describe_calibration(run: Run, results: dict) -> str:
    """What became of the calibration, and why."""
    error = "test_expected_calibration_error"
    if (temperature := results.get("calibration_temperature")) is not None:
        if run.data.test.task.is_multi_label:
            loss, before = results["test_loss"], results["test_loss_uncalibrated"]
            return f"calibrated: head divided by {temperature:.3f}, test loss {loss:.4f}, before {before:.4f}"
        was = results[f"{error}_uncalibrated"]
        return (
            f"calibrated: head divided by {temperature:.3f}, calibration error {results[error]:.2%}, before {was:.2%}"
        )
    num_held_out = len(run.data.validation_rows)
    if num_held_out and run.seen.facts():
        return (
            "not calibrated: held-out images were seen in training by what it starts from or by a teacher; hold the "
            "images out that these held out, or give --temperature"
        )
    if 0 < num_held_out < LEAST_IMAGES:
        return (
            f"not calibrated: {num_held_out} held-out images are too few, of at least {LEAST_IMAGES}; raise "
            "--validation_size, or give --temperature"
        )
    if num_held_out:
        low, high = SEARCHED_TEMPERATURES
        return (
            f"not calibrated: no temperature within {low:.2f} and {high:.0f} is best on the "
            f"{num_held_out:,} held-out images; raise --validation_size, or give --temperature"
        )
    return "not calibrated: no images were held out; --calibration_run takes the temperature of a run that had some"


def _write_files(
    folder: Path, run: Run, model: SlimResNetForImageClassification, results: dict, details: dict[str, dict]
) -> None:
    """The files of a finished run, but for its pictures and its card."""
    model.save_pretrained(folder)
    build_image_processor(run.plan.recipe, model.config).save_pretrained(folder)
    (folder / RECIPE_NAME).write_text(run.plan.portable_recipe().to_yaml(), encoding="utf-8")
    if run.class_weights and run.class_weights.given:
        write_json(folder / CLASS_WEIGHTS_NAME, run.class_weights.given)
    run.progress.trainer_state().save_to_json(str(folder / TRAINER_STATE_NAME))
    for prefix, content in details.items():
        write_json(folder / f"{prefix}{DETAILS_SUFFIX}", content)
    write_json(folder / RESULTS_NAME, results)


def _add_pictures(output_dir: Path, pictures: dict[str, Callable[[Path], None]]) -> None:
    """Draws them into a finished folder, and its card anew: no picture stands between the weights and the disk."""
    try:
        with change(output_dir) as made:
            draw(pictures, made.files / FIGURES_FOLDER)
            renew_model_card(made, output_dir)
    except (FolderError, ModelError) as error:
        print(f"the run is saved, but without its pictures: {error}", file=sys.stderr)


def _pictures(run: Run, scored: Scored) -> dict[str, Callable[[Path], None]]:
    """The pictures of a finished run, for `draw`."""
    recipe, progress, data = run.plan.recipe, run.progress, run.data
    steps = range(progress.global_step)
    rates = [learning_rates(recipe, step, progress.max_steps) for step in steps]
    lines = {name: np.array([rate[name] for rate in rates]) for name in rates[0]}
    return {
        CURVES_PICTURE: partial(plot_curves, progress.log_history),
        LEARNING_RATE_PICTURE: partial(plot_learning_rate, np.array(steps) / progress.steps_per_epoch, lines),
        **split_pictures("test", data.test, data.test_rows, scored.test_logits, scored.details["test"]),
        TRAINING_SAMPLES_PICTURE: partial(_draw_training_samples, run),
    }


def _draw_training_samples(run: Run, path: Path) -> None:
    """The first images of the last epoch with all augmentations, the first copy of each."""
    recipe, data, epoch = run.plan.recipe, run.data, run.inputs.last_full_epoch
    rows = run.loader.order(epoch)[:16]
    [(pixels, labels)] = load_batches(data.train, [rows], Loading(torch.device("cpu")))
    inputs = run.inputs(TrainingBatch(pixels, labels, Draws(recipe.seed, epoch, first=0, samples=rows)))
    seen = run.inputs.denormalize(inputs["pixel_values"])
    names = data.train.label_names
    floor = recipe.label_smoothing_factor * data.train.task.chance(len(names))
    plot_training_samples(pixels, seen, inputs["labels"], names, path, floor)
