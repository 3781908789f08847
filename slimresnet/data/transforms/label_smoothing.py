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
        label_smoothing_factor: share of every label that is spread over all classes; over 0 and 1 for each class, where
            an image may be of several.
    """

    label_smoothing_factor: float

    is_light: ClassVar[bool] = True

    def __call__(
        self, pixels: Tensor, targets: Tensor, draws: Draws | JoinedDraws, chance: float
    ) -> tuple[Tensor, Tensor]:
        if not self.label_smoothing_factor:
            return pixels, targets
        return pixels, torch.lerp(targets, torch.full_like(targets, chance), self.label_smoothing_factor)
