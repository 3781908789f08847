"""A folder's image processor as a function of uint8 pixels, and the refusal of one that does more than it can do."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL.Image import fromarray
from torch import Tensor
from transformers import DeiTImageProcessorPil, ViTImageProcessorPil
from transformers.image_processing_utils import BaseImageProcessor

from slimresnet.data.sources.decoding import resized
from slimresnet.data.transforms.normalize import normalize

# Processors that do nothing but resize, crop, pad, rescale and normalise, as their settings say.
_PROCESSORS = {"ViTImageProcessor": ViTImageProcessorPil, "DeiTImageProcessor": DeiTImageProcessorPil}
_LARGEST_TRIED = 256  # pixels: a processor does the same at any size, and a file may name one that fills the memory


def normalize_of(folder: Path, image_size: int) -> Callable[[Tensor], Tensor]:
    """
    The function that makes `pixel_values` of uint8 `[B, 3, H, W]`, as the folder's image processor does.

    Raises:
        Exception: whatever the processor's own classes raise where they cannot be made.
        ValueError: the processor does other than resize to `image_size` (bilinear), rescale and normalise.
    """
    processor = open_processor(folder)
    mean, std = mean_and_std(processor).tolist()
    made = partial(normalize, mean=tuple(mean), std=tuple(std))
    _check_sizes(processor, image_size)
    _check_processor(processor, made, image_size)
    return made


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


def _check_sizes(processor: BaseImageProcessor, image_size: int) -> None:
    """Refuses other sizes than the network's before an image of such a size is made: a file may name any."""
    is_used = {"size": True, "crop_size": processor.do_center_crop, "pad_size": processor.do_pad}
    for name in [name for name in is_used if is_used[name]]:
        value = getattr(processor, name)
        if value is not None and dict(value) != {"height": image_size, "width": image_size}:
            raise ValueError(f"its {name} {dict(value)} is not that of the network, {image_size}×{image_size}.")


def _check_processor(processor: BaseImageProcessor, made: Callable[[Tensor], Tensor], image_size: int) -> None:
    """Tries a processor on images of the network's size, of more pixels and of fewer."""
    side = min(image_size, _LARGEST_TRIED)
    sizes = {name: {"height": side, "width": side} for name in ("size", "crop_size", "pad_size")}
    for height, width in ((side, side), (side + 9, 2 * side + 3), (side // 2 + 4, 5)):
        image = fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
        ours = made(torch.tensor(resized(image, side)).permute(2, 0, 1)[None])
        theirs = processor(images=image, return_tensors="pt", **sizes)["pixel_values"]
        is_alike = (theirs.dtype, theirs.shape) == (ours.dtype, ours.shape)
        if not (is_alike and torch.allclose(theirs, ours, rtol=0, atol=1e-5 * float(ours.abs().max()))):
            raise ValueError(
                f"its {type(processor).__name__} makes other pixel_values of an image of {height}×{width} "
                f"({theirs.dtype}, {list(theirs.shape[1:])}) than these tools, which resize it (bilinear) to "
                f"{side}×{side}, rescale and normalise it. Correct the file, or use transformers' pipeline."
            )
