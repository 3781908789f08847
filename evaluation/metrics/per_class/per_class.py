"""Precision, recall and F1 of each class, and the confusion matrix, from logits."""

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
        logits = np.asarray(predictions)
        predicted, classes = logits.argmax(axis=1), np.arange(logits.shape[1])
        precision, recall, f1, _ = precision_recall_fscore_support(
            references, predicted, labels=classes, zero_division=0.0
        )
        return {
            "precision": precision.tolist(),
            "recall": recall.tolist(),
            "f1": f1.tolist(),
            "confusion_matrix": confusion_matrix(references, predicted, labels=classes).tolist(),
        }
