"""Whether an exported file says what the network says, and the pictures that both are asked about."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from slimresnet.formats.format import ExportedFormat, ExportError
from slimresnet.formats.graph import LogitsOfPixels
from slimresnet.formats.trained import check_finite

# How far rounding moves a logit, as a share of the largest one. A float32 has seven digits whatever its size: a bound
# in logits would let anything pass where they are small, and refuse large ones for the last digit. Sums in another
# order move the shipped network's by 1e-6 of the largest; bf16 or a wrong constant would move them by 1e-3.
FLOAT32_ROUNDING = 1e-4

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


@torch.inference_mode()
def compare(
    format: ExportedFormat,
    module: LogitsOfPixels,
    file: Path,
    batches: Sequence[Tensor],
    images: str,
    given_from: float | None = None,
) -> dict[str, float | str]:
    """
    Compares the logits of a file with those of the network on batches of `pixel_values`.

    Args:
        images: a name for the images, for messages, such as `GENERATED_IMAGES`.
        given_from: as in `agreement`.

    Returns:
        As `agreement`.

    Raises:
        ModelError: the network's logits are not finite, or the file does not load.
        ExportError: as `agreement`.
    """
    run_file = format.open_file(file)
    expected, logits = (torch.cat([network(batch) for batch in batches]) for network in (module, run_file))
    check_finite(expected, [f"number {number} of {len(expected)} {images}" for number in range(1, len(expected) + 1)])
    return agreement(format, logits, expected, images, given_from)


def agreement(
    format: ExportedFormat, logits: Tensor, expected: Tensor, images: str, given_from: float | None = None
) -> dict[str, float | str]:
    """
    How far logits `[N, num_labels]` of a format's file are from those of the network on the same images.

    Args:
        expected: the network's logits, finite.
        images: a name for the images, for messages, such as `GENERATED_IMAGES`.
        given_from: the logit from which an image of several classes is given a class; None for the class of the largest
            logit alone.

    Returns:
        `checked_on`, `checked_images`, `largest_logit`, `largest_difference`, and `same_class`, the share of the images
        that are given the same class, or the same classes.

    Raises:
        ExportError: the format's `check` finds the logits too far apart, or `logits` are not finite.
    """
    broken = int((~logits.isfinite()).any(dim=1).sum())
    if broken:
        raise ExportError(
            f"{format.file} gives logits that are NaN or infinite on {broken} of {len(logits)} {images}, where the "
            "network's are finite; nothing was written. Numbers in between are too large for this form: use the "
            "network itself."
        )
    format.check(format.file, logits, expected, images, given_from)
    if given_from is None:
        same_class = logits.argmax(dim=1) == expected.argmax(dim=1)
    else:
        same_class = ((logits >= given_from) == (expected >= given_from)).all(dim=1)
    return {
        "checked_on": images,
        "checked_images": len(expected),
        "largest_logit": expected.abs().max().item(),
        "largest_difference": (logits - expected).abs().max().item(),
        "same_class": same_class.double().mean().item(),
    }


def check_rounding(name: str, logits: Tensor, expected: Tensor, images: str, given_from: float | None = None) -> None:
    """
    Checks that float32 logits equal the network's but for rounding.

    Args:
        name: name of the file, for messages.
        logits: the file's logits, `[N, num_labels]`.
        expected: the network's logits on the same images, finite.
        images: a name for the images, for messages.
        given_from: as in `agreement`; rounding is the same wherever that lies.

    Raises:
        ExportError: a logit differs by more than rounding explains.
    """
    largest, difference = expected.abs().max().item(), (logits - expected).abs().max().item()
    if difference > FLOAT32_ROUNDING * largest:
        raise ExportError(
            f"{name} disagrees with the network: on {len(expected)} {images} logits differ by up to {difference:.3g}, "
            f"where the largest is {largest:.3g} and rounding explains {FLOAT32_ROUNDING * largest:.3g}; nothing was "
            "written. Try other versions of the export packages."
        )
