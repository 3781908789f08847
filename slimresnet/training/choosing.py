"""The end of a run: what is left to choose is chosen on validation, the head calibrated, the test split scored once."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from torch import Tensor

from modeling_slimresnet import SlimResNetForImageClassification
from slimresnet.data.opening import TrainingData
from slimresnet.evaluation.rows import HELD_OUT_PREFIX, TEST_PREFIX, TIMES_SCORED, ScoredRows, rows_of_run
from slimresnet.evaluation.scores import report_split
from slimresnet.evaluation.temperature import LEAST_IMAGES, fit_temperature
from slimresnet.evaluation.thresholds import choose_thresholds, figures_at, thresholds_of
from slimresnet.evaluation.tta import POLICIES, best_policy, compare_policies, views_of
from slimresnet.formats.trained import fold_batchnorm
from slimresnet.recipe.settings import Recipe
from slimresnet.training.calibration import GIVEN, HELD_OUT_IMAGES, Calibration, divide_head

Predict = Callable[..., dict[str, Tensor]]
"""`predict_logits`: of a network, a split, row numbers and views."""


class Chosen(NamedTuple):
    """Test-time augmentation, and what the head is divided by; None where nothing says."""

    tta: str
    calibration: Calibration | None

    @property
    def temperature(self) -> float | None:
        """The temperature of the calibration, if there is one."""
        return self.calibration.temperature if self.calibration else None


class Scored(NamedTuple):
    """Figures for `all_results.json`, details by split, and the logits `[num_rows, num_labels]` of the test split."""

    results: dict
    details: dict[str, dict]
    test_logits: Tensor


def score_finished(
    recipe: Recipe,
    data: TrainingData,
    network: SlimResNetForImageClassification,
    predict: Predict,
    twin: Calibration | None = None,
    has_seen: bool = False,
) -> Scored:
    """
    Chooses on validation what the recipe leaves open, calibrates the network, then scores the test split once.

    Without validation images an open choice is no test-time augmentation, and the temperature is that of the recipe or
    of a twin, or there is none.

    Args:
        network: with the weights of the run. Its head is divided in place, on every process by the same temperature.
        twin: what `--calibration_run` gives.
        has_seen: whether validation images were trained on before this run. They fit no temperature and no threshold.
    """
    held_out, test = rows_of_run(recipe, data)
    given = Calibration(recipe.temperature, GIVEN) if recipe.temperature else twin
    if len(data.validation_rows):
        chosen, results, details = _choose(
            recipe, data, held_out, partial(predict, fold_batchnorm(network)), given, has_seen
        )
    else:
        chosen, results, details = Chosen("none" if recipe.tta == "auto" else recipe.tta, given), {}, {}
    if chosen.calibration:
        divide_head(network, chosen.calibration.temperature)
        results |= chosen.calibration.facts()
    logits = predict(fold_batchnorm(network), data.test, data.test_rows, views=views_of(chosen.tta))
    labels = data.test.labels[data.test_rows]
    tested, details["test"] = report_split(
        TEST_PREFIX, logits, labels, policy=chosen.tta, temperature=chosen.temperature
    )
    tested |= test.facts(TEST_PREFIX) | {"test_precision": "float32", TIMES_SCORED: 1}
    thresholds = thresholds_of(results, HELD_OUT_PREFIX, chosen.tta)
    tested |= figures_at(TEST_PREFIX, logits, labels, chosen.tta, thresholds)
    return Scored(results | tested, details, logits["original"])


def _choose(
    recipe: Recipe,
    data: TrainingData,
    held_out: ScoredRows,
    predict: Predict,
    given: Calibration | None,
    has_seen: bool,
) -> tuple[Chosen, dict, dict[str, dict]]:
    """
    What is chosen on validation, the figures of validation with it, and their details.

    Args:
        predict: `Predict` with the network, whose head is not divided yet.
        given: a temperature that is not to be fitted.
        has_seen: as in `score_finished`.
    """
    labels = data.validation.labels[data.validation_rows]
    # Of fewer images one policy or another is ahead by chance.
    tta = "none" if recipe.tta == "auto" and len(labels) < LEAST_IMAGES else recipe.tta
    is_chosen = {
        "epoch": recipe.load_best_model_at_end,
        "end": recipe.early_stopping_patience is not None,
        "tta": tta == "auto",
    }
    contenders = list(POLICIES) if tta == "auto" else [tta]
    logits = predict(data.validation, data.validation_rows, views=views_of(*contenders))
    accuracies = compare_policies(logits, labels) if tta == "auto" else None
    fitted = given if given or has_seen else _fit(logits["original"], labels)
    chosen = Chosen(best_policy(accuracies) if accuracies else tta, fitted)
    if chosen.temperature:  # as the divided head gives them
        logits = {view: each / chosen.temperature for view, each in logits.items()}
    results, details = report_split(HELD_OUT_PREFIX, logits, labels, policy=chosen.tta, temperature=chosen.temperature)
    results |= held_out.facts(HELD_OUT_PREFIX)
    thresholds = {} if has_seen else choose_thresholds(logits, labels, chosen.tta)
    results |= figures_at(HELD_OUT_PREFIX, logits, labels, chosen.tta, thresholds)
    results["eval_precision"] = "float32"
    if any(is_chosen.values()):
        results["eval_chose_samples"] = len(labels)
        results["eval_chose"] = ", ".join(name for name, was_chosen in is_chosen.items() if was_chosen)
    if accuracies:
        results["eval_chose_tta"] = chosen.tta  # eval_tta is of what was scored last
        details["tta"] = accuracies
    return chosen, results, {"eval": details}


def _fit(logits: Tensor, labels: np.ndarray) -> Calibration | None:
    """The temperature that fits held-out logits, `[N, num_labels]`, of class numbers `[N]`; None where none does."""
    temperature = fit_temperature(logits, labels)
    return None if temperature is None else Calibration(temperature, HELD_OUT_IMAGES, len(labels))
