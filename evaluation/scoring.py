"""Scores of a model on a split."""

from collections.abc import Callable

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn import functional as F

from cifar10.loading import Loading, evaluation_batches
from cifar10.reading import ImageSplit


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    split: ImageSplit,
    rows: np.ndarray,
    loading: Loading,
    *,
    batch_size: int,
    normalize: Callable[[Tensor], Tensor],
) -> Tensor:
    """
    Logits of all rows, whichever process scored them.

    Args:
        model: takes `pixel_values`, gives `logits`; it is set to evaluation mode.
        rows: row numbers, each scored once.
        normalize: uint8 `[B, 3, H, W]` to `pixel_values`.

    Returns:
        float32 `[len(rows), num_labels]` on the CPU, in the order of `rows`, the same on every process.

    Raises:
        RuntimeError: another number of rows was scored than was asked for.
    """
    model.eval()
    batches = evaluation_batches(split, rows, batch_size, loading)
    share = [model(pixel_values=normalize(pixels)).logits.float().cpu() for pixels, _ in batches]
    logits = torch.cat(gather_object(share))
    if len(logits) != len(rows):
        raise RuntimeError(f"{len(logits)} samples were scored, where {len(rows)} were asked for.")
    return logits


def score(
    model: nn.Module,
    split: ImageSplit,
    rows: np.ndarray,
    loading: Loading,
    *,
    batch_size: int,
    normalize: Callable[[Tensor], Tensor],
) -> dict[str, float]:
    """Mean cross entropy (`loss`, in nats) and `accuracy` (0–1) of a model; arguments as `predict_logits`."""
    logits = predict_logits(model, split, rows, loading, batch_size=batch_size, normalize=normalize)
    labels = torch.from_numpy(split.labels[rows])
    return {
        "loss": F.cross_entropy(logits.double(), labels).item(),
        "accuracy": (logits.argmax(dim=1) == labels).double().mean().item(),
    }
