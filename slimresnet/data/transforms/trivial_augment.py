"""TrivialAugment: Müller and Hutter, 2021, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation".

Each sample goes through one of fourteen operations, at a strength of its own: nothing has to be tuned. The ranges are
those of the paper's wide augmentation space. The strength is continuous here; the paper has 31 steps. Each operation
does what Pillow's does, at once to all samples of a batch that drew the operation.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from slimresnet.data.corruptions.standard import BLURS
from slimresnet.data.device import to_device
from slimresnet.data.luma import luma
from slimresnet.data.randomness import Draws, JoinedDraws
from slimresnet.data.transforms.transform import ImageTransform

MAX_SHEAR = 0.99
MAX_TRANSLATION = 32  # pixels
MAX_ROTATION = 135  # degrees
MAX_ENHANCEMENT = 0.99  # around a factor of 1, which changes nothing
MAX_LOST_BITS = 6


@dataclass(frozen=True)
class TrivialAugment(ImageTransform):
    """
    Attributes:
        trivial_augment: whether each sample goes through one of the operations. `color` leaves grey ones as they are.
        trivial_augment_translation: pixels that a sample is moved by at most. The paper's 32 moves some images of
            CIFAR-10 out of sight. The authors' code moves them by up to 10 or 14.4 in the spaces of AutoAugment and
            RandAugment.
    """

    trivial_augment: bool
    trivial_augment_translation: int

    def __call__(self, pixels: Tensor, draws: Draws | JoinedDraws) -> Tensor:
        if not self.trivial_augment:
            return pixels
        return trivial_augment(pixels, draws.uniform("trivial augment", 2), self.trivial_augment_translation)

    def overlaps(self) -> dict[str, tuple[str, ...]]:
        """AugMix leaves these four operations out, because corruptions are made with them (Hendrycks et al., 2020)."""
        if not self.trivial_augment:
            return {}
        return {
            "brightness": ("brightness",),
            "contrast": ("contrast",),
            "color": ("saturate",),
            "sharpness": BLURS,  # below a factor of 1 it blurs
        }


def trivial_augment(pixels: Tensor, drawn: np.ndarray, translation: int = MAX_TRANSLATION) -> Tensor:
    """
    One operation a sample.

    Args:
        pixels: uint8 `[B, C, H, W]`, RGB or grey.
        drawn: uniform numbers in [0, 1) for the operation and its level, `[B, 2]`.
        translation: pixels that a translation at level 1 moves the image by.

    Returns:
        The same shape and type; the input is unchanged.
    """
    moves = {each.__name__: partial(each, reach=translation) for each in (translate_x, translate_y)}
    operations = OPERATIONS | moves  # in the same order
    numbers = (drawn[:, 0] * len(operations)).astype(np.int64)
    levels = (2 * drawn[:, 1] - 1).astype(np.float32)
    result = pixels.clone()
    for number, operation in enumerate(operations.values()):
        chosen = np.flatnonzero(numbers == number)
        if len(chosen):
            indices = to_device(chosen, pixels.device)
            level = to_device(levels[chosen], pixels.device).view(-1, 1, 1, 1)
            result.index_copy_(0, indices, operation(pixels.index_select(0, indices), level))
    return result


def identity(pixels: Tensor, level: Tensor) -> Tensor:
    """
    Return the images unchanged.

    Args, of each operation:
        pixels: uint8 `[N, C, H, W]`, RGB or grey.
        level: in [-1, 1], float32 `[N, 1, 1, 1]`; operations without a direction use its magnitude.
    """
    return pixels


def shear_x(pixels: Tensor, level: Tensor) -> Tensor:
    """Moves each row in proportion to its distance from the top, by up to 0.99 of it."""
    return _move(pixels, lambda row, column: (row, column + MAX_SHEAR * level * row))


def shear_y(pixels: Tensor, level: Tensor) -> Tensor:
    """Moves each column in proportion to its distance from the left, by up to 0.99 of it."""
    return _move(pixels, lambda row, column: (row + MAX_SHEAR * level * column, column))


def translate_x(pixels: Tensor, level: Tensor, reach: int = MAX_TRANSLATION) -> Tensor:
    """Moves the image sideways, by up to `reach` pixels."""
    return _move(pixels, lambda row, column: (row, column + reach * level))


def translate_y(pixels: Tensor, level: Tensor, reach: int = MAX_TRANSLATION) -> Tensor:
    """Moves the image up or down, by up to `reach` pixels."""
    return _move(pixels, lambda row, column: (row + reach * level, column))


def rotate(pixels: Tensor, level: Tensor) -> Tensor:
    """Turns the image about its centre, by up to 135 degrees."""
    angle = level * math.radians(MAX_ROTATION)
    cosine, sine = angle.cos(), angle.sin()
    middle_row, middle_column = pixels.shape[2] / 2, pixels.shape[3] / 2

    def source(row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        row, column = row - middle_row, column - middle_column
        return sine * column + cosine * row + middle_row, cosine * column - sine * row + middle_column

    return _move(pixels, source)


def brightness(pixels: Tensor, level: Tensor) -> Tensor:
    """Away from black or towards it."""
    return _enhance(pixels, torch.zeros_like(pixels), level)


def color(pixels: Tensor, level: Tensor) -> Tensor:
    """Away from grey or towards it, pixel by pixel."""
    return _enhance(pixels, luma(pixels), level)


def contrast(pixels: Tensor, level: Tensor) -> Tensor:
    """Away from the image's mean grey or towards it."""
    mean = luma(pixels).float().mean(dim=(1, 2, 3), keepdim=True).add_(0.5).to(pixels.dtype)
    return _enhance(pixels, mean, level)


def sharpness(pixels: Tensor, level: Tensor) -> Tensor:
    """Away from a smoothed image or towards it; the outermost pixels stay."""
    smooth = pixels.clone()
    if min(pixels.shape[2:]) > 2:
        neighbours = F.avg_pool2d(pixels.float(), 3, stride=1, divisor_override=1)
        weighted = neighbours.add_(pixels[:, :, 1:-1, 1:-1], alpha=4)
        smooth[:, :, 1:-1, 1:-1] = weighted.div_(13).add_(0.5).to(pixels.dtype)
    return _enhance(pixels, smooth, level)


def posterize(pixels: Tensor, level: Tensor) -> Tensor:
    """Keeps the highest bits of each value, down to two."""
    lost_bits = (MAX_LOST_BITS * level.abs()).round_().to(pixels.dtype)
    return pixels.bitwise_right_shift(lost_bits).bitwise_left_shift_(lost_bits)


def solarize(pixels: Tensor, level: Tensor) -> Tensor:
    """Turns values from a threshold on into their negatives: none at level 0, all at 1."""
    return torch.where(pixels >= 256 * (1 - level.abs()), 255 - pixels, pixels)


def autocontrast(pixels: Tensor, level: Tensor) -> Tensor:
    """Stretches each channel so that its values reach from 0 to 255."""
    low, high = pixels.amin(dim=(2, 3), keepdim=True).double(), pixels.amax(dim=(2, 3), keepdim=True).double()
    scale = torch.full_like(low, 255) / (high - low)  # 255 / … would multiply by a rounded reciprocal
    stretched = (pixels * scale - low * scale).clamp_(0, 255).to(pixels.dtype)
    return torch.where(high > low, stretched, pixels)


def equalize(pixels: Tensor, level: Tensor) -> Tensor:
    """Spreads the values of each channel, so that about as many pixels have each."""
    values = pixels.flatten(2).long().contiguous()
    each = torch.arange(256, device=pixels.device).expand(*values.shape[:2], 256).contiguous()
    below = torch.searchsorted(values.sort(dim=2).values, each)  # pixels whose value is lower
    below_highest = below.gather(2, values.amax(dim=2, keepdim=True))
    step = below_highest // 255
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255)
    table = torch.where(step > 0, table, each)
    return table.gather(2, values).view_as(pixels).to(pixels.dtype)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    operation.__name__: operation
    for operation in (
        identity,
        shear_x,
        shear_y,
        translate_x,
        translate_y,
        rotate,
        brightness,
        color,
        contrast,
        sharpness,
        posterize,
        solarize,
        autocontrast,
        equalize,
    )
}


def _move(pixels: Tensor, source: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    """Takes each pixel from where `source` says for its centre, nearest neighbour; black from outside the image."""
    height, width = pixels.shape[2:]
    rows = torch.arange(height, device=pixels.device).view(-1, 1) + 0.5
    columns = torch.arange(width, device=pixels.device) + 0.5
    row, column = torch.broadcast_tensors(*(place.floor() for place in source(rows, columns)))
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    places = torch.where(inside, row * width + column, 0).long()
    taken = pixels.flatten(2).gather(2, places.flatten(2).expand(len(pixels), pixels.shape[1], -1))
    return taken.view_as(pixels) * inside


def _enhance(pixels: Tensor, degenerate: Tensor, level: Tensor) -> Tensor:
    """A factor of up to 0.99 less, or more, of what sets the image apart from a degenerate one."""
    base = degenerate.float()
    return (base + (1 + MAX_ENHANCEMENT * level) * (pixels - base)).clamp_(0, 255).to(pixels.dtype)
