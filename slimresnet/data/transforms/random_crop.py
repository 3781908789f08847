"""Random crop: an image of the old size, cut out of the padded one."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from slimresnet.data.device import to_device
from slimresnet.data.randomness import Draws, JoinedDraws
from slimresnet.data.transforms.transform import ImageTransform
from slimresnet.recipe.checks import RecipeError


@dataclass(frozen=True)
class RandomCrop(ImageTransform):
    """
    Attributes:
        crop_padding: pixels added on each side before an image of the old size is cut out at random; 0 for no crop.
        crop_padding_mode: `"zero"` (black) or `"reflect"`.
    """

    crop_padding: int
    crop_padding_mode: Literal["zero", "reflect"]

    is_light: ClassVar[bool] = True

    def check(self, image_size: int) -> None:
        if self.crop_padding >= image_size:
            raise RecipeError(f"--crop_padding {self.crop_padding} must be below the image size, {image_size} pixels.")

    def __call__(self, pixels: Tensor, draws: Draws | JoinedDraws) -> Tensor:
        if not self.crop_padding:
            return pixels
        offsets = (draws.uniform("crop", 2) * (2 * self.crop_padding + 1)).astype(np.int64)
        return crop(pixels, offsets, self.crop_padding, self.crop_padding_mode)


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
