"""Decoding an image, for training and for prediction alike."""

from dataclasses import dataclass
from typing import Any, Literal

import fsspec
import numpy as np
from PIL import UnidentifiedImageError
from PIL.Image import Image, Resampling, fromarray
from transformers.image_transforms import get_size_with_aspect_ratio

from slimresnet.data.images import FORMATS, MOST_PIXELS, open_picture
from slimresnet.data.sources.archives import read_member

ResizeMode = Literal["squash", "crop", "pad"]
"""What is done to a picture that is not square; see `PixelFormat`."""


@dataclass(frozen=True)
class PixelFormat:
    """
    What a picture of any size is made into: uint8 `[image_size, image_size, num_channels]`.

    Attributes:
        image_size: height and width in pixels.
        resize_mode: what is done to a picture that is not square. All modes resize bilinearly.
            `"squash"`: both sides become `image_size`.
            `"crop"`: the shorter side becomes `image_size`, and the middle is cut out.
            `"pad"`: the longer side becomes `image_size`, and the picture lies centred on black.
        num_channels: 3 for RGB, 1 for grey (ITU-R 601-2 luma).
    """

    image_size: int
    resize_mode: ResizeMode = "squash"
    num_channels: int = 3


def decode_image(encoded: dict | None, pixel_format: PixelFormat) -> np.ndarray:
    """
    The pixels of an image, uint8 `[image_size, image_size, num_channels]`.

    Args:
        encoded: `bytes` or, if that is None, `path` of an image file, as `datasets` has it.

    Raises:
        ValueError: the image cannot be decoded, or is too long and thin; the message says why, in one line.
    """
    try:
        content = read_bytes(encoded)
        if content is None:
            raise ValueError("it is null")
        image = in_colour(open_picture(content))
    except Exception as error:  # Pillow raises a dozen types for a broken file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # whose message is an address in memory
            reason = f"its bytes are of no known image format: {', '.join(FORMATS)}"
        raise ValueError(reason) from error
    return pixels_of(image, pixel_format)


def in_colour(image: Image) -> Image:
    """
    The image in RGB, of 8 bits a channel.

    Raises:
        ValueError: the image's mode does not say how bright white is.
    """
    image = _eight_bits(image)
    return image if image.mode == "RGB" else image.convert("RGB")  # convert() copies even an RGB image


def pixels_of(image: Image, pixel_format: PixelFormat) -> np.ndarray:
    """
    The pixels of an RGB image, as `decode_image`.

    Colours turn grey after resizing, as in the model, which mixes what the image processor made.

    Raises:
        ValueError: the image is so long and thin that resizing leaves no pixel of it, or makes too many.
    """
    image = _resized(image, pixel_format)
    if pixel_format.num_channels == 1:
        return np.asarray(image.convert("L"))[:, :, None]
    return np.asarray(image)


def _resized(image: Image, pixel_format: PixelFormat) -> Image:
    """Resizes as transformers' image processors do with the settings of `processor_settings`."""
    side, mode = pixel_format.image_size, pixel_format.resize_mode
    if image.size == (side, side):
        return image
    if mode == "squash":
        return image.resize((side, side), Resampling.BILINEAR)
    height, width = get_size_with_aspect_ratio(
        (image.height, image.width), side, max_size=side if mode == "pad" else None
    )
    if not 0 < height * width <= MOST_PIXELS:
        raise ValueError(f"it has {image.width:,}×{image.height:,} pixels, too long and thin for resize_mode {mode}")
    if image.size != (width, height):
        image = image.resize((width, height), Resampling.BILINEAR)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))  # what lies outside is black


def processor_settings(pixel_format: PixelFormat) -> dict[str, Any]:
    """
    Settings of transformers' own image processors, with which they resize a picture to the very same pixels.

    Their centre crop pads a picture that is too small, with zeros: hence the black bars. Of the sizes that they know,
    "pad" takes the one that transformers.js and torchvision know too. It leaves a picture alone whose shorter side
    would stay as it is: of 33×9 pixels, 9 columns fit into 32×32, and one row is cut off.
    """
    side = pixel_format.image_size
    square = {"height": side, "width": side}
    if pixel_format.resize_mode == "squash":
        return {"size": square}
    edges = {"shortest_edge": side} | ({"longest_edge": side} if pixel_format.resize_mode == "pad" else {})
    return {"size": edges, "do_center_crop": True, "crop_size": square}


def read_bytes(encoded: dict | None) -> bytes | None:
    """
    The bytes of an image file, wherever they lie; None where the row is null. Arguments as `decode_image`.

    Raises:
        Exception: of fsspec's and httpx's many.
    """
    if encoded is None or encoded == {"bytes": None, "path": None}:
        return None
    if encoded["bytes"] is not None:
        return encoded["bytes"]
    if (member := read_member(encoded["path"])) is not None:
        return member
    with fsspec.open(encoded["path"], "rb") as file:
        return file.read()


def _eight_bits(image: Image) -> Image:
    """The image with 8 bits a channel. 16 bits are scaled, because convert('RGB') clips above 255."""
    if image.mode.startswith("I;16"):
        return fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its mode, {image.mode}, does not say how bright white is")
    return image
