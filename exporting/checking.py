"""Whether an exported graph says what the network says."""

import torch
from torch import Tensor

from .graphs import ExportError

# In float32 the sums run in another order, no more; int8 is judged by its classes, if its logits are numbers.
LARGEST_DIFFERENCE = {"float32": 1e-3, "int8": torch.finfo(torch.float32).max}
SMALLEST_SHARE = {"float32": 0.998, "int8": 0.95}


def agreement(name: str, logits: Tensor, expected: Tensor, precision: str) -> dict[str, float]:
    """
    How far logits `[N, num_labels]` are from those of the network on the same images.

    Args:
        precision: of the graph, `"float32"` or `"int8"`.

    Returns:
        `checked_images`, `largest_difference`, and `same_class`, a share of the images.

    Raises:
        ExportError: they disagree.
    """
    difference = (logits - expected).abs().max().item()
    same = (logits.argmax(dim=1) == expected.argmax(dim=1)).double().mean().item()
    if not (difference <= LARGEST_DIFFERENCE[precision] and same >= SMALLEST_SHARE[precision]):  # NaN is refused too
        raise ExportError(
            f"{name} disagrees with the network: the same class for {same:.2%} of {len(expected)} training images, "
            f"logits that differ by {difference:.3g}; nothing was written. Try other versions of the export packages"
            + (", or more --calibration_samples." if precision == "int8" else ".")
        )
    return {"checked_images": len(expected), "largest_difference": difference, "same_class": same}
