"""Random erasing: Zhong et al., 2020, "Random Erasing Data Augmentation"."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from slimresnet.data.device import to_device
from slimresnet.data.randomness import Draws, JoinedDraws
from slimresnet.data.transforms.masks import box_mask, paste
from slimresnet.data.transforms.transform import ImageTransform

ASPECT_RATIO = (0.3, 1 / 0.3)  # section 4 of the paper


@dataclass(frozen=True)
class RandomErasing(ImageTransform):
    """
    Attributes:
        random_erasing_prob: probability that a rectangle is painted over.
        random_erasing_area: range that the rectangle's share of the image is drawn from, uniformly.
        image_mean: colour of the rectangle, in 0–1.
    """

    random_erasing_prob: float
    random_erasing_area: tuple[float, float]
    image_mean: tuple[float, ...]

    def __call__(self, pixels: Tensor, draws: Draws | JoinedDraws) -> Tensor:
        if not self.random_erasing_prob:
            return pixels
        drawn = draws.uniform("random erasing", 5)
        boxes = erasing_boxes(drawn[:, 1:], self.random_erasing_area, *pixels.shape[-2:])
        boxes[drawn[:, 0] >= self.random_erasing_prob] = 0
        color = np.array([round(255 * mean) for mean in self.image_mean], dtype=np.uint8)
        return paste(pixels, to_device(color, pixels.device).view(-1, 1, 1), box_mask(boxes, pixels))


def erasing_boxes(drawn: np.ndarray, area: tuple[float, float], height: int, width: int) -> np.ndarray:
    """
    Rectangles of random area, aspect ratio and place, wholly inside the image.

    Where Zhong et al. (2020) draw again until a rectangle fits, its longer side is cut to the image here, so that each
    sample takes the same number of draws. Up to an area of 0.3 of a square image all fit.

    Args:
        drawn: uniform numbers for area, aspect ratio, top and left, `[B, 4]`.
        area: range of the share of the image's area.

    Returns:
        top, bottom, left, right, int64 `[B, 4]`; bottom and right are exclusive.
    """
    size = (area[0] + drawn[:, 0] * (area[1] - area[0])) * height * width
    low, high = np.log(ASPECT_RATIO)
    ratio = np.exp(low + drawn[:, 1] * (high - low))
    # minimum and maximum: np.clip costs as much as all the rest here
    box_height = np.minimum(np.maximum(np.rint(np.sqrt(size * ratio)), 1), height).astype(np.int64)
    box_width = np.minimum(np.maximum(np.rint(np.sqrt(size / ratio)), 1), width).astype(np.int64)
    top = (drawn[:, 2] * (height - box_height + 1)).astype(np.int64)
    left = (drawn[:, 3] * (width - box_width + 1)).astype(np.int64)
    return np.stack([top, top + box_height, left, left + box_width], axis=1)
