"""Opening image files that anybody may have made: common formats alone, and a limit on the number of pixels."""

import io

import PIL.Image
from PIL.ImageOps import exif_transpose

# What cameras, browsers and the datasets of this field write. Pillow knows forty more by their content: EPS starts
# Ghostscript, and decoders that hardly a picture needs are rarely looked at.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# A phone's camera has 64 megapixels. Pillow takes half a gigabyte of memory for them, a copy in RGB included.
MOST_PIXELS = 1 << 26
_GREY_MODES = ("1", "L", "LA", "La", "I", "F")


def open_picture(content: bytes) -> PIL.Image.Image:
    """
    The first frame of an image file, decoded, upright as its EXIF says, in the mode of the file.

    Raises:
        ValueError: the image has more than `MOST_PIXELS` pixels; none of them is decoded.
        Exception: one of Pillow's many; UnidentifiedImageError where the file is in none of `FORMATS`.
    """
    try:
        image: PIL.Image.Image = PIL.Image.open(io.BytesIO(content), formats=FORMATS)
    except PIL.Image.DecompressionBombError as error:  # above a limit of Pillow's own, in a frame or a tile too
        raise ValueError(f"it has more than {MOST_PIXELS:,} pixels") from error
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"it has {image.width:,}×{image.height:,} pixels, of at most {MOST_PIXELS:,}")
    return upright(image)


def upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image, decoded, as its EXIF turns it; raises what Pillow does of a damaged one."""
    image.load()
    # exif_transpose copies an image even where it has nothing to do.
    is_turned = image.getexif().get(PIL.Image.ExifTags.Base.Orientation) is not None
    return exif_transpose(image) if is_turned else image


def read_header(content: bytes) -> tuple[int, int, bool] | None:
    """Width and height of an image file in pixels, and whether it is grey; None where no such file can be opened."""
    try:
        image = PIL.Image.open(io.BytesIO(content), formats=FORMATS)
    except Exception:  # Pillow's many; whoever decodes the file says what is wrong
        return None
    return *image.size, image.mode in _GREY_MODES or image.mode.startswith("I;16")


def picture_suffixes() -> set[str]:
    """How the names of files in one of `FORMATS` end, in small letters, such as `.png`."""
    return {suffix for suffix, kind in PIL.Image.registered_extensions().items() if kind in FORMATS}
