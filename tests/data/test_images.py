"""Pictures of strangers: no format is decoded but those that pictures here come in, and none larger than they are."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from conftest import write_dataset
from PIL import EpsImagePlugin, Image

from slimresnet.data import images
from slimresnet.data.corruptions.frost import open_photographs
from slimresnet.data.images import FORMATS, MOST_PIXELS, open_picture, picture_suffixes
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.data.sources.prediction import open_images
from slimresnet.data.sources.source import DatasetError

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
%%EndProlog
showpage
%%EOF
"""


def encode(image, file_format, **options):
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def png(width, height):
    """A PNG file that says that it has so many pixels, of one bit."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def gif(width, height, frame_width, frame_height):
    """A GIF file whose frame may be larger than its screen."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return screen + b"," + struct.pack("<HHHHB", 0, 0, frame_width, frame_height, 0) + b"\x02\x02\x4c\x01\0;"


def refusals(tmp_path, content):
    """What is said of a file wherever one is opened: in a row, in a folder, by its name, as a photograph of frost."""
    write_dataset(tmp_path / "data", "train", [content, content], [0, 1], ["a", "b"])
    with pytest.raises(DatasetError) as in_row:
        list(open_split(str(tmp_path / "data"), "train", image_size=8).images.read([np.arange(2)]))
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "picture.png").write_bytes(content)
    [in_folder] = open_images(str(folder), PixelFormat(8)).stream
    [by_name] = open_images(str(folder / "picture.png"), PixelFormat(8)).stream
    assert in_folder.pixels is by_name.pixels is None
    with pytest.raises(DatasetError) as as_frost:
        open_photographs(folder, 8)
    return str(in_row.value), in_folder.reason, by_name.reason, str(as_frost.value)


def test_postscript_starts_no_ghostscript(tmp_path, monkeypatch):
    """Under whatever name: Pillow goes by what is in a file."""
    marker, program = tmp_path / "marker", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {marker}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    for said in refusals(tmp_path, EPS):
        assert "no known image format" in said or "cannot identify image file" in said
    assert not marker.exists()
    with pytest.raises(Exception, match=r"."):
        Image.open(io.BytesIO(EPS)).load()
    assert marker.exists()  # so this would have been it


def test_what_pillow_knows_beyond_the_formats_is_refused():
    Image.init()
    foreign = []
    for kind in sorted(Image.SAVE.keys() - {*FORMATS, "MPO", "PDF"}):
        try:
            content = encode(Image.new("L", (64, 64), 7), kind)
        except Exception:  # of another mode, size or library
            continue
        if not content.startswith((b"BM", b"\xff\xd8")):  # which are BMP and JPEG by another name
            foreign.append(kind)
            with pytest.raises(Image.UnidentifiedImageError):
                open_picture(content)
    assert len(foreign) > 5 and "EPS" in foreign


@pytest.mark.parametrize("kind", FORMATS)
def test_what_pictures_come_in_is_read(kind):
    image = Image.new("RGB", (12, 9), (250, 128, 3))
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}.get(kind, {})
    opened = open_picture(encode(image, kind, **options)).convert("RGB")
    assert np.abs(np.asarray(opened, int) - np.asarray(image, int)).max() <= (16 if kind == "GIF" else 2)


def test_a_phones_jpeg_with_a_second_picture_is_read():
    content = encode(
        Image.new("RGB", (8, 8), (255, 0, 0)), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))]
    )
    assert open_picture(content).size == (8, 8)


def test_names_of_pictures():
    assert {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"} <= picture_suffixes()
    assert not {".eps", ".ps", ".pdf", ".mpg", ".h5", ".wmf", ".psd"} & picture_suffixes()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (png(8193, 8192), "it has 8,193×8,192 pixels, of at most 67,108,864"),
        (png(12_000, 12_000), "it has 12,000×12,000 pixels, of at most 67,108,864"),
        (png(60_000, 60_000), "it has more than 67,108,864 pixels"),
        (gif(8, 8, 9000, 9000), "it has 9,000×9,000 pixels, of at most 67,108,864"),
        (gif(65_535, 65_535, 8, 8), "it has more than 67,108,864 pixels"),
    ],
    ids=["one row too many", "where Pillow warns", "where Pillow refuses", "frame of a GIF", "screen of a GIF"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_of_too_many_pixels_is_not_decoded(tmp_path, monkeypatch, content, said):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    assert all(said in each for each in refusals(tmp_path, content))


def test_the_limit_is_of_the_pixels_that_there_are(monkeypatch):
    assert MOST_PIXELS >= 9248 * 6936  # a phone's 64 megapixels
    monkeypatch.setattr(images, "MOST_PIXELS", 12 * 9)
    for kind in FORMATS:
        assert open_picture(encode(Image.new("RGB", (12, 9)), kind)).size == (12, 9)
        with pytest.raises(ValueError, match="it has 12×10 pixels, of at most 108"):
            open_picture(encode(Image.new("RGB", (12, 10)), kind))


def test_text_in_a_png_takes_no_memory():
    """A kilobyte of it is a gigabyte when it is inflated."""
    whole = encode(Image.new("L", (4, 4)), "PNG")
    text = b"Comment\0\0" + zlib.compress(b"a" * (80 << 20))
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    with pytest.raises(ValueError, match="Decompressed data too large"):
        open_picture(whole[:33] + chunk + whole[33:])
