"""The text of a model card, every number of it read from the files of the run."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelCardData

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.data.task import task_of_network
from slimresnet.data.transforms.transform import overlapping_augmentations
from slimresnet.evaluation.flops import multiply_adds
from slimresnet.evaluation.rows import TEST_PREFIX
from slimresnet.evaluation.scores import shown_scores
from slimresnet.evaluation.tta import POLICIES
from slimresnet.formats.registry import formats_of
from slimresnet.formats.trained import label_names
from slimresnet.hub.markdown import as_block, as_code, as_literal, as_text
from slimresnet.hub.model_index import eval_results
from slimresnet.hub.results_table import results_table
from slimresnet.hub.run_facts import (
    answers_at_thresholds,
    calibration_clause,
    changed_settings,
    chosen_together,
    facts_of_exports,
    num_held_out,
    own_results,
    scored_prefixes,
    threshold_of_classes,
    training_facts,
)
from slimresnet.hub.shared_recipe import shared_recipe
from slimresnet.recipe.settings import VALIDATION_SPLIT, Recipe
from slimresnet.run_folder.changes import is_written_here
from slimresnet.run_folder.names import (
    AVERAGE_PRECISION_SUFFIX,
    CLASSES_SUFFIX,
    CONFIG_NAME,
    CONFUSION_MATRIX_SUFFIX,
    CORRUPTIONS_SUFFIX,
    CURVES_PICTURE,
    EXPORTS_NAME,
    FIGURES_FOLDER,
    MISTAKES_SUFFIX,
    RECIPE_NAME,
    RELIABILITY_SUFFIX,
    RESULTS_NAME,
    TRAINING_SAMPLES_PICTURE,
)
from slimresnet.run_folder.reading import read_json

_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
_WRITERS: dict[str, Any] = {"text": as_text, "code": as_code, "literal": as_literal}  # of what comes from data
_MARK = "<!-- written by SlimResNet, sha256 of the text above: {} -->\n"
_FROST = {  # by what a run's frost was made of, words for people
    "photographs": "the photographs of frost of its authors",
    "synthetic": "synthetic frost in place of the photographs of its authors",
    None: "a fractal in place of the photographs of frost of its authors, which is easier than they are",
}
_CIFAR10 = ("uoft-cs/cifar10", "cifar10")  # where the Hub has it
_PICTURES = {
    CURVES_PICTURE: "Loss and accuracy over the epochs",
    f"{TEST_PREFIX}{CONFUSION_MATRIX_SUFFIX}": "Confusion matrix of the test split",
    f"{TEST_PREFIX}{CLASSES_SUFFIX}": "Precision, recall and F1 of each class",
    f"{TEST_PREFIX}{RELIABILITY_SUFFIX}": "Accuracy over confidence",
    f"{TEST_PREFIX}{MISTAKES_SUFFIX}": "The most confident mistakes",
    f"{TEST_PREFIX}{AVERAGE_PRECISION_SUFFIX}": "Average precision of each class",
    TRAINING_SAMPLES_PICTURE: "Training images, and what the network sees of them",
}
_CORRUPTIONS_NAME = f"{TEST_PREFIX}{CORRUPTIONS_SUFFIX}"
SOURCES = (
    CONFIG_NAME, RECIPE_NAME, RESULTS_NAME, EXPORTS_NAME, _CORRUPTIONS_NAME,
    *(f"{FIGURES_FOLDER}/{name}" for name in _PICTURES),
)  # fmt: skip
"""The files of a run that a card is written from."""


def render_model_card(folder: Path, name: str, license: str | None = None) -> str:
    """
    The text of the card of a finished folder. What the files of the run do not say is not in it.

    Args:
        name: name of the model, as `from_pretrained` takes it.
        license: licence of the weights, where it differs from the recipe's.
    """
    recipe = shared_recipe(folder, license)
    if recipe:
        license = recipe.license
    results, others = own_results(folder, recipe)
    task = task_of_network(SlimResNetConfig.from_pretrained(folder))
    dataset, is_local = results.get("train_dataset"), results.get("train_dataset_is_local")
    started_from = results.get("train_started_from")
    metadata = ModelCardData(
        model_name=name,
        license=license,
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["slimresnet", "resnet", "image-classification", "pytorch"],
        base_model=started_from if started_from and results.get("train_started_from_is_local") is False else None,
        datasets=[dataset] if dataset and is_local is False else None,
        metrics=[shown_scores(task)[task.main_score].hub_metric] if recipe or results else None,
        eval_results=eval_results(folder) or None,
    )
    card = ModelCard.from_template(
        metadata,
        template_path=str(_TEMPLATE),
        name=name,
        recipe=recipe,
        results=results,
        **_WRITERS,
        **_of_network(folder),
        **_of_scores(folder, results, recipe, others),
        **_of_exports(folder, results),
        changed_settings=recipe and as_block(changed_settings(recipe), "yaml"),
        training_facts=recipe and training_facts(results, recipe),
        is_cifar10=dataset in _CIFAR10 and is_local is False,
    )
    text = card.content.rstrip("\n") + "\n\n"
    return text + _mark(text)


def is_as_rendered(card: str) -> bool:
    """Whether a card is as it was written here: its last line has the digest of the rest."""
    text, mark, digest = card.rpartition(_MARK.split("{}")[0])
    return bool(mark) and mark + digest == _mark(text)


def _mark(text: str) -> str:
    return _MARK.format(hashlib.sha256(text.encode()).hexdigest())


def _of_network(folder: Path) -> dict[str, Any]:
    """What the template says of the network: its size and its classes."""
    config = SlimResNetConfig.from_pretrained(folder)
    with torch.device("meta"):
        num_parameters = SlimResNetForImageClassification(config).num_parameters()
    names = label_names(config)
    return {
        "image_size": config.image_size,
        "num_channels": config.num_channels,
        "is_multi_label": task_of_network(config).is_multi_label,
        "main_score": task_of_network(config).main_score.replace("_", " "),
        "num_labels": config.num_labels,
        "label_names": [as_text(each) for each in names] if len(names) <= 20 else None,
        "num_parameters": num_parameters,
        "multiply_adds": multiply_adds(config, config.image_size),
    }


def _of_scores(folder: Path, results: dict, recipe: Recipe | None, others: tuple[str, ...]) -> dict[str, Any]:
    """
    What the template says of scores, how they were chosen and made, and the pictures of them.

    Args:
        others: prefixes of the figures of other data.
    """
    titles = scored_prefixes(results, recipe)
    return {
        "results_table": results_table(results, titles),
        "has_intervals": any(f"{prefix}_accuracy_low" in results for prefix in titles),
        "num_held_out": recipe and num_held_out(results, recipe),
        "validation_split": VALIDATION_SPLIT,
        "chosen": recipe and chosen_together(results, recipe),
        "threshold_of_classes": threshold_of_classes(results),
        "answers_at_thresholds": answers_at_thresholds(results),
        "precisions": {
            title: results[f"{prefix}_precision"]
            for prefix, title in titles.items()
            if results.get(f"{prefix}_precision", "float32") != "float32"
        },
        "num_views": len(POLICIES[results.get("test_tta", "none")]),
        "calibration_clause": calibration_clause(results),
        "frost": _FROST.get(results.get("test_corruption_frost"), results.get("test_corruption_frost")),
        "overlapping": recipe and list(overlapping_augmentations(recipe)),
        "corruptions": read_json(folder / _CORRUPTIONS_NAME).get("none"),
        "pictures": [
            (f"{FIGURES_FOLDER}/{file}", caption)
            for file, caption in _PICTURES.items()
            if (folder / FIGURES_FOLDER / file).exists()
            and not file.startswith(others)
            and is_written_here(folder, f"{FIGURES_FOLDER}/{file}")
        ],
    }


def _of_exports(folder: Path, results: dict) -> dict[str, Any]:
    """What the template says of the files that export.py made."""
    exports = facts_of_exports(folder, results)
    return {"exports": exports, "js_dtypes": _js_dtypes([export["file"] for export in exports])}


def _js_dtypes(files: list[str]) -> list[str]:
    """The dtypes by which transformers.js finds files, the quantised ones first: they are what a browser is to load."""
    found = sorted((each for file in files for each in formats_of(file)), key=lambda each: not each.is_quantized)
    return list(dict.fromkeys(each.js_dtype for each in found if each.js_dtype))
