"""Mixing each image with another one, and its label by the same share: by CutMix or by mixup."""

from dataclasses import dataclass

import torch
from torch import Tensor

from slimresnet.data.device import to_device
from slimresnet.data.randomness import Draws, JoinedDraws
from slimresnet.data.transforms.cutmix import cutmix_boxes, pasted_share
from slimresnet.data.transforms.masks import box_mask, paste
from slimresnet.data.transforms.mixup import blend, mixup_share
from slimresnet.data.transforms.transform import LabelTransform


@dataclass(frozen=True)
class Mixing(LabelTransform):
    """
    Pastes a patch of another image in (CutMix), or blends the whole images (mixup); the labels follow in proportion.

    Each sample has its own chance, λ and box. One number decides between CutMix, mixup and neither. A sample's partner
    is its neighbour: samples `2i` and `2i + 1` of a batch take from each other (the order is random already), and each
    takes from the other as it was before mixing. So the pairs of a global batch are the same however many processes
    share it, if the batch of each is even. The odd last sample takes from the one before it; a single sample stays as
    it is, or is mixed with its own copy where there are copies. To mix uint8 pixels moves a quarter of the bytes of
    normalised ones. Pasting gives the same numbers there; blending rounds (see `blend`).

    Attributes:
        cutmix_prob: probability that a patch is pasted into a sample; 0 for none.
        cutmix_alpha: CutMix draws λ from Beta(alpha, alpha); positive.
        mixup_prob: probability that a sample is blended; 0 for none. It is at most 1 together with `cutmix_prob`.
        mixup_alpha: mixup draws λ from Beta(alpha, alpha); positive.
    """

    cutmix_prob: float
    cutmix_alpha: float
    mixup_prob: float
    mixup_alpha: float

    def __call__(
        self, pixels: Tensor, targets: Tensor, draws: Draws | JoinedDraws, chance: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        if not (self.cutmix_prob or self.mixup_prob):
            return pixels, targets
        drawn = draws.uniform("cutmix", 4)  # by CutMix's name: runs without mixup keep their draws
        decision = drawn[:, 0]
        partner = partners(len(targets), targets.device)
        others, mixed = pixels.index_select(0, partner), pixels
        share = torch.zeros(len(targets), 1, device=targets.device)  # of the partner, in each sample
        if self.cutmix_prob:
            boxes = cutmix_boxes(drawn[:, 1:], self.cutmix_alpha, *pixels.shape[-2:])
            boxes[decision >= self.cutmix_prob] = 0
            mixed = paste(mixed, others, box_mask(boxes, pixels))
            share += pasted_share(boxes, pixels)
        if self.mixup_prob:
            blended = mixup_share(drawn[:, 1], self.mixup_alpha)
            blended[(decision < self.cutmix_prob) | (decision >= self.cutmix_prob + self.mixup_prob)] = 0
            blended_share = to_device(blended, pixels.device).unsqueeze(1)
            mixed = blend(mixed, others, blended_share)
            share += blended_share
        return mixed, torch.lerp(targets, targets.index_select(0, partner), share)


def partners(batch_size: int, device: torch.device | None = None) -> Tensor:
    """The sample that each sample is mixed with, int64 `[batch_size]`."""
    indices = torch.arange(batch_size, device=device)
    return (indices ^ 1).where(indices ^ 1 < batch_size, indices - 1).clamp(min=0)
