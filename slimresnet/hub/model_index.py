"""The figures of a finished folder as the Hub's model-index has them."""

from pathlib import Path

from huggingface_hub import EvalResult

from slimresnet.data.task import Task
from slimresnet.evaluation.scores import is_shown, shown_scores, task_of_results
from slimresnet.hub.run_facts import own_results, scored_prefixes
from slimresnet.hub.shared_recipe import shared_recipe
from slimresnet.recipe.settings import TRAIN_SPLIT, Recipe


def eval_results(folder: Path) -> list[EvalResult]:
    """
    Entries for the test split, and for validation; without a recipe, for each split that eval.py scored.

    Left out are figures whose data, images or policy are not known, and those of other data than the run's.
    """
    recipe = shared_recipe(folder)
    results, _ = own_results(folder, recipe)
    task = task_of_results(results)
    entries, scores = [], shown_scores(task)
    for prefix in scored_prefixes(results, recipe):
        if f"{prefix}_dataset" not in results:
            continue
        dataset = results[f"{prefix}_dataset"]
        for key, (metric, title) in _entries(task).items():
            value, rows = results.get(f"{prefix}_{key}"), _rows_scored(results, prefix, key, recipe)
            if value is None or rows is None or (key.endswith("_tta") and f"{prefix}_tta" not in results):
                continue
            if key in scores and not is_shown(scores[key], results, prefix):
                continue
            entries.append(
                EvalResult(
                    task_type="image-classification",
                    dataset_type=dataset,
                    dataset_name=dataset,
                    dataset_config=recipe.dataset_config_name if recipe else None,
                    dataset_split=rows,
                    dataset_revision=recipe.dataset_revision if recipe else None,
                    metric_type=metric,
                    metric_name=title.format(
                        tta=results.get(f"{prefix}_tta"),
                        frost=results.get(f"{prefix}_corruption_frost", "a fractal, easier than photographs"),
                    ),
                    metric_value=value,
                )
            )
    return entries


def _entries(task: Task) -> dict[str, tuple[str, str]]:
    """Name in `all_results.json`: name in the Hub's list of metrics, name for people."""
    shown = {name: (score.hub_metric, score.title) for name, score in shown_scores(task).items()}
    metric, title = shown[task.main_score]
    return {
        task.main_score: (metric, title),
        f"{task.main_score}_tta": (metric, f"{title} with test-time augmentation ({{tta}})"),
        **shown,
        "corruption_accuracy": ("accuracy", "Mean accuracy under 15 corruptions of 5 severities, frost: {frost}"),
    }


def _rows_scored(results: dict, prefix: str, key: str, recipe: Recipe | None) -> str | None:
    """Name of the split that a figure is of, with the number of its images where they are not the whole split."""
    split = results.get(f"{prefix}_split")
    samples = results.get(f"{prefix}_corruption_samples" if key.startswith("corruption") else f"{prefix}_samples")
    if split is None or samples is None:
        return None
    if recipe and split == TRAIN_SPLIT:  # of which a run may have cut its test images too
        return f"{split} ({samples:,} held out)"
    whole = results.get(f"{prefix}_num_rows", results.get(f"{prefix}_samples"))
    return split if samples == whole else f"{split} ({samples:,} images)"
