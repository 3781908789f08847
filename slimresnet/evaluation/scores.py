"""What is said of a model's logits: figures, details, and which test-time augmentation helps."""

import numpy as np
from torch import Tensor

from slimresnet.evaluation.scoring import measure
from slimresnet.evaluation.tta import POLICIES, average
from slimresnet.formats.trained import ModelError


def figures(logits: Tensor, labels: np.ndarray, temperature: float | None = None) -> tuple[dict, dict]:
    """
    Scores of logits `[N, num_labels]` against class numbers `[N]`.

    Args:
        temperature: fitted on validation, above 0, to say the calibration error after scaling with it too; None where
            there is none.

    Returns:
        The numbers for `all_results.json`, and the details: a value a class, the confusion matrix, the bins of the
        reliability diagram.

    Raises:
        ModelError: the temperature is not above 0, or not finite.
    """
    numbers = measure("classification", logits, labels)
    details = measure("per_class", logits, labels)
    calibration = measure("calibration", logits, labels)
    numbers["expected_calibration_error"] = calibration["expected_calibration_error"]
    details["reliability"] = calibration["bins"]
    if temperature is not None:
        if not 0 < temperature < float("inf"):
            raise ModelError(
                f"temperature {temperature} must be above 0, and finite: fit it anew with python eval.py MODEL --split "
                "held_out --output_dir MODEL."
            )
        scaled = measure("calibration", logits / temperature, labels)
        numbers["expected_calibration_error_scaled"] = scaled["expected_calibration_error"]
        details["reliability_scaled"] = scaled["bins"]
    return numbers, details


def report_split(
    prefix: str, logits: dict[str, Tensor], labels: np.ndarray, *, policy: str, temperature: float | None = None
) -> tuple[dict, dict]:
    """
    All that is said of a split.

    Args:
        prefix: of the names of the numbers: `eval` for validation, else the split's name.
        logits: of the original and of every view of the policy, `[N, num_labels]` each.
        labels: class numbers, int64 `[N]`.
        policy: the test-time augmentation; its numbers have `_tta` behind their names, and stand beside those without.
        temperature: as in `figures`.

    Returns:
        The numbers, and the details of the views without test-time augmentation.
    """
    numbers, details = figures(logits["original"], labels, temperature)
    results = {f"{prefix}_{name}": value for name, value in numbers.items()}
    results |= {f"{prefix}_samples": len(labels), f"{prefix}_tta": policy}
    if policy != "none":
        with_views, _ = figures(average(logits, POLICIES[policy]), labels)
        results |= {f"{prefix}_{name}_tta": value for name, value in with_views.items()}
    return results, details


def compare_policies(logits: dict[str, Tensor], labels: np.ndarray) -> dict[str, float]:
    """
    Accuracy, 0–1, of each policy, and of the report's one with each of its views left out.

    Args:
        logits: of every view that a policy uses, `[N, num_labels]` each.
    """
    contenders = dict(POLICIES)
    for left_out in POLICIES["paper"]:
        others = [name for name in POLICIES["paper"] if name != left_out]
        contenders[f"paper without {left_out}"] = dict.fromkeys(others, 1 / len(others))
    return {name: accuracy(logits, policy, labels) for name, policy in contenders.items()}


def accuracy(logits: dict[str, Tensor], policy: dict[str, float], labels: np.ndarray) -> float:
    """Share, 0–1, of the samples that the weighted views of a policy get right; arguments as `average`."""
    return float((average(logits, policy).argmax(dim=1).numpy() == labels).mean())


def best_policy(accuracies: dict[str, float]) -> str:
    """The most accurate of the policies; of equal ones the one with the fewest views."""
    return max(POLICIES, key=lambda name: (accuracies[name], -len(POLICIES[name])))


def views_of(*policies: str) -> list[str]:
    """The views that the policies need, the original first."""
    return list(dict.fromkeys(["original", *(view for policy in policies for view in POLICIES[policy])]))
