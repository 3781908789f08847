"""Score a trained folder: python eval.py MODEL [--split test|validation|…] [--tta none|flip|flip_shift|paper]"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoImageProcessor

from cifar10.augmentation import normalize
from cifar10.loading import Loading
from cifar10.reading import DatasetError, open_split
from cifar10.splitting import random_subset, stratified_split
from evaluation.report import best_policy, compare_policies, figures
from evaluation.scoring import fit_temperature, predict_logits
from evaluation.views import POLICIES, VIEWS, average
from modeling_slimresnet import SlimResNetForImageClassification
from training.output_dir import RECIPE_NAME, RESULTS_NAME
from training.recipe import Recipe, RecipeError, parse_recipe
from training.setup import start_accelerator

VALIDATION = "validation"
_FROM_RECIPE = (
    "dataset_name", "dataset_config_name", "dataset_revision", "image_column_name", "label_column_name",
    "per_device_eval_batch_size", "max_eval_samples", "mixed_precision",
)  # fmt: skip


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; what it leaves out comes from the folder's recipe. `words` stand for it in Python."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("model", type=Path, help="A folder that train.py wrote.")
    parser.add_argument("--dataset_name", help="As for train.py; by default what the model was trained on.")
    parser.add_argument("--dataset_config_name", help="As for train.py.")
    parser.add_argument("--dataset_revision", help="As for train.py.")
    parser.add_argument("--image_column_name", help="As for train.py.")
    parser.add_argument("--label_column_name", help="As for train.py.")
    parser.add_argument("--per_device_eval_batch_size", type=int, help="As for train.py.")
    parser.add_argument("--max_eval_samples", type=int, help="As for train.py.")
    parser.add_argument("--mixed_precision", choices=["auto", "no", "bf16"], help="By default no.", default="no")
    parser.add_argument(
        "--split", default="test", help="A split, or validation: the images that the run held out of its training."
    )
    parser.add_argument("--tta", choices=POLICIES, default="none", help="Test-time augmentation.")
    parser.add_argument("--compare_tta", action="store_true", help="Score every policy; with --split validation alone.")
    parser.add_argument("--output_dir", type=Path, help="Folder whose all_results.json gets the figures.")
    return parser.parse_args(words)


def load_model(folder: Path) -> SlimResNetForImageClassification:
    """
    The network of a trained folder.

    Raises:
        RecipeError: there is none, or its weights do not fit it.
    """
    if not (folder / "config.json").is_file():
        raise RecipeError(f"MODEL {folder} holds no config.json: give a folder that train.py wrote.")
    try:
        model, loading = SlimResNetForImageClassification.from_pretrained(folder, output_loading_info=True)
    except Exception as error:  # safetensors, huggingface_hub, JSON: each its own
        raise RecipeError(f"MODEL {folder} cannot be loaded: {error}") from error
    wrong = [*loading["missing_keys"], *loading["unexpected_keys"], *loading["mismatched_keys"]]
    if wrong:
        raise RecipeError(f"MODEL {folder} has other weights than its config.json says: {', '.join(map(str, wrong))}.")
    return model


def run(arguments: argparse.Namespace) -> None:
    """Scores the split once, prints the figures and, with `--output_dir`, writes them."""
    if arguments.compare_tta and arguments.split != VALIDATION:
        raise RecipeError("--compare_tta chooses among policies, which is for validation: add --split validation.")
    model = load_model(arguments.model)
    recipe_file = arguments.model / RECIPE_NAME
    recipe = parse_recipe([f"--config={recipe_file}"]) if recipe_file.is_file() else Recipe()
    for name in _FROM_RECIPE:
        if getattr(arguments, name) is not None:
            setattr(recipe, name, getattr(arguments, name))
    recipe.total_train_batch_size = recipe.per_device_train_batch_size = None
    accelerator, _ = start_accelerator(recipe)
    split = open_split(
        recipe.dataset_name,
        "train" if arguments.split == VALIDATION else arguments.split,
        image_size=model.config.image_size,
        config_name=recipe.dataset_config_name,
        revision=recipe.dataset_revision,
        image_column=recipe.image_column_name,
        label_column=recipe.label_column_name,
    )
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    if split.label_names != names:
        raise RecipeError(f"--dataset_name {recipe.dataset_name} names other classes than the model: {names}.")
    rows = np.arange(len(split.labels))
    if arguments.split == VALIDATION:
        _, rows = stratified_split(split.labels, recipe.validation_size, recipe.seed)
        if not len(rows):
            raise RecipeError(f"--split validation: {arguments.model} was trained without one (--validation_size 0).")
    rows = random_subset(rows, recipe.max_eval_samples, recipe.seed)
    processor = AutoImageProcessor.from_pretrained(arguments.model)

    model.to(accelerator.device, memory_format=torch.channels_last)
    views = VIEWS if arguments.compare_tta else dict.fromkeys(["original", *POLICIES[arguments.tta]])
    with accelerator.autocast():
        logits = predict_logits(
            model,
            split,
            rows,
            Loading(accelerator.device, accelerator.process_index, accelerator.num_processes, 1),
            batch_size=recipe.per_device_eval_batch_size,
            normalize=partial(normalize, mean=tuple(processor.image_mean), std=tuple(processor.image_std)),
            views=views,
        )
    if accelerator.is_main_process:
        write(arguments, logits, split.labels[rows])
    accelerator.end_training()


def read_results(folder: Path) -> dict:
    """The figures that a folder holds so far."""
    file = folder / RESULTS_NAME
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def write(arguments: argparse.Namespace, logits: dict[str, Tensor], labels: np.ndarray) -> None:
    """Prints the figures; adds them to the output folder's `all_results.json`, the details beside it."""
    prefix = "eval" if arguments.split == VALIDATION else arguments.split
    added: dict[str, object] = {f"{prefix}_samples": len(labels)}
    if arguments.split == VALIDATION:
        added["temperature"] = fit_temperature(logits["original"], labels)
    temperature = added.get("temperature", read_results(arguments.model).get("temperature"))
    numbers, details = figures(logits["original"], labels, temperature)
    added |= {f"{prefix}_{name}": value for name, value in numbers.items()}
    if arguments.tta != "none":
        with_tta, _ = figures(average(logits, POLICIES[arguments.tta]), labels)
        added |= {f"{prefix}_{name}_tta": value for name, value in with_tta.items()} | {f"{prefix}_tta": arguments.tta}
    if arguments.compare_tta:
        details["tta"] = compare_policies(logits, labels)
        width = max(map(len, details["tta"]))
        for name, accuracy in details["tta"].items():
            print(f"{name:{width}}  {accuracy:.2%}")
        print(f"best on validation: --tta {best_policy(details['tta'])}")
    for name, value in added.items():
        print(f"{name} = {value:.4f}" if isinstance(value, float) else f"{name} = {value}")
    if arguments.output_dir:
        arguments.output_dir.mkdir(parents=True, exist_ok=True)
        results_file = arguments.output_dir / RESULTS_NAME
        results = read_results(arguments.output_dir) | added
        results_file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        details_file = arguments.output_dir / f"{prefix}_details.json"
        details_file.write_text(json.dumps(details, indent=2) + "\n", encoding="utf-8")
        print(f"written to {results_file} and {details_file}")


def main() -> None:
    """Runs; a mistake in the input ends in one sentence and exit code 1."""
    try:
        run(parse())
    except (RecipeError, DatasetError) as error:
        sys.exit(f"eval.py: error: {error}" if os.environ.get("LOCAL_RANK", "0") == "0" else 1)


if __name__ == "__main__":
    main()
