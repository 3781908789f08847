"""Facts of a run for its model card, read from the files of the run. What the files do not say is left out."""

from pathlib import Path

import yaml

from slimresnet.evaluation.rows import HELD_OUT_PREFIX, TEST_PREFIX, VALIDATION_SIZE
from slimresnet.evaluation.scores import is_scored, task_of_results
from slimresnet.evaluation.thresholds import F1, PRECISIONS
from slimresnet.formats.registry import formats_of
from slimresnet.hub.markdown import as_text
from slimresnet.recipe.settings import Recipe
from slimresnet.run_folder.names import EXPORTS_NAME
from slimresnet.run_folder.reading import read_json, read_results

_CHOICES = {  # by a choice of a run, words for people
    "epoch": "the epoch whose weights were kept{score}",
    "end": "when training ended{score}",
    "tta": "the test-time augmentation{tta}",
}
_OF_EARLIER_VERSIONS = "temperature"  # they chose one too, and left it out of the weights
# Settings that say nothing of what is learnt.
_QUIET = ("config_name", "license", "push_to_hub", "hub_model_id", "per_device_eval_batch_size")


def own_results(folder: Path, recipe: Recipe | None) -> tuple[dict, tuple[str, ...]]:
    """
    The results without the figures of other data than the recipe's, and the prefixes of the figures left out.

    Without a recipe, those are the figures of eval.py, each with the data that it is of. What else another program
    wrote is not known to be of any.
    """
    results = read_results(folder)
    if recipe is None:
        own = tuple(f"{prefix}_" for prefix in scored_prefixes(results, recipe))
        return {name: value for name, value in results.items() if name.startswith(own)}, ()
    others = tuple(
        name.removesuffix("dataset")
        for name, dataset in results.items()
        if name.endswith("_dataset") and dataset != recipe.dataset_name
    )
    return {name: value for name, value in results.items() if not name.startswith(others)}, others


def num_held_out(results: dict, recipe: Recipe) -> int:
    """Images that a run held out for validation; 0 for none. Earlier versions left the number to the recipe."""
    found = results.get(VALIDATION_SIZE, recipe.validation_size)
    return found if isinstance(found, int) else results.get(f"{HELD_OUT_PREFIX}_samples", 0)


def scored_prefixes(results: dict, recipe: Recipe | None) -> dict[str, str]:
    """
    The splits of a card, by what the names of their figures begin with.

    Without a recipe no split is that of a run: a split goes by its name, and that of its data.
    """
    if recipe is not None:
        return {TEST_PREFIX: "test", HELD_OUT_PREFIX: "validation"}
    prefixes = [name.removesuffix("_dataset") for name in results if name.endswith("_dataset")]
    return {
        prefix: f"{as_text(results[f'{prefix}_split'])} of {as_text(results[f'{prefix}_dataset'])}"
        for prefix in prefixes
        if f"{prefix}_split" in results and is_scored(results, f"{prefix}_")
    }


def answers_at_thresholds(results: dict) -> list[str]:
    """For each wanted precision the threshold that held-out images gave, and what comes of it on the test images."""
    clauses = []
    for precision in PRECISIONS:
        name = f"{precision * 100:.0f}"
        threshold, coverage, right = (
            results.get(f"{TEST_PREFIX}_{figure}_{name}") for figure in ("threshold", "coverage", "precision")
        )
        if threshold is not None and coverage is not None:
            rightly = "" if right is None else f", {right:.1%} of them rightly"
            clauses.append(f"{name} % below {threshold:.3f} (it answers {coverage:.1%} of the test images{rightly})")
    return clauses


def threshold_of_classes(results: dict) -> tuple[float, int | None] | None:
    """
    The probability from which an image of several classes is given a class, and how many held-out images gave it.

    The number is None where no images were held out; all is None where an image has one class.
    """
    threshold = results.get(f"{HELD_OUT_PREFIX}_threshold_{F1}")
    if threshold is not None:
        return threshold, results.get(f"{HELD_OUT_PREFIX}_samples")
    threshold = results.get(f"{TEST_PREFIX}_threshold_{F1}")
    return None if threshold is None else (threshold, None)


def chosen_together(results: dict, recipe: Recipe) -> list[str]:
    """What a run chose on its held-out images, for people."""
    choices = [each for each in results.get("eval_chose", "").split(", ") if each not in ("", _OF_EARLIER_VERSIONS)]
    policy = _chosen_tta(results, recipe)
    tta = f", `{policy}`" if policy else ""
    best_by = recipe.metric_for_best_model
    is_usual = best_by in (Recipe.metric_for_best_model, task_of_results(results).main_score)
    score = "" if is_usual else f" (by {best_by.replace('_', ' ')})"
    words = {choice: text.format(tta=tta, score=score) for choice, text in _CHOICES.items()}
    return [words.get(choice, as_text(choice)) for choice in choices]


def _chosen_tta(results: dict, recipe: Recipe) -> str | None:
    """The policy that a run chose. Earlier versions wrote it into the recipe; scoring anew does not change that."""
    if recipe.tta != "auto":
        return recipe.tta
    return results.get("eval_chose_tta", results.get(f"{HELD_OUT_PREFIX}_tta"))


def calibration_clause(results: dict) -> str:
    """What follows the temperature in a card, with its leading comma; empty where the source is unknown."""
    source, samples = results.get("calibration_source"), results.get("calibration_samples")
    if source == "recipe":
        return ", which its recipe gives"
    if source is None:
        return ""
    images = "held-out images" if samples is None else f"{samples:,} held-out images"
    return f", fitted on {images} of {'another run of its recipe' if source == 'twin' else 'this run'}"


def facts_of_exports(folder: Path, results: dict) -> list[dict]:
    """Facts of each file that export.py made: those of `exports.json`, and the main test score by backend, if known."""
    rows, score = [], task_of_results(results).main_score
    for name, facts in read_json(folder / EXPORTS_NAME).items():
        accuracies = {
            each.backend: results[f"{TEST_PREFIX}_{each.scored_as}_{score}"]
            for each in formats_of(name)
            if f"{TEST_PREFIX}_{each.scored_as}_{score}" in results
        }
        rows.append({**facts, "file": name, "accuracies": accuracies})
    return rows


def changed_settings(recipe: Recipe) -> str:
    """The settings that decide what is learnt, where they differ from the defaults, as YAML."""
    settings, default = (yaml.safe_load(each.to_yaml()) for each in (recipe, Recipe()))
    changed = {name: value for name, value in settings.items() if value != default[name] and name not in _QUIET}
    return yaml.safe_dump(changed, sort_keys=False) if changed else "# none\n"


def training_facts(results: dict, recipe: Recipe) -> list[str]:
    """Sentences on the cost of the training."""
    facts = []
    if "train_samples" in results:
        epochs = f", {_epochs(results, recipe)}" if "epoch" in results else ""
        batch = f", {results['train_batch_size']:,} images an optimiser step" if "train_batch_size" in results else ""
        copies = f", each in {recipe.augmented_copies} augmented copies" if recipe.augmented_copies > 1 else ""
        facts.append(f"{results['train_samples']:,} training images{epochs}{batch}{copies}")
    if "train_runtime" in results:
        facts.append(_runtime(results, recipe))
    if "total_flos" in results:
        petaflop = results["total_flos"] / 1e15
        taught = ", and twice those of its teachers" if "train_teacher" in results else ""
        frozen = ", twice those of frozen parts" if recipe.freeze != "none" else ""
        facts.append(f"{petaflop:.2g} petaFLOP (six times the multiply-adds of every image seen{frozen}{taught})")
    return facts


def _epochs(results: dict, recipe: Recipe) -> str:
    """How long a run trained, and that it stopped early where it did."""
    if results.get("train_ended_by") != "early_stopping_patience":
        return f"{results['epoch']:.4g} epochs"
    whole = f" of {recipe.num_train_epochs}" if recipe.max_train_steps is None else ""
    return f"{results['epoch']:.4g}{whole} epochs, stopped early as validation no longer improved"


def _runtime(results: dict, recipe: Recipe) -> str:
    where = f" on {as_text(results['train_device'])}" if results.get("train_device") else ""
    seconds = results["train_runtime"]
    long = f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
    words = [f"{long} of training steps{where}"]
    if (many := results.get("train_num_processes", 1)) > 1:
        words.append(f"{many} processes")
    if "train_samples_per_second" in results:
        words.append(f"{results['train_samples_per_second']:,.0f} images a second")
    # Earlier versions wrote what the run computed in into the recipe.
    precision = results.get("train_precision", recipe.mixed_precision)
    if precision != "auto":
        words.append(f"precision {as_text(precision)}")
    return ", ".join(words)
