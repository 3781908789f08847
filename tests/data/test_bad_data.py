"""Images and files as they come: decoded to the picture they show, or refused by the row and in one line."""

import io
import struct
import zlib

import numpy as np
import pyarrow.parquet
import pytest
import torch
from conftest import write_dataset
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from slimresnet.data.loader import Loading, TrainingLoader
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.source import DatasetError
from slimresnet.data.splits import stratified_split

GRADIENT = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)
SOURCES = pytest.mark.parametrize("resident_on", [None, torch.device("cpu")], ids=["stream", "memory"])


def encode(image, file_format="PNG", **options):
    """The bytes of an image file."""
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def read(folder, images, resident_on=None, labels=None):
    """Writes a split of these images and reads it back: uint8 `[N, 3, 8, 8]`."""
    write_dataset(folder, "train", images, labels or [index % 2 for index in range(len(images))], ["a", "b"])
    split = open_split(str(folder), "train", image_size=8, resident_on=resident_on)
    (pixels,) = split.images.read([np.arange(len(images))])
    return pixels


def rewrite(file, column, array):
    """Puts another column into a Parquet file, as software that checks less than `datasets` may."""
    table = pyarrow.parquet.read_table(file)
    table = table.set_column(table.schema.get_field_index(column), table.schema.field(column), array)
    pyarrow.parquet.write_table(table, file)


def refused(*arguments, **settings):
    """The message that refuses them: one line."""
    with pytest.raises(DatasetError) as error:
        read(*arguments, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


@SOURCES
@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(GRADIENT),
        Image.fromarray(GRADIENT.astype(np.uint16) * 257),
        Image.fromarray(GRADIENT).convert("P"),
        Image.fromarray(GRADIENT).convert("LA"),
        Image.fromarray(GRADIENT).convert("RGBA"),
    ],
    ids=["L", "16 bits", "palette", "LA", "RGBA"],
)
def test_the_same_picture_in_any_mode(tmp_path, image, resident_on):
    (pixels,) = read(tmp_path, [encode(image)], resident_on)
    assert (pixels.numpy() == GRADIENT).all()


def test_other_formats(tmp_path):
    """CMYK as printers want it, one bit, the first frame of an animation, a photograph that was taken sideways."""
    red, blue = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    sideways = Image.fromarray(np.repeat(GRADIENT[:, :, None], 3, axis=2))
    orientation = Image.Exif()
    orientation[0x0112] = 6  # turned by 90° to the left
    images = [
        encode(red.convert("CMYK"), "JPEG", quality=100),
        encode(Image.fromarray(GRADIENT > 127)),
        encode(red, "GIF", save_all=True, append_images=[blue]),
        encode(red, "PNG", save_all=True, append_images=[blue]),
        encode(sideways, "PNG", exif=orientation),
    ]
    cmyk, one_bit, gif, png, turned = read(tmp_path, images)
    assert cmyk[0].min() > 240 and cmyk[1:].max() < 15
    assert (one_bit.numpy() == np.where(GRADIENT > 127, 255, 0)).all()
    for first_frame in (gif, png):
        assert first_frame[0].min() == 255 and first_frame[1:].max() == 0
    assert (turned[0].numpy() == np.rot90(GRADIENT, -1)).all()


@settings(max_examples=60)
@given(
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16"]),
    width=st.integers(1, 70),
    height=st.sampled_from([1, 2, 8, 9, 1000]),
)
def test_any_mode_and_size_comes_out_alike(tmp_path_factory, mode, width, height):
    image = Image.new(mode, (width, height))
    file = encode(image, "PNG" if mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else "TIFF")
    (pixels,) = read(tmp_path_factory.mktemp("data"), [file])
    assert pixels.shape == (3, 8, 8) and pixels.dtype == torch.uint8


@SOURCES
@pytest.mark.parametrize(
    ("image", "said"),
    [
        (encode(Image.fromarray(GRADIENT.astype(np.float32)), "TIFF"), "mode, F"),
        (encode(Image.fromarray(GRADIENT.astype(np.int32)), "TIFF"), "mode, I"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "(its bytes are of no known image format: BMP, "),
        (b"", "(its bytes are of no known image format: BMP, "),
        (None, "(it is null)"),
        (encode(Image.fromarray(GRADIENT), "JPEG")[:200], "decoded"),
    ],
    ids=["floats", "32 bits", "svg", "no bytes", "null", "half a JPEG"],
)
def test_what_is_no_picture_is_refused_by_its_row(tmp_path, image, said, resident_on):
    good = encode(Image.fromarray(GRADIENT))
    message = refused(tmp_path, [good, good, image], resident_on)
    assert "row 2 of split 'train'" in message and said in message


def test_a_decompression_bomb_is_refused_by_its_row(tmp_path):
    """A file of a few bytes that says it holds 100,000 × 100,000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    message = refused(tmp_path, [bomb])
    assert "row 0 of split 'train'" in message and "bomb" in message


@pytest.mark.slow
@settings(max_examples=150)
@given(data=st.data(), file_format=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP"]))
def test_damaged_images_decode_or_are_refused(tmp_path_factory, data, file_format):
    content = bytearray(encode(Image.fromarray(GRADIENT).convert("RGB"), file_format))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    for _ in range(data.draw(st.integers(0, 4))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        assert read(tmp_path_factory.mktemp("data"), [bytes(content)]).shape == (1, 3, 8, 8)
    except DatasetError as error:
        assert "row 0" in str(error) and "\n" not in str(error)


@settings(max_examples=60)
@given(data=st.data())
def test_damaged_files_are_read_or_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, "train", [encode(Image.fromarray(GRADIENT))] * 6, [0, 1] * 3, ["a", "b"])
    file = folder / "train.parquet"
    content = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(content)
    try:
        split = open_split(str(folder), "train", image_size=8)
        (pixels,) = split.images.read([np.arange(len(split.labels))])
        assert pixels.shape == (len(split.labels), 3, 8, 8)
    except DatasetError as error:
        assert str(folder) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("wrong", [2, 7])
def test_a_label_beyond_the_names_is_refused(tmp_path, wrong):
    """`datasets` lets no such number be written, but a file of other software may hold it."""
    write_dataset(tmp_path, "train", [encode(Image.fromarray(GRADIENT))] * 4, [0, 1, 0, 1], ["a", "b"])
    rewrite(tmp_path / "train.parquet", "label", [[0, 1, wrong, 1]])
    with pytest.raises(DatasetError, match=rf"row 2 of split 'train' .* no label in 0 … 1 \(it says {wrong}"):
        open_split(str(tmp_path), "train", image_size=8)


def test_two_image_columns_are_asked_about(tmp_path):
    good = encode(Image.fromarray(GRADIENT))
    second = (ImageFeature(), [{"bytes": good, "path": None}] * 2)
    write_dataset(tmp_path, "train", [good] * 2, [0, 1], ["a", "b"], mask=second)
    with pytest.raises(DatasetError, match=r"2 Image columns: name one with --image_column_name.*mask \(Image\)"):
        open_split(str(tmp_path), "train", image_size=8)
    assert open_split(str(tmp_path), "train", image_size=8, image_column="mask").labels.tolist() == [0, 1]


def test_a_split_smaller_than_a_batch(tmp_path):
    write_dataset(tmp_path, "train", [encode(Image.fromarray(GRADIENT))] * 3, [0, 1, 0], ["a", "b"])
    split = open_split(str(tmp_path), "train", image_size=8)
    with pytest.raises(DatasetError, match="3 training images are fewer than one batch of 4"):
        TrainingLoader(
            split,
            np.arange(3),
            Loading(torch.device("cpu")),
            seed=0,
            batch_size=4,
            accumulation=1,
            shuffle_buffer_size=3,
        )


@pytest.mark.parametrize(
    ("labels", "size"), [([0, 0, 0, 1], 3), ([0, 1, 0, 1], 4), ([0] * 3, 5)], ids=["a class of one", "all", "more"]
)
def test_a_validation_split_that_cannot_be_cut(labels, size):
    with pytest.raises(DatasetError, match=f"--validation_size {size}") as error:
        stratified_split(np.array(labels), size, seed=0)
    assert "\n" not in str(error.value)


@SOURCES
def test_a_path_that_is_no_text_is_refused(tmp_path, resident_on):
    write_dataset(tmp_path, "train", [encode(Image.fromarray(GRADIENT))] * 2, [0, 1], ["a", "b"])
    path = pyarrow.array([b"\xff\xfe"] * 2, pyarrow.binary())
    path = pyarrow.Array.from_buffers(pyarrow.string(), 2, path.buffers())
    image = pyarrow.StructArray.from_arrays([pyarrow.nulls(2, pyarrow.binary()), path], ["bytes", "path"])
    rewrite(tmp_path / "train.parquet", "img", image)
    with pytest.raises(DatasetError, match=r"cannot be read to its end .*UTF8.* get it anew") as error:
        split = open_split(str(tmp_path), "train", image_size=8, resident_on=resident_on)
        list(split.images.read([np.arange(2)]))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@SOURCES
def test_a_path_to_no_file_is_refused_by_its_row(tmp_path, resident_on):
    write_dataset(tmp_path, "train", [encode(Image.fromarray(GRADIENT))] * 2, [0, 1], ["a", "b"])
    image = [
        {"bytes": encode(Image.fromarray(GRADIENT)), "path": None},
        {"bytes": None, "path": str(tmp_path / "no/such.png")},
    ]
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    rewrite(tmp_path / "train.parquet", "img", pyarrow.array(image, kind))
    with pytest.raises(DatasetError, match=r"row 1 of split 'train' .*No such file.*/no/such\.png"):
        split = open_split(str(tmp_path), "train", image_size=8, resident_on=resident_on)
        list(split.images.read([np.arange(2)]))


@SOURCES
def test_rows_are_counted_through_all_chunks(tmp_path, resident_on):
    images = [encode(Image.fromarray(GRADIENT))] * 2500
    images[2345] = b"no image"
    assert "row 2345 of split 'train'" in refused(tmp_path / "images", images, resident_on)
    write_dataset(tmp_path / "labels", "train", images, [0] * 2344 + [-1] * 156, ["a", "b"])
    with pytest.raises(DatasetError, match=r"row 2344 of split 'train' .*156 rows are like it"):
        open_split(str(tmp_path / "labels"), "train", image_size=8, resident_on=resident_on)


def test_a_file_that_was_exchanged_for_a_shorter_one(tmp_path):
    images = [encode(Image.fromarray(GRADIENT))] * 4
    write_dataset(tmp_path, "train", images, [0, 1, 0, 1], ["a", "b"])
    split = open_split(str(tmp_path), "train", image_size=8)
    write_dataset(tmp_path, "train", images[:3], [0, 1, 0], ["a", "b"])
    with pytest.raises(DatasetError, match="ended after 3 rows, where 4 labels were read"):
        list(split.images.read([np.arange(4)]))


@pytest.mark.parametrize("names", [[], ["a"]])
def test_fewer_than_two_classes_are_refused(tmp_path, names):
    """transformers would train and save a classifier of one class, and then refuse to load it."""
    write_dataset(tmp_path, "train", [encode(Image.fromarray(GRADIENT))] * 2, [None] * 2, names)
    with pytest.raises(DatasetError, match=f"column label of split 'train' .* names {len(names)} classes"):
        open_split(str(tmp_path), "train", image_size=8)


def test_class_names_without_quotes_become_text(tmp_path):
    write_dataset(tmp_path, "train", [encode(Image.fromarray(GRADIENT))] * 2, [0, 1], [3, 7])
    assert open_split(str(tmp_path), "train", image_size=8).label_names == ["3", "7"]


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ({"label": ClassLabel(names=["a", "b"])}, "no Image column, which is needed. It holds label (ClassLabel)"),
        ({"label": Value("int64")}, "no Image column"),
        (
            {"img": ImageFeature(), "label": Value("float32")},
            "no ClassLabel column, nor one of text or whole numbers, which is needed. It holds img (Image), label (f",
        ),
    ],
    ids=["no image", "neither", "fractions"],
)
def test_a_missing_column_is_named(tmp_path, features, said):
    values = {"img": [{"bytes": encode(Image.fromarray(GRADIENT)), "path": None}] * 2, "label": [0, 1]}
    data = Dataset.from_dict({name: values[name] for name in features}, features=Features(features))
    data.to_parquet(tmp_path / "train.parquet")
    with pytest.raises(DatasetError) as error:
        open_split(str(tmp_path), "train", image_size=8)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (None, b""),
        ("train.csv", b"img,label\na,0\n"),
        ("train.json", b"{"),
        ("train.parquet", b""),
        ("train.parquet", b"PAR1" + bytes(range(256)) + b"PAR1"),
        ("README.md", b"---\nconfigs: 3\n---\n"),
        ("README.md", b"---\n: : [\n---\n"),
    ],
    ids=["empty folder", "CSV", "broken JSON", "empty file", "junk", "wrong card", "broken card"],
)
def test_a_folder_that_is_no_dataset_of_images(tmp_path, file, content):
    if file:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(DatasetError) as error:
        open_split(str(tmp_path), "train", image_size=8)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_names_that_break_lines_stay_within_one(tmp_path):
    write_dataset(tmp_path, "train", [encode(Image.fromarray(GRADIENT))] * 2, [0, 1], ["a", "b"])
    with pytest.raises(DatasetError, match="--image_column_name im age is no Image column"):
        open_split(str(tmp_path), "train", image_size=8, image_column="im\nage")
