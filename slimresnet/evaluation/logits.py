"""Logits of a network for rows of a split."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from slimresnet.data.loader import Loading, evaluation_batches
from slimresnet.data.sources.source import ImageSplit
from slimresnet.evaluation.tta import logits_of_views
from slimresnet.formats.trained import check_finite


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
        normalize: uint8 `[B, C, H, W]` to `pixel_values`.
        views: names of `slimresnet.evaluation.tta.VIEWS`.

    Returns:
        By view, float32 `[len(rows), num_labels]` on the CPU, in the order of `rows`, the same on every process.

    Raises:
        ModelError: logits are NaN or infinite; on every process, whichever scored those images.
        RuntimeError: another number of rows was scored than was asked for.
    """
    model.eval()
    views = list(views)

    def predict(pixels: Tensor) -> Tensor:
        return model(pixel_values=normalize(pixels)).logits.float()

    batches = [
        torch.stack([*logits_of_views(predict, pixels, views).values()])
        for pixels, _ in evaluation_batches(split, rows, batch_size, loading)
    ]
    # One copy to the CPU for all: each waits for the device. A process without a row has nothing to copy.
    share = [torch.cat(batches, dim=1).cpu()] if batches else []
    logits = dict(zip(views, torch.cat(gather_object(share), dim=1), strict=True))
    for scored in logits.values():
        if len(scored) != len(rows):
            raise RuntimeError(f"{len(scored)} samples were scored, where {len(rows)} were asked for.")
        check_finite(scored, [f"row {row}" for row in rows])
    return logits
