"""Accuracy with its 95 % interval, top-5 accuracy and cross entropy, from logits."""

import datasets
import evaluate
import numpy as np
from scipy.special import log_softmax
from scipy.stats import binomtest

_INPUTS = """
Args:
    predictions: logits, float `[num_samples, num_labels]`.
    references: class numbers, int `[num_samples]`.
Returns:
    accuracy: share of samples whose largest logit is the label's, 0–1.
    accuracy_low, accuracy_high: its 95 % interval (Wilson, 1927).
    top_5_accuracy: share of samples whose label is among the five largest logits; not there for five classes or fewer,
        where every label is.
    loss: mean cross entropy, in nats.
"""


@evaluate.utils.file_utils.add_start_docstrings(__doc__, _INPUTS)
class Classification(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions, references):
        logits, labels = _checked(predictions, references)
        rows = np.arange(len(labels))
        # Ties go to the lower class, as argmax has it.
        ranks = (logits > logits[rows, labels, None]).sum(1)
        ranks += ((logits == logits[rows, labels, None]) & (np.arange(logits.shape[1]) < labels[:, None])).sum(1)
        correct = int((ranks == 0).sum())
        interval = binomtest(correct, len(labels)).proportion_ci(0.95, method="wilson")
        top_5 = {"top_5_accuracy": float((ranks < 5).mean())} if logits.shape[1] > 5 else {}
        return {
            "accuracy": correct / len(labels),
            "accuracy_low": float(interval.low),
            "accuracy_high": float(interval.high),
            **top_5,
            "loss": float(-log_softmax(logits, axis=1)[rows, labels].mean()),
        }


def _checked(predictions, references):
    """
    Logits, float64 `[num_samples, num_labels]`, and labels that a figure can be made of.

    The same text stands in each metric, for `evaluate` copies a script without its neighbours.
    """
    widths = {len(row) for row in predictions}
    if len(widths) != 1 or min(widths) < 2:
        raise ValueError(
            "predictions must be logits [num_samples, num_labels] of at least one sample and two classes, got "
            f"{len(predictions)} samples of {sorted(widths)} classes."
        )
    logits, labels = (np.asarray(each, dtype=np.float64) for each in (predictions, references))
    wrong = ~(np.isfinite(logits).all(axis=1) & (labels >= 0) & (labels < logits.shape[1]))
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(
            f"{wrong.sum()} of {len(labels)} samples have logits that are not finite, or a label outside 0 … "
            f"{logits.shape[1] - 1}; the first is sample {first}, whose label is {labels[first]:g}."
        )
    return logits, labels.astype(int)
