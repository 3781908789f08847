"""Train a SlimResNet: accelerate launch train.py --config configuration/paper.yaml [--flag value …]"""

import json
import os
import sys
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from cifar10.augmentation import normalize
from cifar10.loading import Loading, TrainingBatch
from cifar10.reading import DatasetError
from evaluation.figures import plot_curves
from evaluation.model_card import write_model_card
from evaluation.scoring import score
from modeling_slimresnet import SlimResNetForImageClassification
from training.checkpoints import TRAINER_STATE_NAME, CheckpointError, find_checkpoint
from training.loop import DivergedError, fit
from training.recipe import Recipe, RecipeError, parse_recipe
from training.setup import (
    RECIPE_NAME,
    RESULTS_NAME,
    TrainingData,
    build_augmentations,
    build_collators,
    build_image_processor,
    build_network,
    build_training_loader,
    check_output_dir,
    claim_output_dir,
    load_network_config,
    open_data,
    start_accelerator,
)


def run(recipe: Recipe) -> None:
    """Trains, scores once on the test split, writes the output folder."""
    output_dir = check_output_dir(recipe)
    checkpoint = find_checkpoint(recipe.resume_from_checkpoint, output_dir)
    config = load_network_config(recipe)
    accelerator = start_accelerator(recipe)
    loading = Loading(
        accelerator.device, accelerator.process_index, accelerator.num_processes, recipe.dataloader_num_workers
    )
    data = open_data(recipe, loading, config.image_size)
    loader = build_training_loader(recipe, data, loading)
    model = build_network(recipe, config, data.train.label_names).to(accelerator.device)
    if accelerator.is_main_process:
        claim_output_dir(recipe, output_dir)
    accelerator.wait_for_everyone()
    accelerator.print(describe(recipe, accelerator, model, data))

    to_model = partial(normalize, mean=tuple(recipe.image_mean), std=tuple(recipe.image_std))
    augmentations, collators = build_augmentations(recipe), build_collators(recipe, config.num_labels)

    def make_inputs(batch: TrainingBatch) -> dict[str, Tensor]:
        full = batch.draws.epoch >= recipe.num_light_augmentation_epochs
        pixels = augmentations[full](batch.pixels, batch.draws)
        return collators[full](to_model(pixels), batch.labels, batch.draws)

    scores = partial(score, loading=loading, batch_size=recipe.per_device_eval_batch_size, normalize=to_model)

    def validate(model: torch.nn.Module) -> dict[str, float]:
        with accelerator.autocast():
            return scores(model, data.train, data.validation_rows)

    accelerator.init_trackers("slimresnet", config={name: str(value) for name, value in vars(recipe).items()})
    weights, state, seconds = fit(
        recipe,
        accelerator,
        model,
        loader,
        make_inputs,
        validate if len(data.validation_rows) else None,
        output_dir,
        checkpoint,
    )

    # What is scored is what is saved: these weights, in float32, in a network that training never touched.
    final = SlimResNetForImageClassification(config)
    final.load_state_dict(weights)
    final.to(accelerator.device)
    results = {"epoch": state.epoch, "train_loss": state.log_history[-1]["loss"], "train_runtime": seconds}
    results["train_samples"] = len(data.train_rows)
    results["train_samples_per_second"] = state.global_step * loader.total_batch_size / seconds
    for name, split, rows in (
        ("eval", data.train, data.validation_rows),
        ("test", data.test, data.test_rows),
    ):
        if len(rows):
            results |= {f"{name}_{metric}": value for metric, value in scores(final, split, rows).items()}
            results[f"{name}_samples"] = len(rows)
    accelerator.log(
        {name: value for name, value in results.items() if name.startswith("test_")}, step=state.global_step
    )
    accelerator.end_training()

    if accelerator.is_main_process:
        final.cpu().save_pretrained(output_dir)
        build_image_processor(recipe, config).save_pretrained(output_dir)
        (output_dir / RECIPE_NAME).write_text(recipe.to_yaml())
        state.save_to_json(str(output_dir / TRAINER_STATE_NAME))
        plot_curves(state.log_history, output_dir / "figures" / "curves.png")
        write_model_card(
            output_dir,
            recipe.dataset_name,
            results,
            image_size=config.image_size,
            num_labels=config.num_labels,
            overwrite=recipe.overwrite_output_dir,
        )
        (output_dir / RESULTS_NAME).write_text(json.dumps(results, indent=2) + "\n")  # last: it says "finished"
        print(f"test accuracy {results['test_accuracy']:.2%} on {results['test_samples']} images")
        print(f"saved to {output_dir}; load it with\n  {loading_line(output_dir)}")


def describe(recipe: Recipe, accelerator: Accelerator, model: torch.nn.Module, data: TrainingData) -> str:
    """What is about to run, on what: the launch may have understood something else than was meant."""
    return (
        f"data     {recipe.dataset_name}: {len(data.train_rows):,} images to train on, {len(data.validation_rows):,} "
        f"for validation, {len(data.test_rows):,} to test on\n"
        f"network  {sum(parameter.numel() for parameter in model.parameters()):,} parameters\n"
        f"machine  processes: {accelerator.num_processes}, device: {accelerator.device.type}, "
        f"threads: {torch.get_num_threads()}, precision: {recipe.mixed_precision}\n"
        f"batch    {recipe.total_train_batch_size} images a step = {recipe.per_device_train_batch_size} "
        f"× {accelerator.num_processes} processes × {recipe.gradient_accumulation_steps} accumulated"
    )


def loading_line(output_dir: Path) -> str:
    """The line of Python that opens the folder."""
    return f'AutoModelForImageClassification.from_pretrained("{output_dir}", trust_remote_code=True)'


def main() -> None:
    """Runs; a mistake in the input ends in one sentence, from one process, and exit code 1."""
    try:
        run(parse_recipe())
    except (RecipeError, DatasetError, CheckpointError, DivergedError) as error:
        sys.exit(f"train.py: error: {error}" if os.environ.get("LOCAL_RANK", "0") == "0" else 1)


if __name__ == "__main__":
    main()
