"""Pickles as Kaggle and CIFAR-10 hand them out are read; what is made to harm is refused before it costs anything."""

import contextlib
import pickle
import resource
import struct
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_runs import SECONDS, start

from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.data.sources.pickles import MOST_OPERATIONS, read_pickle
from slimresnet.data.sources.prediction import open_images
from slimresnet.data.sources.source import DatasetError

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
# `cPickle.dumps({"data": array, "labels": [6, 9], "batch_label": "testing batch 1 of 1", "filenames": […]}, 2)`
PYTHON_2 = (
    b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87"
    b"Rq\x05(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xff"
    b"J\xff\xff\xff\xffK\x00tb\x89T\x00\x18\x00\x00" + PIXELS[:2].tobytes() + b"tbU\x06labelsq\x08]q\x09(K\x06K\x09e"
    b"U\x0bbatch_labelq\x0aU\x14testing batch 1 of 1q\x0bU\x09filenamesq\x0c]q\x0d(U\x05a.pngq\x0eU\x05b.pngq\x0feu."
)


def name(module, of):
    return f"c{module}\n{of}\n".encode()


def dtype(code):
    return name("numpy", "dtype") + b"U" + bytes([len(code)]) + code + b"\x89\x88\x87R"


def encode(text):
    return name("_codecs", "encode") + text + b"X\6\0\0\0latin1\x86R"


ARRAY = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray")
BUFFER = name("numpy._core.numeric", "_frombuffer")
NESTED = b")" + b"q\0h\0\x86" * 200  # a pair of a pair of … the same pair: 2²⁰⁰ of them for whoever walks
ATTACKS = {
    "an object at an address": name("numpy.core.multiarray", "scalar") + dtype(b"O8") + b"U\x08AAAAAAAA\x86R.",
    "objects at addresses": BUFFER + b"C\x08AAAAAAAA" + dtype(b"O8") + b"K\1\x85U\1CtR.",
    "objects by their state": ARRAY + b"K\0\x85U\1b\x87R(K\1K\1\x85" + dtype(b"O8") + b"\x89U\x08AAAAAAAAtb.",
    "a dtype of fields": name("numpy", "dtype") + b"U\2V8\x89\x88\x87R.",
    "a dtype of a billion": dtype(b"u1") + b"(K\3U\1|(U\2u1J\xff\xff\xff\x7f\x85tNNJ\0\0\0\0J\0\0\0\0K\0tb.",
    "a shape of a billion": ARRAY + b"K\0\x85U\1b\x87R(K\1J\xff\xff\xff\x7f\x85" + dtype(b"u1") + b"\x89U\x01Atb.",
    "a shape below zero": BUFFER + b"C\1A" + dtype(b"u1") + b"J\xff\xff\xff\xff\x85U\1CtR.",
    "a memo of two billion": b"Nr\xff\xff\xff\x7f]a.",
    "bytes of 8 GB": b"\x8e" + struct.pack("<Q", 1 << 33) + b"a.",
    "a bytearray of 8 GB": b"\x96" + struct.pack("<Q", 1 << 33) + b"a.",
    "text of 2 GB": b"X\xff\xff\xff\x7fa.",
    "a number of 2 GB": b"\x8b\xff\xff\xff\x7fa.",
    "a frame of 8 GB": b"\x95" + struct.pack("<Q", 1 << 33) + b".",
    "hexadecimals of hexadecimals": name("_codecs", "encode") * 40 + b"U\1a" + b"X\3\0\0\0hex\x86R" * 40 + b".",
    "one text encoded a million times": b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"q\0]("
    + (name("_codecs", "encode") + b"h\0X\6\0\0\0latin1\x86R") * 20_000 + b"e",
    "pairs of pairs as a key": b"}" + NESTED + b"Ns.",
    "pairs of pairs as a name": b"(" + NESTED + b"X\1\0\0\0a\x93.",
    "pairs of pairs as an encoding": name("_codecs", "encode") + NESTED + NESTED + b"\x86R.",
    "pairs of pairs as ids": b"}(U\4dataNU\3ids" + NESTED + b"u.",
    "depth": b"}(U\4dataNU\3ids)" + b"\x85" * 300_000 + b"u.",
    "a list in itself": b"}(U\4dataNU\3ids]q\0h\0au.",
    "a function with another code": name("_codecs", "encode") + b"NU\x08__code__Ns\x86b.",
    "a program": name("posix", "system") + b"U\4true\x85R.",
    "a class": name("numpy", "ndarray") + b"K\1\x85R.",
    "more operations than any": b"(" + b"N" * MOST_OPERATIONS + b"t.",
    "marks": b"(" * 1000,
    "nothing on the stack": b"\x87.",
}  # fmt: skip


def open_attacks():
    """Prints what is said of each file, then by how many kilobytes the process grew."""
    had = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30))
    for file in sys.argv[1:]:
        try:
            open_images(file, PixelFormat(32))
            print("taken")
        except DatasetError as error:
            print(error)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - had)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """What a process of little memory says of each attack, by its name."""
    folder = tmp_path_factory.mktemp("attacks")
    files = [folder / f"{number}.pkl" for number in range(len(ATTACKS))]
    for file, content in zip(files, ATTACKS.values(), strict=True):
        file.write_bytes(b"\x80\x05" + content)
    process = start(open_attacks, files, folder / "log")
    process.join(SECONDS)
    assert process.exitcode == 0, (folder / "log").read_text()
    *said, kilobytes = (folder / "log").read_text().splitlines()
    assert int(kilobytes) < 400_000
    return dict(zip(ATTACKS, said, strict=True))


@pytest.mark.processes
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_in_a_sentence(attacked, attack):
    assert "is a pickle that cannot be read: " in attacked[attack] or "must be a pickle of a dict" in attacked[attack]


def test_what_python_2_wrote_is_read(tmp_path):
    (tmp_path / "batch").write_bytes(PYTHON_2)
    content = read_pickle(tmp_path / "batch")
    assert content.pop(b"data").tolist() == PIXELS[:2].tolist()
    assert content == {b"labels": [6, 9], b"batch_label": b"testing batch 1 of 1", b"filenames": [b"a.png", b"b.png"]}


VALUES = {
    "images": PIXELS,
    "by columns": np.asfortranarray(PIXELS),
    "axes in another order": PIXELS.reshape(4, 3, 32, 32).transpose(0, 2, 3, 1),
    "other numbers": np.array([[1.5, -2]], dtype=">f8"),
    "none": np.zeros((0, 3), np.uint8),
    "single numbers": [np.int64(-7), np.float32(0.5), np.bool_(True)],
    "plain": [1, 2.5, -(1 << 40), None, True, "ä", b"\xff", (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {"a": {}}],
}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", VALUES)
def test_what_numpy_writes_is_read(tmp_path, kind, protocol):
    value = VALUES[kind]
    (tmp_path / "file").write_bytes(pickle.dumps({"value": value}, protocol))
    read = read_pickle(tmp_path / "file")["value"]
    if isinstance(value, np.ndarray):
        assert (read.dtype, read.shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(read, value)
    else:
        assert read == value


@settings(max_examples=300)
@given(data=st.data())
def test_whatever_is_changed_in_a_pickle_it_is_read_or_refused(tmp_path_factory, data):
    """Bytes changed, cut out and put in, of every protocol: one kind of error, and no crash."""
    protocol = data.draw(st.integers(2, pickle.HIGHEST_PROTOCOL))
    whole = pickle.dumps({"data": PIXELS[:1, :12], "ids": [np.int64(3), "a", b"b"]}, protocol)
    content = bytearray(data.draw(st.sampled_from([whole, PYTHON_2[:120] + PYTHON_2[-150:]])))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(2, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    file = tmp_path_factory.getbasetemp() / "changed.pkl"
    file.write_bytes(content)
    try:
        read_pickle(file)
    except ValueError as error:
        assert "\n" not in str(error)
    with contextlib.suppress(DatasetError):
        open_images(str(file), PixelFormat(32))


@pytest.mark.parametrize("ids", [[1 << 70], ["\ud800"], [b"\xff"], [None], "ab", [[1]]])
def test_ids_that_name_nothing_are_refused(tmp_path, ids):
    (tmp_path / "file").write_bytes(pickle.dumps({"data": PIXELS[:1], "ids": ids}))
    with pytest.raises(DatasetError, match="must be a pickle of a dict of data"):
        open_images(str(tmp_path / "file"), PixelFormat(32))


def test_a_file_larger_than_any_is_not_opened(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.write(b"\x80\x05")
        file.truncate(3 << 30)  # of no room on the disk
    with pytest.raises(DatasetError, match="it has 3,221,225,472 bytes, of at most 2,147,483,648"):
        open_images(str(tmp_path / "file"), PixelFormat(32))
