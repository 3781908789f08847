"""Precision, recall and F1 of each class, their means over classes, and the confusion matrix, from logits."""

import datasets
import evaluate
import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

_INPUTS = """
Args:
    predictions: logits, float `[num_samples, num_labels]`.
    references: class numbers, int `[num_samples]`.
Returns:
    precision, recall, f1: a number a class, 0–1; 0 where a class was never predicted or never there.
    balanced_accuracy: mean recall of the classes that are there, 0–1.
    macro_f1: mean F1 of the classes that are there or predicted, 0–1.
    confusion_matrix: counts, a row a true class, a column a predicted one.
"""


@evaluate.utils.file_utils.add_start_docstrings(__doc__, _INPUTS)
class PerClass(evaluate.Metric):
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
        predicted, classes = logits.argmax(axis=1), np.arange(logits.shape[1])
        precision, recall, f1, there = precision_recall_fscore_support(
            labels, predicted, labels=classes, zero_division=0.0
        )
        matrix = confusion_matrix(labels, predicted, labels=classes)
        return {
            "precision": precision.tolist(),
            "recall": recall.tolist(),
            "f1": f1.tolist(),
            "balanced_accuracy": float(recall[there > 0].mean()),
            "macro_f1": float(f1[(there > 0) | (matrix.sum(axis=0) > 0)].mean()),
            "confusion_matrix": matrix.tolist(),
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
