"""Decoding an image, for training and for prediction alike."""

import fsspec
import numpy as np
from PIL import UnidentifiedImageError
from PIL.Image import Image, Resampling, fromarray

from slimresnet.data.images import FORMATS, open_picture
from slimresnet.data.sources.archives import read_member


def decode_image(encoded: dict | None, image_size: int) -> np.ndarray:
    """
    The RGB pixels of an image, uint8 `[image_size, image_size, 3]`, resized (bilinear) where its size differs.

    Args:
        encoded: `bytes` or, if that is None, `path` of an image file, as `datasets` has it.

    Raises:
        ValueError: the image cannot be decoded; the message says why, in one line.
    """
    try:
        content = read_bytes(encoded)
        if content is None:
            raise ValueError("it is null")
        image = _eight_bits(open_picture(content))
        image = image if image.mode == "RGB" else image.convert("RGB")  # convert() copies even an RGB image
    except Exception as error:  # Pillow raises a dozen types for a broken file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # whose message is an address in memory
            reason = f"its bytes are of no known image format: {', '.join(FORMATS)}"
        raise ValueError(reason) from error
    return resized(image, image_size)


def resized(image: Image, image_size: int) -> np.ndarray:
    """An RGB image as uint8 `[image_size, image_size, 3]`, bilinear where its size differs."""
    if image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Resampling.BILINEAR)
    return np.asarray(image)


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
