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
    top_5_accuracy: share of samples whose label is among the five largest logits (all of them, of fewer classes).
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
        logits, labels = np.asarray(predictions, dtype=np.float64), np.asarray(references)
        rows = np.arange(len(labels))
        # Ties go to the lower class, as argmax has it.
        ranks = (logits > logits[rows, labels, None]).sum(1)
        ranks += ((logits == logits[rows, labels, None]) & (np.arange(logits.shape[1]) < labels[:, None])).sum(1)
        correct = int((ranks == 0).sum())
        interval = binomtest(correct, len(labels)).proportion_ci(0.95, method="wilson")
        return {
            "accuracy": correct / len(labels),
            "accuracy_low": float(interval.low),
            "accuracy_high": float(interval.high),
            "top_5_accuracy": float((ranks < 5).mean()),
            "loss": float(-log_softmax(logits, axis=1)[rows, labels].mean()),
        }
