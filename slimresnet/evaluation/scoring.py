"""Scores of a model on a split."""

from collections.abc import Callable, Iterable
from pathlib import Path

import evaluate
import numpy as np
import torch
from accelerate.utils import gather_object
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional as F

from slimresnet.data.loader import Loading, evaluation_batches
from slimresnet.data.sources.source import ImageSplit
from slimresnet.evaluation.tta import VIEWS
from slimresnet.formats.trained import check_finite

METRICS_FOLDER = Path(__file__).parent / "metrics"


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    split: ImageSplit,
    rows: np.ndarray,
    loading: Loading,
    *,
    batch_size: int,
    normalize: Callable[[Tensor], Tensor],
    views: Iterable[str] = ("original",),
) -> dict[str, Tensor]:
    """
    Logits of all rows, whichever process scored them, for each view of the images.

    Args:
        model: takes `pixel_values`, gives `logits`; it is set to evaluation mode.
        rows: row numbers, each scored once.
        normalize: uint8 `[B, 3, H, W]` to `pixel_values`.
        views: names of `slimresnet.evaluation.tta.VIEWS`.

    Returns:
        By view, float32 `[len(rows), num_labels]` on the CPU, in the order of `rows`, the same on every process.

    Raises:
        ModelError: logits are NaN or infinite; on every process, whichever scored those images.
        RuntimeError: another number of rows was scored than was asked for.
    """
    model.eval()
    views = list(views)
    share: list[list[Tensor]] = [
        [model(pixel_values=normalize(VIEWS[view](pixels))).logits.float().cpu() for view in views]
        for pixels, _ in evaluation_batches(split, rows, batch_size, loading)
    ]
    batches = gather_object(share)
    logits = {view: torch.cat([batch[index] for batch in batches]) for index, view in enumerate(views)}
    for scored in logits.values():
        if len(scored) != len(rows):
            raise RuntimeError(f"{len(scored)} samples were scored, where {len(rows)} were asked for.")
        check_finite(scored, [f"row {row}" for row in rows])
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
    logits = predict_logits(model, split, rows, loading, batch_size=batch_size, normalize=normalize)["original"]
    labels = torch.from_numpy(split.labels[rows])
    return {
        "loss": F.cross_entropy(logits.double(), labels).item(),
        "accuracy": (logits.argmax(dim=1) == labels).double().mean().item(),
    }


def measure(name: str, logits: Tensor, labels: np.ndarray) -> dict:
    """What a metric of `evaluation/metrics` says of logits `[N, num_labels]` and class numbers `[N]`."""
    return evaluate.load(str(METRICS_FOLDER / name)).compute(predictions=logits.numpy(), references=labels)


def fit_temperature(logits: Tensor, labels: np.ndarray) -> float:
    """The number that dividing the logits by makes the cross entropy least (Guo et al., 2017, section 4.2)."""
    targets = torch.from_numpy(labels)

    def loss(log_temperature: float) -> float:
        return F.cross_entropy(logits.double() / np.exp(log_temperature), targets).item()

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))
