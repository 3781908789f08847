"""The end of a run: what is left to choose is chosen on validation, then the test split is scored once."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from slimresnet.data.opening import TrainingData
from slimresnet.evaluation.rows import HELD_OUT_PREFIX, TEST_PREFIX, TIMES_SCORED, ScoredRows, rows_of_run
from slimresnet.evaluation.scores import report_split
from slimresnet.evaluation.temperature import fit_temperature
from slimresnet.evaluation.tta import POLICIES, best_policy, compare_policies, views_of
from slimresnet.recipe.settings import Recipe

Predict = Callable[..., dict[str, Tensor]]
"""`predict_logits` with its model: of a split, row numbers and views."""


class Chosen(NamedTuple):
    """Test-time augmentation, and the temperature; None where there is none."""

    tta: str
    temperature: float | None


class Scored(NamedTuple):
    """Figures for `all_results.json`, details by split, and the logits `[num_rows, num_labels]` of the test split."""

    results: dict
    details: dict[str, dict]
    test_logits: Tensor


def score_finished(recipe: Recipe, data: TrainingData, predict: Predict) -> Scored:
    """
    Chooses on validation what the recipe leaves open, then scores the test split once.

    Without validation images an open choice is no test-time augmentation, and no temperature.
    """
    held_out, test = rows_of_run(recipe, data)
    if len(data.validation_rows):
        chosen, results, details = _choose(recipe, data, held_out, predict)
    else:
        chosen = Chosen("none" if recipe.tta == "auto" else recipe.tta, recipe.temperature)
        results, details = {}, {}
    logits = predict(data.test, data.test_rows, views=views_of(chosen.tta))
    labels = data.test.labels[data.test_rows]
    tested, details["test"] = report_split(
        TEST_PREFIX, logits, labels, policy=chosen.tta, temperature=chosen.temperature
    )
    tested |= test.facts(TEST_PREFIX) | {"test_precision": "float32", TIMES_SCORED: 1}
    if chosen.temperature:
        results["temperature"] = chosen.temperature
    return Scored(results | tested, details, logits["original"])


def _choose(
    recipe: Recipe, data: TrainingData, held_out: ScoredRows, predict: Predict
) -> tuple[Chosen, dict, dict[str, dict]]:
    """What is chosen on validation, the figures of validation with it, and their details."""
    is_chosen = {
        "epoch": recipe.load_best_model_at_end,
        "tta": recipe.tta == "auto",
        "temperature": recipe.temperature is None,
    }
    labels = data.train.labels[data.validation_rows]
    contenders = list(POLICIES) if recipe.tta == "auto" else [recipe.tta]
    logits = predict(data.train, data.validation_rows, views=views_of(*contenders))
    accuracies = compare_policies(logits, labels) if recipe.tta == "auto" else None
    chosen = Chosen(
        best_policy(accuracies) if accuracies else recipe.tta,
        recipe.temperature or fit_temperature(logits["original"], labels),
    )
    results, details = report_split(HELD_OUT_PREFIX, logits, labels, policy=chosen.tta, temperature=chosen.temperature)
    results |= held_out.facts(HELD_OUT_PREFIX)
    results["eval_precision"] = "float32"
    if is_chosen["temperature"]:
        results["temperature_samples"] = len(labels)
    if any(is_chosen.values()):
        results["eval_chose_samples"] = len(labels)
        results["eval_chose"] = ", ".join(name for name, was_chosen in is_chosen.items() if was_chosen)
    if accuracies:
        results["eval_chose_tta"] = chosen.tta  # eval_tta is of what was scored last
        details["tta"] = accuracies
    return chosen, results, {"eval": details}
