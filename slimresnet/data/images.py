"""Opening a picture, whoever made it: in the formats that such pictures come in, and no larger than its use needs."""

import io

import PIL.Image
from PIL.ImageOps import exif_transpose

# What cameras, browsers and the datasets of this field write. Pillow knows forty more by their content: EPS starts
# Ghostscript, and decoders that hardly a picture needs are rarely looked at.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# A phone's 64 megapixels, and in Pillow, with a copy in RGB, half a gigabyte of memory.
MOST_PIXELS = 1 << 26


def open_picture(content: bytes) -> PIL.Image.Image:
    """
    The first frame of an image file, decoded, upright as its EXIF says, in the mode that it has there.

    Raises:
        ValueError: it has more pixels than `MOST_PIXELS`, of which none is decoded.
        Exception: of Pillow's many; UnidentifiedImageError where it is in none of `FORMATS`.
    """
    try:
        image: PIL.Image.Image = PIL.Image.open(io.BytesIO(content), formats=FORMATS)
    except PIL.Image.DecompressionBombError as error:  # above a limit of Pillow's own, in a frame or a tile too
        raise ValueError(f"it has more than {MOST_PIXELS:,} pixels") from error
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"it has {image.width:,}×{image.height:,} pixels, of at most {MOST_PIXELS:,}")
    image.load()
    # Only where it is there: a transposed image is a copy.
    if image.getexif().get(PIL.Image.ExifTags.Base.Orientation) is not None:
        image = exif_transpose(image)
    return image


def picture_suffixes() -> set[str]:
    """How the names of such files end, as in `.png`, in small letters."""
    return {suffix for suffix, kind in PIL.Image.registered_extensions().items() if kind in FORMATS}
