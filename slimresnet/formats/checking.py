"""Whether an exported graph says what the network says, and the pictures that both are asked about."""

import torch
from torch import Tensor
from torch.nn import functional as F

from slimresnet.formats.graphs import ExportError

# How far rounding moves a logit, as a share of the largest one. A float32 has seven digits whatever its size: a bound
# in logits would let anything pass where they are small, and refuse large ones for the last digit. Sums in another
# order move the shipped network's by 1e-6 of the largest; bf16 or a wrong constant would move them by 1e-3.
FLOAT32_ROUNDING = 1e-4
# int8 has two digits. Its bound is a share of how far the logits of an image lie apart, of the one where that is the
# farthest, since the steps of int8 are as wide for all: what is added to all logits must not make the bound wider.
INT8_ROUNDING = 0.02
SMALLEST_SHARE = 0.95  # of images with the network's class, or one that ties with it, in int8

GENERATED_IMAGES, TRAINING_IMAGES = "generated images", "training images"  # what a file was checked on


def generated_pixels(count: int, height: int, width: int) -> Tensor:
    """
    Pictures of no dataset, the same each time: the first half noise, the others smooth.

    Returns:
        uint8 `[count, 3, height, width]`, 0–255.
    """
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(count - count // 2, 3, 4, 4, generator=generator)
    smooth = F.interpolate(smooth, (height, width), mode="bilinear", align_corners=False)
    noise = torch.rand(count // 2, 3, height, width, generator=generator)
    return (torch.cat([noise, smooth]) * 256).to(torch.uint8)


def agreement(name: str, logits: Tensor, expected: Tensor, precision: str, images: str) -> dict[str, float | str]:
    """
    How far logits `[N, num_labels]` are from those of the network on the same images.

    In float32 the logits must be the network's but for rounding; its classes then are, too, but for ties. In int8 the
    classes must be; two that lie within rounding of each other are a tie, where either will do.

    Args:
        precision: of the graph, `"float32"` or `"int8"`.
        expected: of the network, finite.
        images: what they are of, such as `GENERATED_IMAGES`.

    Returns:
        `checked_on`, `checked_images`, `largest_logit`, `largest_difference`, and `same_class`, a share of the images.

    Raises:
        ExportError: they disagree, or `logits` are not finite.
    """
    broken = int((~logits.isfinite()).any(dim=1).sum())
    if broken:
        raise ExportError(
            f"{name} gives logits that are NaN or infinite on {broken} of {len(logits)} {images}, where the network's "
            "are finite; nothing was written. Numbers in between are too large for this form: use the network itself."
        )
    largest, difference = expected.abs().max().item(), (logits - expected).abs().max().item()
    if precision == "float32" and difference > FLOAT32_ROUNDING * largest:
        raise ExportError(
            f"{name} disagrees with the network: on {len(expected)} {images} logits differ by up to {difference:.3g}, "
            f"where the largest is {largest:.3g} and rounding explains {FLOAT32_ROUNDING * largest:.3g}; nothing was "
            "written. Try other versions of the export packages."
        )
    highest = expected.max(dim=1).values
    chosen = expected.gather(1, logits.argmax(dim=1, keepdim=True)).squeeze(1)
    apart = (highest - expected.min(dim=1).values).max()
    matching = (highest - chosen <= INT8_ROUNDING * apart).double().mean().item()
    if precision == "int8" and matching < SMALLEST_SHARE:
        raise ExportError(
            f"{name} disagrees with the network: another class for {1 - matching:.2%} of {len(expected)} {images}, but "
            "for ties; nothing was written. Take the ranges from more --calibration_samples, or from what the network "
            "was trained on (--dataset_name); or leave --quantize out."
        )
    return {
        "checked_on": images,
        "checked_images": len(expected),
        "largest_logit": largest,
        "largest_difference": difference,
        "same_class": (logits.argmax(dim=1) == expected.argmax(dim=1)).double().mean().item(),
    }
