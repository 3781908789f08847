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
        probabilities = softmax(np.asarray(predictions, dtype=np.float64), axis=1)
        confidence = probabilities.max(axis=1)
        correct = probabilities.argmax(axis=1) == np.asarray(references)
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
