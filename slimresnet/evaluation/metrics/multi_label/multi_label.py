"""Mean average precision and binary cross entropy of images that may be of several classes, from logits."""

import datasets
import evaluate
import numpy as np
from sklearn.metrics import average_precision_score

_INPUTS = """
Args:
    predictions: logits, float `[num_samples, num_labels]`.
    references: 0 or 1 for each class, int `[num_samples, num_labels]`.
Returns:
    mean_average_precision: mean of the average precisions of the classes that are there, 0–1; 0 where none is.
    loss: mean binary cross entropy, in nats.
    average_precision: a number a class, 0–1; None for a class that is not there.
"""


@evaluate.utils.file_utils.add_start_docstrings(__doc__, _INPUTS)
class MultiLabel(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "references": datasets.Sequence(datasets.Value("int64")),
                }
            ),
        )

    def _compute(self, predictions, references):
        logits, labels = _checked(predictions, references)
        there = labels.any(axis=0)
        # By logits, whose order is that of probabilities, of which large ones are equal.
        each = [
            float(average_precision_score(labels[:, number], logits[:, number])) if there[number] else None
            for number in range(labels.shape[1])
        ]
        found = [value for value in each if value is not None]
        return {
            "mean_average_precision": float(np.mean(found)) if found else 0.0,
            "loss": float((np.logaddexp(0, logits) - labels * logits).mean()),
            "average_precision": each,
        }


def _checked(predictions, references):
    """
    Logits, float64, and labels, int, `[num_samples, num_labels]` each, that a figure can be made of.

    The same text stands in each metric, for `evaluate` copies a script without its neighbours.
    """
    logits, labels = np.asarray(predictions, dtype=np.float64), np.asarray(references)
    if logits.ndim != 2 or not len(logits) or logits.shape[1] < 2 or logits.shape != labels.shape:
        raise ValueError(
            "predictions must be logits [num_samples, num_labels] of at least one sample and two classes, and "
            f"references 0 or 1 of the same shape, got {list(logits.shape)} and {list(labels.shape)}."
        )
    wrong = ~(np.isfinite(logits).all(axis=1) & ((labels == 0) | (labels == 1)).all(axis=1))
    if wrong.any():
        raise ValueError(
            f"{wrong.sum()} of {len(labels)} samples have logits that are not finite, or a label that is neither 0 nor "
            f"1; the first is sample {int(wrong.argmax())}."
        )
    return logits, labels.astype(int)
