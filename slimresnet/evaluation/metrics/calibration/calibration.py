"""Expected calibration error of 15 bins (Guo et al., 2017, "On Calibration of Modern Neural Networks", section 2)."""

import datasets
import evaluate
import numpy as np
from scipy.special import softmax

_INPUTS = """
Args:
    predictions: logits, float `[num_samples, num_labels]`.
    references: class numbers, int `[num_samples]`.
    num_bins: equal bins of the largest probability, over 0–1.
Returns:
    expected_calibration_error: mean distance of confidence and accuracy, 0–1, each bin by its share of the samples.
    bins: of each bin that is not empty, its mean `confidence`, its `accuracy` and its `share` of the samples.
"""


@evaluate.utils.file_utils.add_start_docstrings(__doc__, _INPUTS)
class Calibration(evaluate.Metric):
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

    def _compute(self, predictions, references, num_bins=15):
        if num_bins < 1:
            raise ValueError(f"num_bins must be at least 1, got {num_bins}.")
        logits, labels = _checked(predictions, references)
        confidence = softmax(logits, axis=1).max(axis=1)
        correct = logits.argmax(axis=1) == labels  # probabilities tie where close logits do not
        # Bins are open below and closed above, as in the paper.
        bin_of = np.ceil(confidence * num_bins).astype(int)
        bins = [
            {
                "confidence": float(confidence[chosen].mean()),
                "accuracy": float(correct[chosen].mean()),
                "share": float(chosen.mean()),
            }
            for chosen in (bin_of == number for number in range(1, num_bins + 1))
            if chosen.any()
        ]
        error = sum(each["share"] * abs(each["accuracy"] - each["confidence"]) for each in bins)
        return {"expected_calibration_error": error, "bins": bins}


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
