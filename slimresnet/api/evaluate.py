"""Scores of a trained network, and the folder that gets them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator

from slimresnet.api.arguments import check_choice, check_precision
from slimresnet.api.evaluation_files import check_output_dir, write_evaluation
from slimresnet.data.loader import Loading
from slimresnet.data.sources.arrays import open_arrays
from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.data.task import Task, task_of_network
from slimresnet.evaluation.logits import predict_logits
from slimresnet.evaluation.protocol import Evaluation, ScoredNetwork, score_split
from slimresnet.evaluation.rows import HELD_OUT, ScoredRows, open_rows
from slimresnet.evaluation.shift import EXTRA, STANDARD, open_corruptions, score_arrays, score_corruptions
from slimresnet.evaluation.thresholds import held_out_prefix
from slimresnet.evaluation.tta import POLICIES
from slimresnet.formats.registry import find_format
from slimresnet.formats.trained import find_folder, label_names, load_config, weights_digest
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.hardware import choose_eval_batch_size
from slimresnet.recipe.launch import process_left_as_it_was, start_accelerator
from slimresnet.recipe.reading import read_recipe, read_recipe_with, refuse_unknown_data
from slimresnet.recipe.settings import VALIDATION_SPLIT, Recipe
from slimresnet.run_folder.names import RECIPE_NAME
from slimresnet.run_folder.reading import read_results

SCORING_PRECISIONS = ("auto", "no", "bf16")
"""Values of `mixed_precision` that a network is scored in."""


def evaluate(
    model: str | Path,
    *,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    dataset_revision: str | None = None,
    image_column_name: str | None = None,
    label_column_name: str | None = None,
    split: str | None = None,
    max_eval_samples: int | None = None,
    per_device_eval_batch_size: int | None = None,
    tta: str = "none",
    compare_tta: bool = False,
    shift: str | None = None,
    frost_folder: str | Path | None = None,
    backend: str = "torch",
    quantized: bool = False,
    trust_remote_code: bool = False,
    mixed_precision: str = "no",
    output_dir: str | Path | None = None,
    on_scored: Callable[[Evaluation], None] = lambda found: None,
) -> Evaluation:
    """
    Scores a trained network. Arguments are the flags of `eval.py`; what is None comes from the model's recipe.

    The process is left as it was. Under `accelerate launch` every process calls this and gets the whole result.

    Args:
        model: a folder that `train`, transformers' `Trainer` or `save_pretrained` wrote, or a model on the Hub.
        output_dir: gets the figures beside those that stay true, on the first process; None writes nothing.
        on_scored: called with the result on the first process, before anything is written.

    Raises:
        SlimResNetError: an argument, the model, the data or the folder cannot be used; nothing is lost.
    """
    scoring = _Scoring(split, tta, compare_tta, shift, Path(frost_folder) if frost_folder else None, backend, quantized)
    scoring.check(mixed_precision, max_eval_samples)
    folder, output_dir = find_folder(model), None if output_dir is None else Path(output_dir)
    weights = weights_digest(folder)
    check_output_dir(output_dir, weights)
    recipe = read_recipe_with(
        folder, dataset_name=dataset_name, dataset_config_name=dataset_config_name, dataset_revision=dataset_revision,
        image_column_name=image_column_name, label_column_name=label_column_name, max_eval_samples=max_eval_samples,
        per_device_eval_batch_size=per_device_eval_batch_size, mixed_precision=mixed_precision,
    )  # fmt: skip
    with process_left_as_it_was():
        accelerator, _ = start_accelerator(recipe)  # before the network: it says how many threads there are
        found = _score(scoring, folder, recipe, accelerator, trust_remote_code, output_dir, dataset_name)
        if accelerator.is_main_process:
            on_scored(found)
            if output_dir:
                write_evaluation(output_dir, weights, found)
    return found


@dataclass(frozen=True)
class _Scoring:
    """What is scored, and how; as the arguments of `evaluate`."""

    split: str | None
    tta: str
    compare_tta: bool
    shift: str | None
    frost_folder: Path | None
    backend: str
    quantized: bool

    def check(self, mixed_precision: str, max_eval_samples: int | None) -> None:
        """
        Checks arguments before any file is read.

        Raises:
            ModelError: the backend is unknown, or has no quantised format.
            RecipeError: a value is unknown, or two arguments contradict each other.
        """
        check_choice("tta", self.tta, POLICIES)
        find_format(self.backend, quantized=self.quantized)
        check_choice("mixed_precision", mixed_precision, SCORING_PRECISIONS)
        check_precision(self.backend, mixed_precision)
        if self.compare_tta and self.split not in (VALIDATION_SPLIT, HELD_OUT):
            raise RecipeError("--compare_tta chooses among policies, which is for validation: add --split validation.")
        if self.compare_tta and self.shift:
            raise RecipeError(
                "--compare_tta is for images as they are: leave --shift out, or name one policy with --tta."
            )
        if self.frost_folder and self.shift != STANDARD:
            raise RecipeError(
                f"--frost_folder is for the frost of --shift {STANDARD}: add it, or leave the folder out."
            )
        if self.shift not in (None, STANDARD, EXTRA) and (self.split or max_eval_samples):
            raise RecipeError(
                f"--shift {self.shift} scores all images of a folder: leave --split and --max_eval_samples out; "
                f"they are for --shift {STANDARD} and {EXTRA}."
            )


def _score(
    scoring: _Scoring,
    folder: Path,
    recipe: Recipe,
    accelerator: Accelerator,
    trust_remote_code: bool,
    output_dir: Path | None,
    dataset_name: str | None,
) -> Evaluation:
    """Opens the network and what it is scored on, and scores it; `dataset_name` is what was asked for."""
    config = load_config(folder)
    format = find_format(scoring.backend, quantized=scoring.quantized)
    model, normalize, pixel_format = format.open_network(folder, trust_remote_code=trust_remote_code)
    predict = partial(
        predict_logits,
        model.to(accelerator.device, memory_format=torch.channels_last),  # type: ignore[call-overload] # PyTorch's gap
        loading=Loading(accelerator.device, accelerator.process_index, accelerator.num_processes, num_workers=1),
        batch_size=choose_eval_batch_size(
            recipe.per_device_eval_batch_size,
            accelerator.device.type if format.uses_gpu else "cpu",
            config.image_size,
        ),
        normalize=normalize,
    )
    precision = format.precision if format.is_quantized else accelerator.mixed_precision.replace("no", "float32")
    thresholds_from = held_out_prefix(format.scored_as, format.is_quantized)
    network = ScoredNetwork(predict, format.scored_as, precision, thresholds_from)
    names, tta = label_names(config), scoring.tta
    if scoring.shift and task_of_network(config).is_multi_label:
        raise RecipeError(
            f"--shift {scoring.shift} scores networks of one class an image, and MODEL {folder} gives several: leave "
            "it out."
        )
    with accelerator.autocast():
        if scoring.shift not in (None, STANDARD, EXTRA):
            arrays = Path(scoring.shift)
            return score_arrays(network, arrays, open_arrays(arrays, pixel_format, names), tta=tta)
        refuse_unknown_data(folder, dataset_name)
        scored = _open_rows(scoring.split, folder, recipe, names, pixel_format, task_of_network(config))
        if scored.split.label_names != names:
            accelerator.print(f"MODEL does not name its classes: they are taken for those of {recipe.dataset_name}")
        there = read_results(output_dir) if output_dir else {}
        if scoring.shift is None:
            of_model = read_results(folder)
            return score_split(
                network, scored, tta=tta, compare_tta=scoring.compare_tta, of_model=of_model, of_output=there
            )
        corrupting = open_corruptions(scoring.shift, scoring.frost_folder, config.image_size)
        return score_corruptions(
            network, scored, corrupting, tta=tta, seed=recipe.seed, of_output=there, say=accelerator.print
        )


def _open_rows(
    split: str | None, folder: Path, recipe: Recipe, names: list[str], pixel_format: PixelFormat, task: Task
) -> ScoredRows:
    """
    The rows to score, of classes that the model has, or as many as it has where it does not name them.

    Raises:
        RecipeError: the data names other classes, or one class an image where the network gives several.
    """
    of_run = read_recipe(folder) if (folder / RECIPE_NAME).is_file() else None
    scored = open_rows(split, recipe, of_run, read_results(folder), pixel_format)
    is_unnamed = names == [f"LABEL_{label}" for label in range(len(scored.split.label_names))]  # as transformers does
    if scored.split.label_names != names and not is_unnamed:
        raise RecipeError(f"--dataset_name {recipe.dataset_name} names other classes than the model: {names}.")
    if scored.split.task is not task:
        has, gives = ("several classes", "one") if scored.split.task.is_multi_label else ("one class", "several")
        raise RecipeError(
            f"--dataset_name {recipe.dataset_name} has {has} an image, and the model gives {gives}: name another "
            "--label_column_name, or other data."
        )
    return scored
