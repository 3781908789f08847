"""Augmentation of whole uint8 batches `[B, C, H, W]`, each sample by its own draw, on any device.

Decisions are made on the CPU from `Draws` (a few numbers a sample) and shipped to the device, so that nothing has to
be read back from it.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from slimresnet.data.device import to_device
from slimresnet.data.randomness import Draws, JoinedDraws
from slimresnet.data.transforms.trivial_augment import trivial_augment

ERASING_ASPECT_RATIO = (0.3, 1 / 0.3)  # Zhong et al., 2020, "Random Erasing Data Augmentation", section 4


@dataclass(frozen=True)
class Augmentation:
    """
    What is done to a training image, in this order. A probability or a padding of 0 leaves a step out.

    Attributes:
        trivial_augment: each sample goes through one of the operations of `trivial_augment.py`; for RGB.
        crop_padding: pixels added on each side before an image of the old size is cut out at random.
        crop_padding_mode: `"zero"` (black) or `"reflect"`.
        horizontal_flip_prob, vertical_flip_prob: probability of a mirror image.
        alternating_flip: a sample is mirrored from left to right in every other epoch, and `horizontal_flip_prob` is
            the share that begins with it: two epochs show each sample both ways (Jordan, 2024, "94% on CIFAR-10 in
            3.29 Seconds on a Single GPU", section 3.6).
        gaussian_blur_prob: probability of a 3×3 Gaussian blur.
        gaussian_blur_sigma: range in pixels that its standard deviation is drawn from, uniformly.
        random_erasing_prob: probability that a rectangle is painted over (Zhong et al., 2020).
        random_erasing_area: range that the share of its area is drawn from, uniformly.
        erasing_color: RGB in 0–255 that it is painted with.
    """

    trivial_augment: bool = False
    crop_padding: int = 0
    crop_padding_mode: Literal["zero", "reflect"] = "zero"
    horizontal_flip_prob: float = 0.0
    alternating_flip: bool = False
    vertical_flip_prob: float = 0.0
    gaussian_blur_prob: float = 0.0
    gaussian_blur_sigma: tuple[float, float] = (0.1, 1.5)
    random_erasing_prob: float = 0.0
    random_erasing_area: tuple[float, float] = (0.02, 0.2)
    erasing_color: tuple[int, ...] = (0, 0, 0)

    def __call__(self, pixels: Tensor, draws: Draws | JoinedDraws) -> Tensor:
        """Augments a batch, uint8 `[B, C, H, W]`; returns the same shape and type, the input unchanged."""
        if self.trivial_augment:
            pixels = trivial_augment(pixels, draws.uniform("trivial augment", 2))
        if self.crop_padding:
            offsets = (draws.uniform("crop", 2) * (2 * self.crop_padding + 1)).astype(np.int64)
            pixels = crop(pixels, offsets, self.crop_padding, self.crop_padding_mode)
        if self.alternating_flip:
            begins = draws.uniform_of_samples("alternating flip") < self.horizontal_flip_prob
            pixels = flip(pixels, begins ^ (draws.epoch % 2 == 1), dim=3)
        elif self.horizontal_flip_prob:
            pixels = flip(pixels, draws.uniform("horizontal flip", 1)[:, 0] < self.horizontal_flip_prob, dim=3)
        if self.vertical_flip_prob:
            pixels = flip(pixels, draws.uniform("vertical flip", 1)[:, 0] < self.vertical_flip_prob, dim=2)
        if self.gaussian_blur_prob:
            chance, share = draws.uniform("gaussian blur", 2).T
            low, high = self.gaussian_blur_sigma
            pixels = gaussian_blur(pixels, chance < self.gaussian_blur_prob, low + share * (high - low))
        if self.random_erasing_prob:
            drawn = draws.uniform("random erasing", 5)
            boxes = erasing_boxes(drawn[:, 1:], self.random_erasing_area, *pixels.shape[-2:])
            boxes[drawn[:, 0] >= self.random_erasing_prob] = 0
            color = to_device(np.array(self.erasing_color, dtype=np.uint8), pixels.device).view(-1, 1, 1)
            pixels = paste(pixels, color, box_mask(boxes, pixels))
        return pixels


def crop(pixels: Tensor, offsets: np.ndarray, padding: int, mode: Literal["zero", "reflect"]) -> Tensor:
    """
    Pads by `padding` on each side, then cuts out the old size at `offsets`.

    Args:
        pixels: `[B, C, H, W]`.
        offsets: top and left of each sample's window, int64 `[B, 2]`, each in `0 … 2 · padding`.
        padding: smaller than H and W if `mode` is `"reflect"`.
    """
    height, width = pixels.shape[-2:]
    padded = F.pad(pixels, [padding] * 4, mode="constant" if mode == "zero" else mode)
    # Every run of `width` bytes of the batch is a row of this view: rows are copied whole, which is several times
    # faster than an index for each pixel.
    runs = padded.view(-1).as_strided((padded.numel() - width + 1, width), (1, 1))
    per_row, per_channel = padded.stride(2), padded.stride(1)
    corners = to_device(offsets @ np.array([per_row, 1]), pixels.device).view(-1, 1, 1)
    channels = torch.arange(len(pixels) * pixels.shape[1], device=pixels.device).view(*pixels.shape[:2], 1)
    starts = (corners + channels * per_channel) + torch.arange(height, device=pixels.device) * per_row
    return runs.index_select(0, starts.view(-1)).view(pixels.shape)


def flip(pixels: Tensor, chosen: np.ndarray, dim: int) -> Tensor:
    """Mirrors the chosen samples (bool `[B]`) along dimension 2 (upside down) or 3 (left to right)."""
    mask = to_device(chosen.astype(np.uint8) * 255, pixels.device).view(-1, 1, 1, 1)
    return paste(pixels, pixels.flip(dim), mask)


def paste(pixels: Tensor, patch: Tensor, mask: Tensor) -> Tensor:
    """`patch` where `mask` is 255, `pixels` where it is 0; all uint8. Several times as fast here as `torch.where`."""
    return (pixels ^ patch).bitwise_and_(mask).bitwise_xor_(pixels)


def gaussian_blur(pixels: Tensor, chosen: np.ndarray, sigma: np.ndarray) -> Tensor:
    """
    Convolves the chosen samples with a 3×3 Gaussian of their own sigma, the border reflected, rounded to uint8.

    Args:
        pixels: uint8 `[B, C, H, W]`, H and W at least 2.
        chosen: bool `[B]`.
        sigma: standard deviation in pixels, positive, float `[B]`.
    """
    if not chosen.any():
        return pixels
    indices = to_device(np.flatnonzero(chosen), pixels.device)
    neighbour = np.exp(-0.5 / sigma[chosen] ** 2)  # relative to the centre; the kernel is separable
    side = to_device((neighbour / (1 + 2 * neighbour)).astype(np.float32), pixels.device).view(-1, 1, 1, 1)
    padded = F.pad(pixels.index_select(0, indices), [1] * 4, mode="reflect").float()
    rows = (padded[:, :, :-2] + padded[:, :, 2:]).mul_(side).add_(padded[:, :, 1:-1] * (1 - 2 * side))
    blurred = (rows[..., :-2] + rows[..., 2:]).mul_(side).add_(rows[..., 1:-1] * (1 - 2 * side))
    return pixels.index_copy(0, indices, blurred.round_().to(pixels.dtype))


def erasing_boxes(shape: np.ndarray, area: tuple[float, float], height: int, width: int) -> np.ndarray:
    """
    Rectangles of random area, aspect ratio and place, wholly inside the image.

    Where Zhong et al. (2020) draw again until a rectangle fits, its longer side is cut to the image here, so that each
    sample takes the same number of draws. Up to an area of 0.3 of a square image all fit.

    Args:
        shape: uniform numbers for area, aspect ratio, top and left, `[B, 4]`.
        area: range of the share of the image's area.

    Returns:
        top, bottom, left, right, int64 `[B, 4]`; bottom and right are exclusive.
    """
    size = (area[0] + shape[:, 0] * (area[1] - area[0])) * height * width
    low, high = np.log(ERASING_ASPECT_RATIO)
    ratio = np.exp(low + shape[:, 1] * (high - low))
    # minimum and maximum: np.clip costs as much as all the rest here
    box_height = np.minimum(np.maximum(np.rint(np.sqrt(size * ratio)), 1), height).astype(np.int64)
    box_width = np.minimum(np.maximum(np.rint(np.sqrt(size / ratio)), 1), width).astype(np.int64)
    top = (shape[:, 2] * (height - box_height + 1)).astype(np.int64)
    left = (shape[:, 3] * (width - box_width + 1)).astype(np.int64)
    return np.stack([top, top + box_height, left, left + box_width], axis=1)


def box_mask(boxes: np.ndarray, pixels: Tensor) -> Tensor:
    """255 inside each sample's box (top, bottom, left, right, int64 `[B, 4]`), 0 elsewhere: uint8 `[B, 1, H, W]`."""
    count, (height, width) = len(boxes), pixels.shape[-2:]
    top, bottom, left, right = boxes.T[:, :, None]
    rows, columns = np.arange(height), np.arange(width)
    # A mask is made of two kinds of lines, the box's and an empty one, which are again copied whole.
    lines = np.zeros((count + 1, width), dtype=np.uint8)
    lines[:count][(columns >= left) & (columns < right)] = 255
    which = np.where((rows >= top) & (rows < bottom), np.arange(count)[:, None], count)
    return (
        to_device(lines, pixels.device)
        .index_select(0, to_device(which.ravel(), pixels.device))
        .view(-1, 1, height, width)
    )


def resize(pixels: Tensor, size: int) -> Tensor:
    """uint8 `[B, C, H, W]` to `[B, C, size, size]`, bilinear and antialiased, as Pillow and the image processor do."""
    if pixels.shape[-2:] == (size, size):
        return pixels
    resized = F.interpolate(pixels.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return resized.round_().clamp_(0, 255).to(pixels.dtype)


def normalize(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 `[B, C, H, W]` to float32: scaled to 0–1, less `mean`, over `std` of its channel, as the processor does."""
    std_ = np.array(std, dtype=np.float32).reshape(-1, 1, 1)
    mean_ = np.array(mean, dtype=np.float32).reshape(-1, 1, 1)
    return pixels.float().mul_(to_device(1 / (255 * std_), pixels.device)).sub_(to_device(mean_ / std_, pixels.device))
