"""Answers below a threshold of probability are left out: which threshold gives a wanted precision, and at what cost."""

import math
import re
from collections.abc import Mapping

import numpy as np
from sklearn.metrics import precision_recall_curve
from torch import Tensor

from slimresnet.data.task import MULTI_LABEL, task_of
from slimresnet.evaluation.rows import HELD_OUT_PREFIX
from slimresnet.evaluation.scores import AT_THRESHOLD, measure
from slimresnet.evaluation.tta import POLICIES, average

PRECISIONS = (0.9, 0.95, 0.99)
"""Shares of right answers that a threshold is chosen for."""

_NORMAL_QUANTILE = 1.959964  # of 97.5 %: the lower end of an interval of 95 %
F1 = "f1"
"""Name of the threshold, one for all classes, from which an image of several classes is given a class."""
DEFAULT_THRESHOLD = 0.5
"""What takes its place where no images were held out."""

_FIGURE = re.compile(r"((threshold|coverage|precision)_\d\d|threshold_f1|micro_f1|macro_f1|exact_match)(_tta)?")

Thresholds = dict[str, float]
"""
Probabilities, 0–1, by the wanted precision in per cent, such as `95`, or of several classes an image by `F1`; `95_tta`,
`f1_tta` with test-time augmentation.
"""


def fewest_answers(precision: float) -> int:
    """The number of answers, all of them right, whose 95 % interval has its lower end at `precision`, 0–1."""
    return math.ceil(_NORMAL_QUANTILE**2 * precision / (1 - precision))


def choose_thresholds(logits: Mapping[str, Tensor], labels: np.ndarray, policy: str) -> Thresholds:
    """
    The thresholds that leave the fewest images unanswered, and reach the precisions of `PRECISIONS`.

    What has to reach a precision is the lower end of the 95 % interval (Wilson, 1927) of the share of right answers. A
    threshold that too few answers support is so left out: 0.9 takes 35 answers without a mistake, 0.99 takes 381.

    Of several classes an image it is the one threshold that makes the micro F1 largest.

    Args:
        logits: calibrated logits of held-out images, `[N, num_labels]` for each view that `policy` needs.
        labels: as `ImageSplit` has them.
        policy: test-time augmentation. Other than `none`, it gets thresholds of its own.
    """
    if task_of(labels).is_multi_label:
        by_ending = _logits_by_ending(logits, policy).items()
        return {f"{F1}{ending}": best_f1_threshold(each, labels) for ending, each in by_ending}
    chosen = {}
    for ending, (probability, is_right) in _answers(logits, labels, policy).items():
        order = np.argsort(-probability, kind="stable")
        sorted_probability, right = probability[order], np.cumsum(is_right[order])
        low = _lower_end(right, np.arange(1, len(order) + 1))
        # Images of one probability are answered together.
        is_end = np.append(sorted_probability[1:] < sorted_probability[:-1], True)
        for precision in PRECISIONS:
            reached = np.flatnonzero((low >= precision) & is_end)
            if not len(reached):
                continue
            last = int(reached[-1])
            # Between two images, so that rounding moves neither across; 0 where all are answered.
            below = len(order) > last + 1
            threshold = (sorted_probability[last] + sorted_probability[last + 1]) / 2 if below else 0.0
            chosen[f"{precision * 100:.0f}{ending}"] = float(threshold)
    return chosen


def figures_at(
    prefix: str, logits: Mapping[str, Tensor], labels: np.ndarray, policy: str, thresholds: Thresholds
) -> dict[str, float]:
    """
    Figures for `all_results.json`, all 0–1: each threshold, its coverage, and its precision.

    The coverage is the share of images that are answered; the precision is the share of answers that are right, and is
    left out where nothing is answered. Of several classes an image the figures are each threshold, `DEFAULT_THRESHOLD`
    where there is none, and what the metric `AT_THRESHOLD` says.

    Args:
        prefix: beginning of the names of the figures.
        all others: as in `choose_thresholds`.
    """
    figures: dict[str, float] = {}
    if task_of(labels).is_multi_label:
        for ending, each in _logits_by_ending(logits, policy).items():
            threshold = f1_threshold(thresholds, ending)
            figures[f"{prefix}_threshold_{F1}{ending}"] = threshold
            measured = measure(AT_THRESHOLD, each, labels, threshold=threshold)
            figures |= {f"{prefix}_{name}{ending}": value for name, value in measured.items()}
        return figures
    answers = _answers(logits, labels, policy)
    for name, threshold in thresholds.items():
        probability, is_right = answers["_tta" if name.endswith("_tta") else ""]
        answered = probability >= threshold
        figures[f"{prefix}_threshold_{name}"] = threshold
        figures[f"{prefix}_coverage_{name}"] = float(answered.mean())
        if answered.any():
            figures[f"{prefix}_precision_{name}"] = float(is_right[answered].mean())
    return figures


def best_f1_threshold(logits: Tensor, labels: np.ndarray) -> float:
    """The probability, 0–1, from which classes are given for the largest micro F1; logits and labels of one shape."""
    if not labels.any():
        return DEFAULT_THRESHOLD
    probabilities = MULTI_LABEL.probabilities(logits).numpy().ravel()
    precision, recall, reached = precision_recall_curve(labels.ravel(), probabilities)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    best = int(f1[:-1].argmax())
    # Between two probabilities, so that rounding moves neither across; 0 where every class is given.
    below = probabilities[probabilities < reached[best]]
    return float((reached[best] + below.max()) / 2) if len(below) else 0.0


def f1_threshold(thresholds: Thresholds, ending: str) -> float:
    """The threshold `F1`; `ending` is `_tta` for the one with test-time augmentation, which has the other's place."""
    return thresholds.get(f"{F1}{ending}", thresholds.get(F1, DEFAULT_THRESHOLD))


def thresholds_of(results: dict, prefix: str, policy: str) -> Thresholds:
    """
    The thresholds that `all_results.json` has.

    Args:
        prefix: of the held-out figures of the network.
        policy: test-time augmentation. Thresholds of another policy are left out.
    """
    endings = ["", "_tta"] if policy != "none" and results.get(f"{prefix}_tta") == policy else [""]
    wanted = [*(f"{precision * 100:.0f}" for precision in PRECISIONS), F1]
    names = [f"{name}{ending}" for name in wanted for ending in endings]
    found = {name: results[key] for name in names if (key := f"{prefix}_threshold_{name}") in results}
    of_network = f"{HELD_OUT_PREFIX}_threshold_{F1}"
    # No promise of a precision rests on it, so that a file of the network may have the network's.
    return {F1: results[of_network]} | found if of_network in results else found


def held_out_prefix(scored_as: str, is_quantized: bool) -> str:
    """
    Prefix of the held-out figures whose thresholds hold for a network.

    A file in float32 has the thresholds of the network that it was made of. A quantised one has its own.

    Args:
        scored_as: infix of the network's figures.
    """
    return f"{HELD_OUT_PREFIX}_{scored_as}" if is_quantized else HELD_OUT_PREFIX


def is_figure_at_threshold(name: str, prefix: str) -> bool:
    """Whether a name in `all_results.json` is one of `figures_at`; `prefix` with the `_` at its end."""
    return name.startswith(prefix) and bool(_FIGURE.fullmatch(name.removeprefix(prefix)))


def _answers(logits: Mapping[str, Tensor], labels: np.ndarray, policy: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By the ending of a figure's name: the largest probability of each image `[N]`, and whether its class is right."""
    return {
        ending: (each.softmax(dim=1).amax(dim=1).numpy(), each.argmax(dim=1).numpy() == labels)
        for ending, each in _logits_by_ending(logits, policy).items()
    }


def _logits_by_ending(logits: Mapping[str, Tensor], policy: str) -> dict[str, Tensor]:
    """The logits of the original images, and those with test-time augmentation, by the ending of a figure's name."""
    by_ending = {"": logits["original"]}
    if policy != "none":
        by_ending["_tta"] = average(dict(logits), POLICIES[policy])
    return by_ending


def _lower_end(right: np.ndarray, answered: np.ndarray) -> np.ndarray:
    """Lower end of the 95 % interval (Wilson, 1927) of the share of right answers; counts, `[N]` each."""
    share, square = right / answered, _NORMAL_QUANTILE**2 / answered
    spread = np.sqrt(square * (share * (1 - share) + square / 4))
    return (share + square / 2 - spread) / (1 + square)
