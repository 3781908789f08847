"""Train a SlimResNet: accelerate launch train.py --config configuration/paper.yaml [--flag value …]"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers.utils.logging import disable_progress_bar

from modeling_slimresnet import SlimResNetForImageClassification
from slimresnet.data.inputs import TrainingInputs, build_image_processor
from slimresnet.data.loader import Loading, TrainingBatch, load_batches
from slimresnet.data.opening import TrainingData, build_training_loader, open_data
from slimresnet.data.randomness import Draws, sample_order
from slimresnet.data.sources.source import DatasetError
from slimresnet.evaluation.logits import predict_logits
from slimresnet.evaluation.plots import draw, plot_curves, plot_learning_rate, plot_training_samples, split_pictures
from slimresnet.evaluation.rows import HELD_OUT_PREFIX, TEST_PREFIX, TIMES_SCORED, rows_of_run, training_facts
from slimresnet.evaluation.scores import report_split, score
from slimresnet.evaluation.temperature import fit_temperature
from slimresnet.evaluation.tta import POLICIES, best_policy, compare_policies, views_of
from slimresnet.formats.trained import ModelError, fold_batchnorm
from slimresnet.hub.card import renew_model_card, say_if_edited, write_model_card
from slimresnet.hub.files import collect
from slimresnet.hub.upload import create_repository, upload
from slimresnet.hub_errors import HubError
from slimresnet.recipe.hardware import choose_channels_last, choose_cuda_graphs, choose_torch_compile
from slimresnet.recipe.launch import start_accelerator
from slimresnet.recipe.reading import parse_recipe
from slimresnet.recipe.settings import Recipe, RecipeError
from slimresnet.run_folder.changes import change
from slimresnet.run_folder.checkpoints import CheckpointError, find_checkpoint
from slimresnet.run_folder.console import tolerant_output
from slimresnet.run_folder.names import (
    CARD_NAME,
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
from slimresnet.training.flops import total_flos
from slimresnet.training.initialization import WHITENING_IMAGES, whiten_stem
from slimresnet.training.loop import DivergedError, fit
from slimresnet.training.network import build_network, load_network_config
from slimresnet.training.optim.optimizer import schedule
from slimresnet.training.output_dir import check_output_dir, checkpoint_home, finished_files, owned_output_dir
from slimresnet.training.state.fingerprint import RunFingerprint
from slimresnet.training.state.preemption import InterruptedRun
from slimresnet.training.state.progress import Progress


def run(recipe: Recipe) -> None:
    """Trains, scores once on the test split, writes the output folder, which is this run's alone until the end."""
    with ExitStack() as until_the_end:
        train(recipe, until_the_end)


def train(recipe: Recipe, until_the_end: ExitStack) -> None:
    """`run`, with what is to be given back at the end."""
    output_dir = check_output_dir(recipe)
    checkpoints = checkpoint_home(recipe, output_dir)
    config = load_network_config(recipe)
    accelerator, why_precision = start_accelerator(recipe)
    checkpoint = find_checkpoint(recipe.resume_from_checkpoint, checkpoints, say=accelerator.print)
    loading = Loading(
        accelerator.device, accelerator.process_index, accelerator.num_processes, recipe.dataloader_num_workers
    )
    data = open_data(recipe, loading, config.image_size)
    loader = build_training_loader(recipe, data, loading, recipe.per_device_train_batch_size)
    progress = Progress(loader.steps_per_epoch, recipe.max_steps(loader.steps_per_epoch))
    layout = choose_channels_last(recipe.channels_last, accelerator.device.type, config)
    compiling = choose_torch_compile(
        recipe.torch_compile,
        accelerator.device.type,
        num_images=progress.max_steps * loader.total_batch_size,
        one_size=not recipe.progressive_resizing,
    )
    recipe.channels_last, recipe.torch_compile = layout.value, compiling.value
    graphs = choose_cuda_graphs(recipe, accelerator)
    recipe.cuda_graphs = graphs.value
    model = build_network(recipe, config, data.train.label_names).to(accelerator.device)
    make_inputs = TrainingInputs(recipe, config, progress.num_epochs)
    if recipe.stem_initialization == "whitening" and checkpoint is None:
        [(pixels, _)] = load_batches(data.train, [data.train_rows[:WHITENING_IMAGES]], loading)
        whiten_stem(model, make_inputs.normalize(pixels))
    scoring = {
        "loading": loading,
        "batch_size": recipe.per_device_eval_batch_size,
        "normalize": make_inputs.normalize,
    }

    def validate(model: nn.Module) -> dict[str, float]:
        with accelerator.autocast(), blaming_learning_rate(recipe, progress):
            return score(model, data.train, data.validation_rows, **scoring)

    identity = RunFingerprint.of(recipe, config, data, accelerator)
    if accelerator.is_main_process:
        until_the_end.enter_context(owned_output_dir(recipe, output_dir, checkpoints))
        if recipe.push_to_hub:
            create_repository(recipe.hub_model_id)  # a token without rights is better found before training
    accelerator.wait_for_everyone()
    accelerator.print(describe(recipe, accelerator, model, data))
    accelerator.print(
        f"speed    precision {recipe.mixed_precision} ({why_precision}), channels_last {layout.value} "
        f"({layout.reason}), torch_compile {compiling.value} ({compiling.reason}), cuda_graphs {graphs.value} "
        f"({graphs.reason})"
    )
    accelerator.init_trackers("slimresnet", config={name: str(value) for name, value in vars(recipe).items()})
    weights = fit(
        recipe,
        accelerator,
        model,
        loader,
        make_inputs.of,
        validate if len(data.validation_rows) else None,
        checkpoints,
        identity,
        checkpoint,
        progress,
    )

    # What is scored is what is saved: these weights, in float32, in a network that training never touched.
    final = build_network(recipe, config, data.train.label_names).to(accelerator.device)
    final.load_state_dict(weights)
    with blaming_learning_rate(recipe, progress):
        scored = score_finished(recipe, data, partial(predict_logits, fold_batchnorm(final), **scoring))
    devices = list(dict.fromkeys([*progress.earlier_devices, identity.device_name]))
    results = {
        "epoch": progress.trainer_state().epoch,
        "train_loss": progress.log_history[-1]["loss"],
        "train_runtime": progress.train_runtime,
        "total_flos": total_flos(recipe, config, progress),
        "train_samples": len(data.train_rows),
        "train_device": ", then ".join(devices),
        "train_num_processes": accelerator.num_processes,
        **training_facts(recipe, data),
        **scored.results,
    }
    if len(devices) == 1:  # a speed on two machines is that of neither
        results["train_samples_per_second"] = progress.global_step * loader.total_batch_size / progress.train_runtime
    tested = {name: value for name, value in results.items() if name.startswith("test_") and isinstance(value, float)}
    accelerator.log(tested, step=progress.global_step)
    if accelerator.is_main_process:
        with finished_files(output_dir, checkpoints) as made:
            write_finished(made.files, recipe, final, progress, results, scored.details)
            write_model_card(made, output_dir)
        say_if_edited(output_dir / CARD_NAME)
        add_pictures(output_dir, pictures_of(recipe, data, make_inputs, progress, scored))
        print(f"test accuracy {results['test_accuracy']:.2%} on {results['test_samples']:,} images")
        if recipe.tta != "none":
            print(f"  with test-time augmentation, {recipe.tta}: {results['test_accuracy_tta']:.2%}")
        print(f"saved to {output_dir}; load it with")
        print(f'  AutoModelForImageClassification.from_pretrained("{output_dir}", trust_remote_code=True)')
        if recipe.push_to_hub:
            print(upload(collect(output_dir, recipe.hub_model_id), recipe.hub_model_id))
    accelerator.end_training()


@contextmanager
def blaming_learning_rate(recipe: Recipe, progress: Progress) -> Iterator[None]:
    """
    What scoring says of a network in training.

    Raises:
        DivergedError: its logits are not finite.
    """
    try:
        yield
    except ModelError as error:
        step = progress.global_step
        raise DivergedError(
            f"logits are NaN or infinite after step {step}", step, recipe, progress.max_steps
        ) from error


class Scored(NamedTuple):
    """Figures for `all_results.json`, details by split, and the logits `[num_rows, num_labels]` of the test split."""

    results: dict
    details: dict[str, dict]
    test_logits: Tensor


def score_finished(recipe: Recipe, data: TrainingData, predict: Callable[..., dict[str, Tensor]]) -> Scored:
    """
    Chooses on validation what is left to choose, then scores the test split once.

    Fills in the recipe's `tta` and `temperature`: without validation images `auto` is none, and there is no scaling.
    """
    results, details = {}, {}
    held_out, test = rows_of_run(recipe, data)
    if len(data.validation_rows):
        chosen = {
            "epoch": recipe.load_best_model_at_end,
            "tta": recipe.tta == "auto",
            "temperature": recipe.temperature is None,
        }
        labels = data.train.labels[data.validation_rows]
        contenders = POLICIES if recipe.tta == "auto" else [recipe.tta]
        logits = predict(data.train, data.validation_rows, views=views_of(*contenders))
        accuracies = compare_policies(logits, labels) if recipe.tta == "auto" else None
        recipe.tta = best_policy(accuracies) if accuracies else recipe.tta
        recipe.temperature = recipe.temperature or fit_temperature(logits["original"], labels)
        results, details["eval"] = report_split(
            HELD_OUT_PREFIX, logits, labels, policy=recipe.tta, temperature=recipe.temperature
        )
        results |= held_out.facts(HELD_OUT_PREFIX)
        results["eval_precision"] = "float32"
        if chosen["temperature"]:
            results["temperature_samples"] = len(labels)
        if any(chosen.values()):
            results["eval_chose_samples"] = len(labels)
            results["eval_chose"] = ", ".join(name for name, was_chosen in chosen.items() if was_chosen)
        if accuracies:
            details["eval"]["tta"] = accuracies
    elif recipe.tta == "auto":
        recipe.tta = "none"
    logits = predict(data.test, data.test_rows, views=views_of(recipe.tta))
    labels = data.test.labels[data.test_rows]
    tested, details["test"] = report_split(
        TEST_PREFIX, logits, labels, policy=recipe.tta, temperature=recipe.temperature
    )
    tested |= test.facts(TEST_PREFIX) | {"test_precision": "float32", TIMES_SCORED: 1}
    if recipe.temperature:
        results["temperature"] = recipe.temperature
    return Scored(results | tested, details, logits["original"])


def write_finished(
    folder: Path,
    recipe: Recipe,
    model: SlimResNetForImageClassification,
    progress: Progress,
    results: dict,
    details: dict[str, dict],
) -> None:
    """Makes the files of a finished run, but for its pictures and its card."""
    model.cpu().save_pretrained(folder)
    build_image_processor(recipe, model.config).save_pretrained(folder)
    (folder / RECIPE_NAME).write_text(recipe.to_yaml(), encoding="utf-8")
    progress.trainer_state().save_to_json(str(folder / TRAINER_STATE_NAME))
    for prefix, content in details.items():
        write_json(folder / f"{prefix}{DETAILS_SUFFIX}", content)
    write_json(folder / RESULTS_NAME, results)


def add_pictures(output_dir: Path, pictures: dict[str, Callable[[Path], None]]) -> None:
    """Draws them into a finished folder, and its card anew: no picture stands between the weights and the disk."""
    try:
        with change(output_dir) as made:
            draw(pictures, made.files / FIGURES_FOLDER)
            renew_model_card(made, output_dir)
    except (FolderError, ModelError) as error:
        print(f"the run is saved, but without its pictures: {error}", file=sys.stderr)


def pictures_of(
    recipe: Recipe, data: TrainingData, make_inputs: TrainingInputs, progress: Progress, scored: Scored
) -> dict[str, Callable[[Path], None]]:
    """The pictures of a finished run, for `draw`."""
    steps = np.arange(progress.max_steps)
    rates = recipe.learning_rate * np.array([schedule(recipe, step, progress.max_steps) for step in steps])

    def draw_training_samples(path: Path) -> None:
        epoch = make_inputs.last_full_epoch
        order = sample_order(recipe.seed, epoch, len(data.train_rows), recipe.shuffle_buffer_size)
        rows = data.train_rows[order[:16]]
        [(pixels, labels)] = load_batches(data.train, [rows], Loading(torch.device("cpu")))
        inputs = make_inputs(TrainingBatch(pixels, labels, Draws(recipe.seed, epoch, first=0, samples=rows)))
        seen = make_inputs.denormalize(inputs["pixel_values"])
        plot_training_samples(pixels, seen, inputs["labels"], data.train.label_names, path)

    return {
        CURVES_PICTURE: partial(plot_curves, progress.log_history),
        LEARNING_RATE_PICTURE: partial(plot_learning_rate, steps / progress.steps_per_epoch, rates),
        **split_pictures("test", data.test, data.test_rows, scored.test_logits, scored.details["test"]),
        TRAINING_SAMPLES_PICTURE: draw_training_samples,
    }


def describe(recipe: Recipe, accelerator: Accelerator, model: nn.Module, data: TrainingData) -> str:
    """What is about to run, on what: the launch may have understood something else than was meant."""
    return (
        f"data     {recipe.dataset_name}: {len(data.train_rows):,} images to train on, {len(data.validation_rows):,} "
        f"for validation, {len(data.test_rows):,} to test on\n"
        f"network  {sum(parameter.numel() for parameter in model.parameters()):,} parameters\n"
        f"machine  processes: {accelerator.num_processes}, device: {accelerator.device.type}, "
        f"threads: {torch.get_num_threads()}\n"
        f"batch    {recipe.total_train_batch_size} images a step = {recipe.per_device_train_batch_size} "
        f"× {accelerator.num_processes} processes × {recipe.gradient_accumulation_steps} accumulated"
    )


@tolerant_output()
def main() -> None:
    """
    Runs. Exit code 0: finished; 1: a mistake in the input, told in one sentence by one process; 143 or 130: stopped
    by SIGTERM or SIGINT, from the first training step on behind a checkpoint.
    """
    disable_progress_bar()  # transformers': this script has one of its own
    try:
        run(parse_recipe())
    except (RecipeError, DatasetError, CheckpointError, DivergedError, FolderError) as error:
        leave(f"error: {error}", 1)
    except HubError as error:
        leave(f"error: {error} A finished run is pushed by python push_to_hub.py DIR --repo_id user/name.", 1)
    except InterruptedRun as stop:
        leave(str(stop), stop.exit_code)
    except KeyboardInterrupt:
        leave("stopped by SIGINT before the first step or after the last: what is saved is whole.", 128 + signal.SIGINT)


def leave(sentence: str, exit_code: int) -> NoReturn:
    """Ends this process; the first one of its machine says why."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"train.py: {sentence}", file=sys.stderr)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
