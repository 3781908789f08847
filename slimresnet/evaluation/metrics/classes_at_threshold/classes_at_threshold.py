"""F1 and exact matches of the classes whose probability reaches a threshold, from logits."""

import datasets
import evaluate
import numpy as np
from scipy.special import expit
from sklearn.metrics import accuracy_score, f1_score

_INPUTS = """
Args:
    predictions: logits, float `[num_samples, num_labels]`.
    references: 0 or 1 for each class, int `[num_samples, num_labels]`.
    threshold: probability, 0–1, that a class is given to a sample from.
Returns:
    micro_f1: F1 of all pairs of a sample and a class together, 0–1; 0 where no pair is there, nor predicted.
    macro_f1: mean F1 of the classes that are there or predicted, 0–1.
    exact_match: share of samples whose classes are all right, and no other is given, 0–1.
"""


@evaluate.utils.file_utils.add_start_docstrings(__doc__, _INPUTS)
class ClassesAtThreshold(evaluate.Metric):
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

    def _compute(self, predictions, references, threshold=0.5):
        _, labels = _checked(predictions, references)
        # In the precision of the logits that are given, as whoever predicts compares.
        predicted = expit(np.asarray(predictions)) >= threshold
        occurring = labels.any(axis=0) | predicted.any(axis=0)
        each = f1_score(labels, predicted, average=None, zero_division=0.0)
        return {
            "micro_f1": float(f1_score(labels, predicted, average="micro", zero_division=0.0)),
            "macro_f1": float(each[occurring].mean()) if occurring.any() else 0.0,
            "exact_match": float(accuracy_score(labels, predicted)),
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
