"""Score a trained model: python eval.py MODEL [--split test|validation|…] [--tta none|flip|flip_shift|paper]"""

import argparse
import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from slimresnet.data.corruptions.extra import EXTRA_CORRUPTIONS
from slimresnet.data.corruptions.frost import open_photographs
from slimresnet.data.corruptions.standard import CORRUPTIONS, SEVERITIES, CorruptedImages, Corruption, with_photographs
from slimresnet.data.loader import Loading
from slimresnet.data.sources.arrays import open_arrays
from slimresnet.data.sources.dataset import DatasetError, ImageSplit
from slimresnet.evaluation.plots import draw, plot_reliability, reliability_picture, split_pictures
from slimresnet.evaluation.report import accuracy, best_policy, compare_policies, report_split, views_of
from slimresnet.evaluation.rows import (
    HELD_OUT,
    VALIDATION,
    ScoredRows,
    count_test,
    is_fact_of_training,
    open_rows,
    unreserved,
)
from slimresnet.evaluation.scoring import fit_temperature, predict_logits
from slimresnet.evaluation.tta import POLICIES
from slimresnet.formats.registry import backend_choices, open_network
from slimresnet.formats.trained import ModelError, find_folder, holds_another_model, weights_digest
from slimresnet.hub.card import renew_model_card, say_if_edited
from slimresnet.recipe.launch import start_accelerator
from slimresnet.recipe.reading import read_recipe, read_recipe_with
from slimresnet.recipe.settings import Recipe, RecipeError
from slimresnet.run_folder.changes import Change, change, is_of_an_earlier_version
from slimresnet.run_folder.console import tolerant_output
from slimresnet.run_folder.names import CARD_NAME, RECIPE_NAME, RESULTS_NAME
from slimresnet.run_folder.ownership import own, refuse_if_owned
from slimresnet.run_folder.reading import read_json
from slimresnet.run_folder.writing import FolderError, check_place, write_json

STANDARD, EXTRA = "corruptions", "extra_corruptions"  # what --shift names, if no folder
_FROM_RECIPE = (
    "dataset_name", "dataset_config_name", "dataset_revision", "image_column_name", "label_column_name",
    "per_device_eval_batch_size", "max_eval_samples", "mixed_precision",
)  # fmt: skip

Predict = Callable[..., dict[str, Tensor]]
"""`predict_logits` with its model: of a split, row numbers and views."""


class Findings(NamedTuple):
    """What was found: figures for `all_results.json`, details by file, pictures by file for `draw`."""

    results: dict
    details: dict[str, dict]
    pictures: dict[str, Callable[[Path], None]] = {}


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; what it leaves out comes from the model's recipe. `words` stand for it in Python."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("model", help="A folder that train.py wrote, or a model on the Hub.")
    parser.add_argument("--dataset_name", help="As for train.py; by default what the model was trained on.")
    parser.add_argument("--dataset_config_name", help="As for train.py.")
    parser.add_argument("--dataset_revision", help="As for train.py.")
    parser.add_argument("--image_column_name", help="As for train.py.")
    parser.add_argument("--label_column_name", help="As for train.py.")
    parser.add_argument("--per_device_eval_batch_size", type=int, help="As for train.py.")
    parser.add_argument("--max_eval_samples", type=int, help="As for train.py.")
    parser.add_argument("--mixed_precision", choices=["auto", "no", "bf16"], help="By default no.", default="no")
    parser.add_argument(
        "--split",
        help="A split of the data, by default the one that the run was tested on; or held_out, the images that the run "
        "held out of its training. So does validation, where the data has no split of that name.",
    )
    parser.add_argument(
        "--backend", choices=backend_choices(), default="torch", help="What runs the network; by default torch."
    )
    parser.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="Run code that MODEL brings, for --backend torch_export: its file is made of pickles.",
    )
    parser.add_argument("--quantized", action="store_true", help="Score the int8 file that export.py made.")
    parser.add_argument("--tta", choices=POLICIES, default="none", help="Test-time augmentation.")
    parser.add_argument(
        "--compare_tta", action="store_true", help="Score every policy; with --split validation or held_out."
    )
    parser.add_argument(
        "--shift",
        metavar=f"{STANDARD}|{EXTRA}|FOLDER",
        help="Score shifted images instead: the split under the 15 corruptions of CIFAR-10-C in 5 severities, or under "
        "the 4 extra ones, or the .npy files of CIFAR-10-C or CIFAR-10.1. Choices are for --split validation, and best "
        f"made with {EXTRA}, so that the 15 stay a test.",
    )
    parser.add_argument(
        "--frost_folder",
        type=Path,
        help=f"Photographs of frost for --shift {STANDARD}, laid over the images as they are, without scaling: shrink "
        "those of CIFAR-10-C to a fifth, as its authors do. By default synthetic_frost stands in for frost.",
    )
    parser.add_argument("--output_dir", type=Path, help="Folder that gets the figures: all_results.json and pictures.")
    arguments = parser.parse_args(words)
    if arguments.compare_tta and arguments.split not in (VALIDATION, HELD_OUT):
        raise RecipeError("--compare_tta chooses among policies, which is for validation: add --split validation.")
    if arguments.compare_tta and arguments.shift:
        raise RecipeError("--compare_tta is for images as they are: leave --shift out, or name one policy with --tta.")
    if arguments.frost_folder and arguments.shift != STANDARD:
        raise RecipeError(f"--frost_folder is for the frost of --shift {STANDARD}: add it, or leave the folder out.")
    if arguments.shift not in (None, STANDARD, EXTRA) and (arguments.split or arguments.max_eval_samples):
        raise RecipeError(
            f"--shift {arguments.shift} scores all images of a folder: leave --split and --max_eval_samples out; "
            f"they are for --shift {STANDARD} and {EXTRA}."
        )
    if arguments.backend != "torch" and arguments.mixed_precision != "no":
        raise RecipeError(f"--mixed_precision is for --backend torch, not for {arguments.backend}: leave it out.")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Scores once, prints the figures and, with `--output_dir`, writes them."""
    folder = find_folder(arguments.model)
    weights = weights_digest(folder)
    check_output_dir(arguments.output_dir, weights)
    recipe = read_recipe_with(folder, **{name: getattr(arguments, name) for name in _FROM_RECIPE})
    # Scoring has no steps of an optimiser, whose batch might not divide by the processes that score.
    recipe = dataclasses.replace(recipe, total_train_batch_size=None, per_device_train_batch_size=1)
    accelerator, _ = start_accelerator(recipe)  # before the network: it says how many threads there are
    model, normalize = open_network(
        folder, arguments.backend, quantized=arguments.quantized, trust_remote_code=arguments.trust_remote_code
    )
    predict = partial(
        predict_logits,
        model.to(accelerator.device, memory_format=torch.channels_last),
        loading=Loading(accelerator.device, accelerator.process_index, accelerator.num_processes, num_workers=1),
        batch_size=recipe.per_device_eval_batch_size,
        normalize=normalize,
    )
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    with accelerator.autocast():
        if arguments.shift in (None, STANDARD, EXTRA):
            run_recipe = read_recipe(folder) if (folder / RECIPE_NAME).is_file() else None
            results = read_json(folder / RESULTS_NAME)
            scored = open_rows(arguments.split, recipe, run_recipe, results, model.config.image_size)
            if scored.split.label_names != names:
                raise RecipeError(f"--dataset_name {recipe.dataset_name} names other classes than the model: {names}.")
        if arguments.shift is None:
            findings = score_split(arguments, predict, scored, results, recipe)
        elif arguments.shift in (STANDARD, EXTRA):
            corruptions = open_corruptions(arguments, model.config.image_size)
            findings = score_corruptions(arguments, predict, scored, corruptions, recipe)
        else:
            splits = open_arrays(Path(arguments.shift), model.config.image_size, names)
            findings = score_arrays(arguments, predict, splits, recipe)
    if accelerator.is_main_process:
        print_findings(findings)
        if arguments.output_dir:
            write(arguments.output_dir, weights, findings)
    accelerator.end_training()


def check_output_dir(output_dir: Path | None, weights: str | None) -> None:
    """
    Looks before anything is scored.

    Args:
        weights: digest of those that are to be scored.

    Raises:
        RecipeError: it is a file, cannot be written to, or holds another model, whose figures these are not.
        FolderError: it lies in a folder that is not there, or another process is at work there.
    """
    if output_dir is None:
        return
    check_place("--output_dir", output_dir)
    existing = output_dir if output_dir.exists() else output_dir.absolute().parent
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise RecipeError(f"--output_dir {output_dir} cannot be written to: name another folder.")
    refuse_if_owned(output_dir)
    _check_model(output_dir, weights)


def _check_model(output_dir: Path, weights: str | None) -> None:
    if holds_another_model(output_dir, weights):
        raise RecipeError(f"--output_dir {output_dir} holds another model than was scored: name another folder.")


def results_there(arguments: argparse.Namespace) -> dict:
    """What the output folder's `all_results.json` holds so far."""
    return read_json(arguments.output_dir / RESULTS_NAME) if arguments.output_dir else {}


def prefix_of(arguments: argparse.Namespace, scored: ScoredRows) -> str:
    """What the names of figures begin with: that of the rows and, where it is not PyTorch, what ran the network."""
    backend = [] if arguments.backend == "torch" else [arguments.backend]
    return "_".join([scored.prefix, *backend, *(["int8"] if arguments.quantized else [])])


def score_split(
    arguments: argparse.Namespace, predict: Predict, scored: ScoredRows, before: dict, recipe: Recipe
) -> Findings:
    """
    Scores rows of a split.

    Args:
        before: the model's `all_results.json`, where the temperature is that validation gave.
    """
    split, rows, prefix = scored.split, scored.rows, prefix_of(arguments, scored)
    labels = split.labels[rows]
    started = time.perf_counter()
    logits = predict(split, rows, views=views_of(*(POLICIES if arguments.compare_tta else [arguments.tta])))
    runtime = time.perf_counter() - started
    temperature = fit_temperature(logits["original"], labels) if scored.are_held_out else before.get("temperature")
    results, details = report_split(prefix, logits, labels, policy=arguments.tta, temperature=temperature)
    results |= scored.facts(prefix) | count_test(scored, results_there(arguments))
    results[f"{prefix}_precision"] = precision_of(arguments, recipe)
    if scored.are_held_out and arguments.backend == "torch":
        chosen = before.get("eval_chose", "").split(", ")
        results |= {
            "temperature": temperature,
            "temperature_samples": len(rows),
            "eval_chose": ", ".join(dict.fromkeys([*filter(None, chosen), "temperature"])),
        }
    results[f"{prefix}_runtime"] = runtime
    results[f"{prefix}_samples_per_second"] = len(rows) / runtime

    if arguments.compare_tta:
        details["tta"] = compare_policies(logits, labels)
    pictures = split_pictures(prefix, split, rows, logits["original"], details)
    return Findings(results, {f"{prefix}_details.json": details}, pictures)


def open_corruptions(arguments: argparse.Namespace, image_size: int) -> dict[str, Corruption]:
    """The corruptions that the command line asks for, by name."""
    if arguments.shift == EXTRA:
        return EXTRA_CORRUPTIONS
    if arguments.frost_folder is None:
        return CORRUPTIONS
    return with_photographs(open_photographs(arguments.frost_folder, image_size))


def precision_of(arguments: argparse.Namespace, recipe: Recipe) -> str:
    """What the network computes in: float32, bf16 or int8."""
    return "int8" if arguments.quantized else recipe.mixed_precision.replace("no", "float32")


def score_corruptions(
    arguments: argparse.Namespace,
    predict: Predict,
    scored: ScoredRows,
    corruptions: dict[str, Corruption],
    recipe: Recipe,
) -> Findings:
    """Scores a split under every corruption and severity."""
    split, rows, prefix = scored.split, scored.rows, prefix_of(arguments, scored)
    accuracies = {policy: {} for policy in dict.fromkeys(["none", arguments.tta])}
    for name, corruption in corruptions.items():
        of_severities = [
            accuracy_by_policy(
                predict(
                    ImageSplit(
                        split.labels,
                        split.label_names,
                        CorruptedImages(split, name, corruption, severity, recipe.seed),
                    ),
                    rows,
                    views=views_of(arguments.tta),
                ),
                split.labels[rows],
                accuracies,
            )
            for severity in SEVERITIES
        ]
        for policy, by_corruption in accuracies.items():
            by_corruption[name] = [each[policy] for each in of_severities]
        if os.environ.get("LOCAL_RANK", "0") == "0":
            means = ", ".join(f"{policy} {np.mean(each[name]):.2%}" for policy, each in accuracies.items())
            print(f"{name:{max(map(len, corruptions))}}  {means}", flush=True)
    results = scored.facts(prefix) | count_test(scored, results_there(arguments))
    prefix = f"{prefix}_{arguments.shift.removesuffix('s')}"
    results |= {f"{prefix}_samples": len(rows), f"{prefix}_precision": precision_of(arguments, recipe)}
    results[f"{prefix}_tta"] = arguments.tta
    if arguments.shift == STANDARD:
        results[f"{prefix}_frost"] = "photographs" if arguments.frost_folder else "synthetic"
    for policy, by_corruption in accuracies.items():
        suffix = "" if policy == "none" else "_tta"
        results[f"{prefix}_accuracy{suffix}"] = fmean(chain.from_iterable(by_corruption.values()))
    return Findings(results, {f"{prefix}s.json": accuracies})


def score_arrays(
    arguments: argparse.Namespace, predict: Predict, splits: dict[str, ImageSplit], recipe: Recipe
) -> Findings:
    """
    Scores the files of CIFAR-10-C or CIFAR-10.1.

    A corruption's mean stands for all of its severities; of the files of CIFAR-10-C the 15 that its authors test with
    make the mean, and not the four that are for validation.
    """
    folder = unreserved(Path(arguments.shift).resolve().name)
    accuracies = {policy: {} for policy in dict.fromkeys(["none", arguments.tta])}
    for name, split in splits.items():
        logits = predict(split, np.arange(len(split.labels)), views=views_of(arguments.tta))
        for policy, share in accuracy_by_policy(logits, split.labels, accuracies).items():
            accuracies[policy][name] = share
    results = {f"{folder}_precision": precision_of(arguments, recipe)}
    fifteen = {*CORRUPTIONS, "frost"}
    for policy, by_name in accuracies.items():
        suffix = "" if policy == "none" else "_tta"
        corrupted = [each for name, each in by_name.items() if name in fifteen]
        if corrupted:
            results[f"{folder}_accuracy{suffix}"] = fmean(corrupted)
            results[f"{folder}_corruptions"] = len(corrupted)
        results |= {
            f"{unreserved(name)}_accuracy{suffix}": each for name, each in by_name.items() if name not in fifteen
        }
    return Findings(results, {f"{folder}_details.json": accuracies})


def accuracy_by_policy(logits: dict[str, Tensor], labels: np.ndarray, policies: Sequence[str]) -> dict[str, float]:
    """Accuracy, 0–1, under each policy."""
    return {policy: accuracy(logits, POLICIES[policy], labels) for policy in policies}


def print_findings(findings: Findings) -> None:
    """Policies that were compared, then figures, a line each."""
    for details in findings.details.values():
        if "tta" in details:
            width = max(map(len, details["tta"]))
            for name, share in details["tta"].items():
                print(f"{name:{width}}  {share:.2%}")
            print(f"best on validation: --tta {best_policy(details['tta'])}")
    for name, value in findings.results.items():
        print(f"{name} = {value:.4f}" if isinstance(value, float) else f"{name} = {value}")


def still_true(before: dict, results: dict) -> dict:
    """
    Of earlier figures those that may stand beside new ones.

    Not what another policy gave the same rows, nor anything of other data whose figures had the same names, nor what
    another temperature made of logits.
    """
    elsewhere = tuple(
        name.removesuffix("fingerprint")
        for name in results
        if name.endswith("_fingerprint") and before.get(name) not in (None, results[name])
    )
    refitted = is_refitted(before, results)
    return {
        name: value
        for name, value in before.items()
        if name.removesuffix("_tta") not in results
        and not name.startswith(elsewhere)
        and not (refitted and name.endswith("_scaled"))
    }


def is_refitted(before: dict, results: dict) -> bool:
    """Whether new figures have another temperature than earlier ones."""
    if not results.get("temperature") or not before.get("temperature"):
        return False
    return not math.isclose(results["temperature"], before["temperature"], rel_tol=1e-3)  # a fit, and rounding


def forget_scaling(made: Change, output_dir: Path, earlier: dict, renewed: Findings) -> dict[str, Callable]:
    """
    Takes what another temperature made of logits out of details, but for those just renewed.

    Args:
        earlier: figures, which say of what there are details.

    Returns:
        The pictures to draw anew without it.
    """
    ending, pictures = "_expected_calibration_error_scaled", {}
    for prefix in (name.removesuffix(ending) for name in earlier if name.endswith(ending)):
        name = f"{prefix}_details.json"
        content = read_json(output_dir / name)
        if name not in renewed.details and content.pop("reliability_scaled", None):
            write_json(made.files / name, content)
            if "reliability" in content:
                pictures[reliability_picture(prefix)] = partial(plot_reliability, content["reliability"], None)
    return pictures


def write(output_dir: Path, weights: str | None, findings: Findings) -> None:
    """
    Adds figures to a folder's `all_results.json`, writes details and pictures beside it, renews its card.

    Args:
        weights: digest of those that were scored.

    Raises:
        RecipeError: the folder has other weights by now.
        FolderError: another process is at work there, or it cannot be written to.
    """
    facts = [name for name in findings.results if is_fact_of_training(name)]
    assert not facts, f"a score in the place of a fact of training: {facts}"
    with own(output_dir):
        _check_model(output_dir, weights)
        earlier = read_json(output_dir / RESULTS_NAME)
        pictures = dict(findings.pictures)
        is_run = (output_dir / RECIPE_NAME).is_file()
        with change(output_dir) as made:
            if is_of_an_earlier_version(output_dir):
                made.own |= {RESULTS_NAME, *findings.details, *(f"figures/{name}" for name in pictures)}
            if is_refitted(earlier, findings.results):
                pictures |= forget_scaling(made, output_dir, earlier, findings)
            made.remove(f"figures/{name}" for name in pictures)  # of other figures: they come anew, or not at all
            for name, content in findings.details.items():
                write_json(made.files / name, content)
            write_json(made.files / RESULTS_NAME, still_true(earlier, findings.results) | findings.results)
            if is_run:
                renew_model_card(made, output_dir)
        print(f"written to {output_dir / RESULTS_NAME} and {', '.join(findings.details)}")
        if is_run:
            say_if_edited(output_dir / CARD_NAME)
        if pictures:
            with change(output_dir) as made:
                draw(pictures, made.files / "figures")
                if is_run:
                    renew_model_card(made, output_dir)


@tolerant_output()
def main() -> None:
    """Runs; a mistake in the input ends in one sentence and exit code 1."""
    disable_progress_bar()  # transformers': loading takes no time
    try:
        run(parse())
    except (RecipeError, DatasetError, ModelError, FolderError) as error:
        sys.exit(f"eval.py: error: {error}" if os.environ.get("LOCAL_RANK", "0") == "0" else 1)


if __name__ == "__main__":
    main()
