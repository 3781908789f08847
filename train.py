"""Train a SlimResNet: accelerate launch train.py --config configuration/paper.yaml [--flag value …]"""

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch
from accelerate import Accelerator
from torch import nn
from transformers.utils.logging import disable_progress_bar

from cifar10.loading import Loading
from cifar10.reading import DatasetError
from evaluation.figures import plot_curves
from evaluation.model_card import write_model_card
from evaluation.scoring import score
from modeling_slimresnet import SlimResNetForImageClassification
from training.checkpoints import TRAINER_STATE_NAME, CheckpointError, find_checkpoint
from training.hardware import choose_channels_last, choose_torch_compile
from training.identity import RunIdentity
from training.inputs import TrainingInputs, build_image_processor
from training.interruption import InterruptedRun
from training.loop import DivergedError, fit
from training.output_dir import RECIPE_NAME, RESULTS_NAME, check_output_dir, claim_output_dir, finished_files
from training.progress import Progress
from training.recipe import Recipe, RecipeError, parse_recipe
from training.setup import (
    TrainingData,
    build_network,
    build_training_loader,
    load_network_config,
    open_data,
    start_accelerator,
)


def run(recipe: Recipe) -> None:
    """Trains, scores once on the test split, writes the output folder."""
    output_dir = check_output_dir(recipe)
    config = load_network_config(recipe)
    accelerator, why_precision = start_accelerator(recipe)
    checkpoint = find_checkpoint(recipe.resume_from_checkpoint, output_dir, say=accelerator.print)
    loading = Loading(
        accelerator.device, accelerator.process_index, accelerator.num_processes, recipe.dataloader_num_workers
    )
    data = open_data(recipe, loading, config.image_size)
    loader = build_training_loader(recipe, data, loading)
    progress = Progress(loader.steps_per_epoch, recipe.max_steps(loader.steps_per_epoch))
    layout = choose_channels_last(recipe.channels_last, accelerator.device.type, config)
    compiling = choose_torch_compile(
        recipe.torch_compile, accelerator.device.type, progress.max_steps * loader.total_batch_size
    )
    recipe.channels_last, recipe.torch_compile = layout.value, compiling.value
    model = build_network(recipe, config, data.train.label_names).to(accelerator.device)
    make_inputs = TrainingInputs(recipe, config, progress.num_epochs)
    scores = partial(
        score, loading=loading, batch_size=recipe.per_device_eval_batch_size, normalize=make_inputs.normalize
    )

    def validate(model: nn.Module) -> dict[str, float]:
        with accelerator.autocast():
            return scores(model, data.train, data.validation_rows)

    if accelerator.is_main_process:
        claim_output_dir(recipe, output_dir)
    accelerator.wait_for_everyone()
    accelerator.print(describe(recipe, accelerator, model, data))
    accelerator.print(
        f"speed    precision {recipe.mixed_precision} ({why_precision}), channels_last {layout.value} "
        f"({layout.reason}), torch_compile {compiling.value} ({compiling.reason})"
    )
    accelerator.init_trackers("slimresnet", config={name: str(value) for name, value in vars(recipe).items()})
    weights = fit(
        recipe,
        accelerator,
        model,
        loader,
        make_inputs,
        validate if len(data.validation_rows) else None,
        output_dir,
        RunIdentity.of(recipe, config, data.train, accelerator),
        checkpoint,
        progress,
    )

    # What is scored is what is saved: these weights, in float32, in a network that training never touched.
    final = build_network(recipe, config, data.train.label_names).to(accelerator.device)
    final.load_state_dict(weights)
    results = {
        "epoch": progress.trainer_state().epoch,
        "train_loss": progress.log_history[-1]["loss"],
        "train_runtime": progress.train_runtime,
        "train_samples": len(data.train_rows),
        "train_samples_per_second": progress.global_step * loader.total_batch_size / progress.train_runtime,
    }
    if len(data.validation_rows):
        results |= {f"eval_{name}": value for name, value in scores(final, data.train, data.validation_rows).items()}
        results["eval_samples"] = len(data.validation_rows)
    tested = {f"test_{name}": value for name, value in scores(final, data.test, data.test_rows).items()}
    accelerator.log(tested, step=progress.global_step)
    results |= tested | {"test_samples": len(data.test_rows)}
    if accelerator.is_main_process:
        write_output_dir(output_dir, recipe, final, progress, results)
        print(f"test accuracy {results['test_accuracy']:.2%} on {results['test_samples']:,} images")
        print(f"saved to {output_dir}; load it with")
        print(f'  AutoModelForImageClassification.from_pretrained("{output_dir}", trust_remote_code=True)')
    accelerator.end_training()


def write_output_dir(
    output_dir: Path, recipe: Recipe, model: SlimResNetForImageClassification, progress: Progress, results: dict
) -> None:
    """Writes all that a finished folder holds."""
    with finished_files(output_dir) as folder:
        model.cpu().save_pretrained(folder)
        build_image_processor(recipe, model.config).save_pretrained(folder)
        (folder / RECIPE_NAME).write_text(recipe.to_yaml(), encoding="utf-8")
        progress.trainer_state().save_to_json(str(folder / TRAINER_STATE_NAME))
        plot_curves(progress.log_history, folder / "figures" / "curves.png")
        if recipe.overwrite_output_dir or not (output_dir / "README.md").exists():
            write_model_card(
                folder / "README.md",
                output_dir.resolve().name,
                recipe.dataset_name,
                recipe.test_split,
                results,
                image_size=model.config.image_size,
                num_labels=model.config.num_labels,
            )
        (folder / RESULTS_NAME).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


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


def main() -> None:
    """
    Runs. Exit code 0: finished; 1: a mistake in the input, told in one sentence by one process; 143 or 130: stopped
    by SIGTERM or SIGINT, from the first training step on behind a checkpoint.
    """
    disable_progress_bar()  # transformers': this script has one of its own
    try:
        run(parse_recipe())
    except (RecipeError, DatasetError, CheckpointError, DivergedError) as error:
        leave(f"error: {error}", 1)
    except InterruptedRun as stop:
        leave(str(stop), stop.exit_code)
    except KeyboardInterrupt:
        leave("stopped by SIGINT before the first step or after the last: nothing was written.", 128 + signal.SIGINT)


def leave(sentence: str, exit_code: int) -> NoReturn:
    """Ends this process; the first one of its machine says why."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"train.py: {sentence}", file=sys.stderr)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
