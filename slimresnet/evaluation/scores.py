"""Figures made of logits: scores, which are numbers, and details, such as a number a class or a confusion matrix."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import evaluate
import numpy as np
import torch
from torch import Tensor, nn

from slimresnet.data.loader import Loading
from slimresnet.data.sources.source import ImageSplit
from slimresnet.data.task import MULTI_LABEL, SINGLE_LABEL, TASKS, Task, task_of
from slimresnet.evaluation.logits import predict_logits
from slimresnet.evaluation.tta import POLICIES, average

METRICS_FOLDER = Path(__file__).parent / "metrics"
UNEVEN = 1.5


class Score(NamedTuple):
    """
    How a score is shown to people.

    Attributes:
        title: its name in the metadata of a model card.
        hub_metric: its name in the Hub's list of metrics.
        column: heading in a table.
        form: how its number is written, as `format` takes it.
        where_uneven: whether it is shown only where the largest class has `UNEVEN` times the images of the smallest.
    """

    title: str
    hub_metric: str
    column: str
    form: str = ".2%"
    where_uneven: bool = False


class Metric(NamedTuple):
    """
    How the values of a metric, a folder of `metrics`, are used. Floats are scores; all other values are details.

    Attributes:
        shown: scores that a model card shows, by name.
        renamed: names of details in the files of a run, where they differ from the metric's own.
        uncalibrated: values that are measured before calibration too, under names that end in `_uncalibrated`.
    """

    shown: dict[str, Score]
    renamed: dict[str, str]
    uncalibrated: tuple[str, ...] = ()


METRICS = {
    "classification": Metric(
        shown={
            "accuracy": Score("Accuracy", "accuracy", "accuracy"),
            "top_5_accuracy": Score("Top-5 accuracy", "accuracy", "top-5"),
            "loss": Score("Cross entropy", "loss", "cross entropy", ".4f"),
        },
        renamed={},
        uncalibrated=("loss",),
    ),
    "per_class": Metric(
        shown={
            "balanced_accuracy": Score("Balanced accuracy", "accuracy", "balanced accuracy", where_uneven=True),
            "macro_f1": Score("Macro F1", "f1", "macro F1", where_uneven=True),
        },
        renamed={},
    ),
    "calibration": Metric(
        shown={
            "expected_calibration_error": Score("Expected calibration error", "ece", "calibration error"),
            "expected_calibration_error_uncalibrated": Score(
                "Expected calibration error before calibration", "ece", "before calibration"
            ),
        },
        renamed={"bins": "reliability"},
        uncalibrated=("expected_calibration_error", "bins"),
    ),
}
"""Metrics of one class an image, by the name of the folder in `metrics`. A new one is a folder there, and an entry."""

AT_THRESHOLD = "classes_at_threshold"
MULTI_LABEL_METRICS = {
    "multi_label": Metric(
        shown={
            "mean_average_precision": Score("Mean average precision", "mean_average_precision", "mAP"),
            "loss": Score("Binary cross entropy", "loss", "binary cross entropy", ".4f"),
        },
        renamed={},
        uncalibrated=("loss",),
    ),
    AT_THRESHOLD: Metric(
        shown={
            "micro_f1": Score("Micro F1", "f1", "micro F1"),
            "macro_f1": Score("Macro F1", "f1", "macro F1"),
            "exact_match": Score("Exact matches", "accuracy", "exact matches"),
        },
        renamed={},
    ),
}
"""Metrics of images that may be of several classes. Those of `AT_THRESHOLD` need one, which validation gives."""


def metrics_of(task: Task) -> dict[str, Metric]:
    """The metrics of a task, by the names of their folders."""
    return MULTI_LABEL_METRICS if task.is_multi_label else METRICS


def task_of_results(results: dict) -> Task:
    """The task whose scores `all_results.json` has."""
    is_multi_label = any(name.endswith(f"_{MULTI_LABEL.main_score}") for name in results)
    return MULTI_LABEL if is_multi_label else SINGLE_LABEL


def is_scored(results: dict, prefix: str) -> bool:
    """Whether `all_results.json` has the main score of the rows that a prefix, with its `_`, names."""
    return any(f"{prefix}{task.main_score}" in results for task in TASKS)


def shown_scores(task: Task) -> dict[str, Score]:
    """The scores that a model card shows, by name."""
    return {name: score for metric in metrics_of(task).values() for name, score in metric.shown.items()}


def is_shown(score: Score, results: dict, prefix: str) -> bool:
    """Whether a model card shows a score of the rows that a prefix of `all_results.json` names."""
    if not score.where_uneven:
        return True
    smallest, largest = results.get(f"{prefix}_smallest_class_samples"), results.get(f"{prefix}_largest_class_samples")
    return smallest is not None and largest is not None and largest >= UNEVEN * smallest


def measure(name: str, logits: Tensor, labels: np.ndarray, **settings: float) -> dict:
    """What a metric says of logits `[N, num_labels]` and labels as `ImageSplit` has them; `settings` are its own."""
    # Not `compute`: it carries every number through Arrow, which took fifteen times as long as the metric itself.
    return _metric(name)._compute(logits.numpy(), labels, **settings)


@cache
def _metric(name: str) -> evaluate.Metric:
    return evaluate.load(str(METRICS_FOLDER / name))


def score_logits(logits: Tensor, labels: np.ndarray, temperature: float | None = None) -> tuple[dict, dict]:
    """
    Scores and details of logits `[N, num_labels]` against labels as `ImageSplit` has them, but for those at thresholds.

    Args:
        temperature: above 0, what the network's head was divided by; None where it was not.

    Returns:
        The scores, floats by name, and the details: a value a class, the confusion matrix, the bins of the reliability
        diagram. Of a head that was divided, also what its logits say before that, under names in `_uncalibrated`.
    """
    scores, details = {}, {}
    for name, metric in metrics_of(task_of(labels)).items():
        if name == AT_THRESHOLD:  # `thresholds.figures_at` has it
            continue
        measured = {"": measure(name, logits, labels)}
        if metric.uncalibrated and temperature is not None:
            before = measure(name, logits * temperature, labels)
            measured["_uncalibrated"] = {figure: before[figure] for figure in metric.uncalibrated}
        for ending, said in measured.items():
            for figure, value in said.items():
                if isinstance(value, float):
                    scores[f"{figure}{ending}"] = value
                else:
                    details[f"{metric.renamed.get(figure, figure)}{ending}"] = value
    return scores, details


def report_split(
    prefix: str, logits: dict[str, Tensor], labels: np.ndarray, *, policy: str, temperature: float | None = None
) -> tuple[dict, dict]:
    """
    Scores and details of a split, without and with test-time augmentation.

    Args:
        prefix: prefix of the names of the scores: `eval` for validation, else the split's name.
        logits: logits of the original and of every view of the policy, `[N, num_labels]` each.
        labels: as `ImageSplit` has them.
        policy: the test-time augmentation. Scores with it end in `_tta`, beside those without.
        temperature: as in `score_logits`.

    Returns:
        The scores for `all_results.json`, with the number of images and of those of the smallest and the largest
        class, and the details of the original images.
    """
    scores, details = score_logits(logits["original"], labels, temperature)
    results = {f"{prefix}_{name}": value for name, value in scores.items()}
    counts = task_of(labels).count(labels, logits["original"].shape[1])
    results |= {f"{prefix}_samples": len(labels), f"{prefix}_tta": policy}
    results |= {
        f"{prefix}_smallest_class_samples": int(counts.min()),
        f"{prefix}_largest_class_samples": int(counts.max()),
    }
    if policy != "none":
        with_views, _ = score_logits(average(logits, POLICIES[policy]), labels)
        results |= {f"{prefix}_{name}_tta": value for name, value in with_views.items()}
    return results, details


def score(
    model: nn.Module,
    split: ImageSplit,
    rows: np.ndarray,
    loading: Loading,
    *,
    batch_size: int,
    normalize: Callable[[Tensor], Tensor],
) -> dict[str, float]:
    """
    What validation says of a model: the mean cross entropy (`loss`, in nats), `accuracy`, `balanced_accuracy` and
    `macro_f1` (0–1); of several classes an image the mean binary cross entropy and `mean_average_precision`. Arguments
    as `predict_logits`.
    """
    logits = predict_logits(model, split, rows, loading, batch_size=batch_size, normalize=normalize)["original"]
    labels = torch.from_numpy(split.labels[rows])
    loss = split.task.loss(logits.double(), labels).item()
    if split.task.is_multi_label:
        name = split.task.main_score
        return {"loss": loss, name: measure("multi_label", logits, split.labels[rows])[name]}
    of_classes = measure("per_class", logits, split.labels[rows])
    return {
        "loss": loss,
        "accuracy": (logits.argmax(dim=1) == labels).double().mean().item(),
        **{name: value for name, value in of_classes.items() if isinstance(value, float)},
    }
