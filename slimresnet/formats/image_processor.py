"""What a folder's image processor does to a picture, and the refusal of one that does what nothing here can do."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from PIL.Image import fromarray
from torch import Tensor
from transformers import DeiTImageProcessorPil, ViTImageProcessorPil
from transformers.image_processing_utils import BaseImageProcessor

from modeling_slimresnet import SlimResNetConfig
from slimresnet.data.luma import LUMA
from slimresnet.data.sources.decoding import PixelFormat, ResizeMode, pixels_of, processor_settings
from slimresnet.data.transforms.normalize import normalize

# Processors that do nothing but resize, crop, pad, rescale and normalise, as their settings say.
_PROCESSORS = {"ViTImageProcessor": ViTImageProcessorPil, "DeiTImageProcessor": DeiTImageProcessorPil}
_LARGEST_TRIED = 256  # pixels: a processor does the same at any size, and a file may name one that fills the memory


class ImageProcessing(NamedTuple):
    """
    What an image processor does to a picture.

    Attributes:
        pixel_format: what the picture is made into.
        normalize: makes float32 `pixel_values` of uint8 `[B, C, H, W]`, the same shape. For a network of one channel it
            takes RGB too.
    """

    pixel_format: PixelFormat
    normalize: Callable[[Tensor], Tensor]


def processing_of(folder: Path, config: SlimResNetConfig) -> ImageProcessing:
    """
    What the image processor of a folder does for the network of the folder.

    Raises:
        Exception: whatever the processor's own classes raise where they cannot be made.
        ValueError: the processor does other than resize to the network's size (bilinear, in one of the ways of
            `ResizeMode`), rescale and normalise.
    """
    processor = open_processor(folder)
    mean, std = mean_and_std(processor)
    if config.num_channels == 1:
        if np.ptp(mean) or np.ptp(std):
            raise ValueError(
                f"image_mean {processor.image_mean} and image_std {processor.image_std} must be the same for each "
                "channel, because the network takes grey images."
            )
        mean, std = mean[:1], std[:1]
    made = partial(normalize, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    pixel_format = PixelFormat(config.image_size, resize_mode_of(processor, config.image_size), config.num_channels)
    found = ImageProcessing(pixel_format, made)
    _check_processor(processor, found)
    return found


def open_processor(folder: Path) -> BaseImageProcessor:
    """
    The processor that a folder names, in its form for Pillow: one for another library rounds in its own way.

    Code that comes with a folder, by its `auto_map`, is not run, nor is the user asked. Processors that are not in
    `_PROCESSORS` are refused: some of transformers' open files that the folder names, or fetch them.
    """
    settings, _ = BaseImageProcessor.get_image_processor_dict(folder)
    name = settings.get("image_processor_type")
    kind = _PROCESSORS.get(str(name).removesuffix("Fast").removesuffix("Pil"))
    if kind is None:
        raise ValueError(f"its image_processor_type {name} is not known here, where {' and '.join(_PROCESSORS)} are.")
    return kind.from_dict(settings)


def mean_and_std(processor: BaseImageProcessor) -> np.ndarray:
    """Mean and standard deviation of each channel, float64 `[2, 3]`, for pixels in 0–1."""
    for name in ("image_mean", "image_std", "rescale_factor"):
        value = getattr(processor, name)
        if not all(isinstance(each, int | float) for each in (value if isinstance(value, list | tuple) else [value])):
            raise ValueError(f"{name} must hold numbers, got {value!r}")
    white = 255 * processor.rescale_factor if processor.do_rescale else 255.0
    stated = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
    with np.errstate(all="ignore"):
        mean, std = (np.broadcast_to(np.asarray(each, dtype=float) / white, 3) for each in stated)
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise ValueError(
            f"image_mean {processor.image_mean}, image_std {processor.image_std} and rescale_factor "
            f"{processor.rescale_factor} must be finite, the last two above 0."
        )
    return np.stack([mean, std])


def resize_mode_of(processor: BaseImageProcessor, image_size: int) -> ResizeMode:
    """
    How a processor resizes to a size, as its settings say. No image is made: a file may name a size of any height.

    Raises:
        ValueError: it resizes to another size, or in another way.
    """
    square = {"height": image_size, "width": image_size}
    is_used = {"crop_size": processor.do_center_crop, "pad_size": processor.do_pad}
    for name in [name for name in is_used if is_used[name]]:
        value = getattr(processor, name)
        if value is not None and dict(value) != square:
            raise ValueError(f"its {name} {dict(value)} is not that of the network, {image_size}×{image_size}.")
    size: dict[str, Any] = dict(processor.size or square)
    for mode in get_args(ResizeMode):
        settings = processor_settings(PixelFormat(image_size, mode))
        if size == settings["size"] and (processor.do_center_crop or "do_center_crop" not in settings):
            return mode
    raise ValueError(f"its size {size} is not that of the network, {image_size}×{image_size}.")


def _check_processor(processor: BaseImageProcessor, found: ImageProcessing) -> None:
    """Tries a processor on images of the network's size, of more pixels and of fewer."""
    side, mode = min(found.pixel_format.image_size, _LARGEST_TRIED), found.pixel_format.resize_mode
    pixel_format = PixelFormat(side, mode, found.pixel_format.num_channels)
    square = {"height": side, "width": side}
    sizes = {"size": processor_settings(pixel_format)["size"], "crop_size": square, "pad_size": square}
    for height, width in ((side, side), (side + 9, 2 * side + 3), (side // 2 + 4, 5)):
        image = fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
        ours = found.normalize(torch.tensor(pixels_of(image, pixel_format)).permute(2, 0, 1)[None])
        theirs = processor(images=image, return_tensors="pt", **sizes)["pixel_values"]
        step = 1e-5 * float(ours.abs().max())
        if pixel_format.num_channels == 1 and theirs.ndim == 4 and theirs.shape[1] == 3:
            theirs = (theirs * torch.tensor(LUMA / LUMA.sum()).float().view(3, 1, 1)).sum(dim=1, keepdim=True)
            black, half = found.normalize(torch.tensor([0, 1], dtype=torch.uint8).view(2, 1, 1, 1)).flatten()
            step += 0.51 * float(half - black)  # luma here is a whole number of 255
        is_alike = (theirs.dtype, theirs.shape) == (ours.dtype, ours.shape)
        if not (is_alike and torch.allclose(theirs, ours, rtol=0, atol=step)):
            raise ValueError(
                f"its {type(processor).__name__} makes other pixel_values of an image of {height}×{width} "
                f"({theirs.dtype}, {list(theirs.shape[1:])}) than these tools, which resize it (bilinear, "
                f"{mode}) to {side}×{side}, rescale and normalise it. Correct the file, or use transformers' pipeline."
            )
