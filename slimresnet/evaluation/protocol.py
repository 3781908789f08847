"""How a split is scored: which views, under which names, with which facts beside the figures."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from slimresnet.data.sources.source import ImageSplit
from slimresnet.evaluation.plots import split_pictures
from slimresnet.evaluation.rows import HELD_OUT_PREFIX, ScoredRows, count_test, saw_held_out
from slimresnet.evaluation.scores import report_split
from slimresnet.evaluation.thresholds import choose_thresholds, figures_at, thresholds_of
from slimresnet.evaluation.tta import POLICIES, compare_policies, views_of
from slimresnet.run_folder.names import DETAILS_SUFFIX


class Predict(Protocol):
    """`predict_logits` of one network."""

    def __call__(self, split: ImageSplit, rows: np.ndarray, *, views: Iterable[str]) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class ScoredNetwork:
    """
    A network as it is scored.

    Attributes:
        predict: gives the network's logits.
        scored_as: infix of the network's figures; empty for the network in PyTorch.
        precision: what the network computes in: `"float32"`, `"bf16"` or `"int8"`.
        held_out_prefix: prefix of the held-out figures whose thresholds hold for the network.
    """

    predict: Predict
    scored_as: str = ""
    precision: str = "float32"
    held_out_prefix: str = HELD_OUT_PREFIX

    def prefix(self, rows: ScoredRows) -> str:
        """Prefix of the network's figures of `rows`; it names every network but the one in PyTorch."""
        return "_".join(filter(None, [rows.prefix, self.scored_as]))


@dataclass(frozen=True)
class Evaluation:
    """
    What an evaluation found.

    Attributes:
        results: scores and facts by name, as `all_results.json` has them; accuracies in 0–1.
        details: contents of JSON files, by the name of the file.
        pictures: functions that draw a picture to a path, by the name of the picture's file.
    """

    results: dict
    details: dict[str, dict]
    pictures: dict[str, Callable[[Path], None]] = field(default_factory=dict)


def score_split(
    network: ScoredNetwork, scored: ScoredRows, *, tta: str, compare_tta: bool, of_model: dict, of_output: dict
) -> Evaluation:
    """
    Scores rows of a split, as the network is shipped, and its calibration before the run divided its head.

    Held-out rows get thresholds of their own, unless they were trained on before the model's run. Other rows are scored
    at those that the model's held-out rows gave.

    Args:
        tta: policy of test-time augmentation that the rows are scored with, beside the original images.
        compare_tta: whether every policy is scored too; the accuracies are a detail named `tta`.
        of_model: the model's `all_results.json`.
        of_output: `all_results.json` of the folder that the figures are for, whose count of scorings goes on.
    """
    prefix, labels = network.prefix(scored), scored.split.labels[scored.rows]
    started = time.perf_counter()
    logits = network.predict(scored.split, scored.rows, views=views_of(*(POLICIES if compare_tta else [tta])))
    runtime = time.perf_counter() - started
    temperature = of_model.get("calibration_temperature")
    results, details = report_split(prefix, logits, labels, policy=tta, temperature=temperature)
    results |= scored.facts(prefix) | count_test(scored, of_output)
    if scored.are_held_out:
        thresholds = {} if saw_held_out(of_model) else choose_thresholds(logits, labels, tta)
    else:
        thresholds = thresholds_of(of_model, network.held_out_prefix, tta)
    results |= figures_at(prefix, logits, labels, tta, thresholds)
    results[f"{prefix}_precision"] = network.precision
    results |= {f"{prefix}_runtime": runtime, f"{prefix}_samples_per_second": len(labels) / runtime}
    if compare_tta:
        details["tta"] = compare_policies(logits, labels)
    pictures = split_pictures(prefix, scored.split, scored.rows, logits["original"], details)
    return Evaluation(results, {f"{prefix}{DETAILS_SUFFIX}": details}, pictures)
