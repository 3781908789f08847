"""Label smoothing: Szegedy et al., 2016, "Rethinking the Inception Architecture for Computer Vision", section 7."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from slimresnet.data.randomness import Draws, JoinedDraws
from slimresnet.data.transforms.transform import LabelTransform


@dataclass(frozen=True)
class LabelSmoothing(LabelTransform):
    """
    Attributes:
        label_smoothing_factor: share of every label that is spread over all classes.
    """

    label_smoothing_factor: float

    is_light: ClassVar[bool] = True

    def __call__(self, pixels: Tensor, targets: Tensor, draws: Draws | JoinedDraws) -> tuple[Tensor, Tensor]:
        if not self.label_smoothing_factor:
            return pixels, targets
        uniform = torch.full_like(targets, 1 / targets.shape[1])
        return pixels, torch.lerp(targets, uniform, self.label_smoothing_factor)
