"""Predicting on several inputs, patterns and objects in memory; the names, order and headings that an upload needs."""

import io

import datasets
import numpy as np
import pytest
import torch
from conftest import NAMES, write_dataset
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage
from test_predict import predict, reference

from slimresnet.api import predict as api
from slimresnet.api.prediction_files import Batch, TerminalTable
from slimresnet.cli import predict as predict_script
from slimresnet.data.sources.source import DatasetError
from slimresnet.data.task import SINGLE_LABEL
from slimresnet.errors import SlimResNetError

RNG = np.random.default_rng(0)
SEEN = RNG.integers(0, 256, (11, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def numbered(tmp_path, monkeypatch):
    """`test/1.png` … `test/11.png` below the folder of this process."""
    (tmp_path / "test").mkdir()
    for number, pixels in enumerate(SEEN, start=1):
        PILImage.fromarray(pixels).save(tmp_path / "test" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "test"


@pytest.fixture
def shares(untrained):
    """Probabilities of `SEEN`, by hand."""
    return reference(untrained, torch.from_numpy(SEEN).permute(0, 3, 1, 2)).numpy()


def png(pixels):
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_list_of_one_split_is_predicted_whatever_the_split_is_called(untrained, numbered, shares):
    """A list without splits is called train by `datasets`; of several splits the one called test is taken."""
    names = [f"{number}.png" for number in range(1, 12)]
    (numbered / "list.csv").write_text("\n".join(["file_name", *names]))
    expected = [[f"{name}", NAMES[each.argmax()]] for name, each in zip(names, shares, strict=True)]
    assert predict(untrained, "test/list.csv", "o.csv", "--labels=names")[1:] == expected
    splits = ["train"] * 4 + ["test"] * 7
    (numbered / "list.csv").write_text("\n".join(["file_name,split", *map(",".join, zip(names, splits, strict=True))]))
    assert predict(untrained, "test/list.csv", "o.csv", "--labels=names")[1:] == expected[4:]
    assert predict(untrained, "test/list.csv", "o.csv", "--labels=names", "--split=train")[1:] == expected[:4]


def test_an_upload_for_kaggle_has_its_names_order_and_headings(untrained, numbered, tmp_path, shares):
    flags = ["--id=stem", "--natural_order", "--columns", "id", "label", "--labels=names"]
    expected = [["id", "label"]] + [[str(n + 1), NAMES[each.argmax()]] for n, each in enumerate(shares)]
    for source in ("test", "test/*.png", "test/*"):
        assert predict(untrained, source, "o.csv", *flags) == expected
    by_letters = sorted(range(1, 12), key=str)
    assert [row[0] for row in predict(untrained, "test", "o.csv")[1:]] == [f"{n}.png" for n in by_letters]
    assert [row[0] for row in predict(untrained, "test/*", "o.csv")[1:]] == [f"test/{n}.png" for n in by_letters]
    shell = [f"test/{n}.png" for n in by_letters]  # as a shell expands it
    assert [each.name for each in api.predict(untrained, shell, natural_order=True)] == [
        f"test/{n}.png" for n in range(1, 12)
    ]


def test_rows_of_a_dataset_are_named_by_a_column(untrained, tmp_path, shares):
    columns = {"id": (Value("int64"), [70, 7]), "file": (Value("string"), ["a", "b"]), "w": (Value("float32"), [1, 2])}
    write_dataset(tmp_path / "data", "test", [*SEEN[:2]], [0, 0], ["a", "b"], **columns)
    for column, names in (("id", ["70", "7"]), ("file", ["a", "b"]), (None, ["0", "1"])):
        got = api.predict(untrained, tmp_path / "data", id_column_name=column)
        assert got.names == names and got.labels.tolist() == shares[:2].argmax(1).tolist()
    for column, said in (("w", "neither text nor a whole number in row 0"), ("ids", "is no column of .* holds img, ")):
        with pytest.raises(DatasetError, match=rf"--id_column_name {column} .*{said}"):
            api.predict(untrained, tmp_path / "data", id_column_name=column)


def test_several_inputs_follow_each_other_and_are_named_by_their_paths(untrained, numbered, tmp_path, shares):
    write_dataset(tmp_path / "data", "test", [*SEEN[5:7]], [0, 0], ["a", "b"])
    (tmp_path / "more" / "deep").mkdir(parents=True)
    PILImage.fromarray(SEEN[3]).save(tmp_path / "more" / "deep" / "4.png")
    (tmp_path / "more" / "notes.txt").write_text("no picture")
    got = api.predict(untrained, ["test/3.png", tmp_path / "more", "data", "test/1?.png"])
    assert got.names == [
        "test/3.png", f"{tmp_path}/more/deep/4.png", "data/0", "data/1", "test/10.png", "test/11.png",
    ]  # fmt: skip
    np.testing.assert_allclose(got.probabilities, shares[[2, 3, 5, 6, 9, 10]], atol=1e-5)


def test_a_file_with_the_name_of_a_pattern_is_that_file(untrained, numbered):
    (numbered / "1.png").rename(numbered / "[2].png")
    assert api.predict(untrained, "test/[2].png").names == ["[2].png"]


def test_objects_in_memory(untrained, shares, tmp_path):
    PILImage.fromarray(SEEN[4]).save(tmp_path / "5.png")
    pictures = [PILImage.fromarray(SEEN[0]), SEEN[1], png(SEEN[2]), SEEN[3], str(tmp_path / "5.png")]
    got = api.predict(untrained, pictures)
    np.testing.assert_allclose(got.probabilities, shares[:5], atol=1e-5)
    assert got.names == ["0", "1", "2", "3", str(tmp_path / "5.png")]
    for many in (pictures[:4], SEEN[:4], (each for each in pictures[:4])):
        np.testing.assert_array_equal(api.predict(untrained, many).probabilities, got.probabilities[:4])
    for picture, row in zip(pictures, got.probabilities, strict=True):
        np.testing.assert_allclose(api.predict(untrained, picture)[0].probabilities, row, atol=1e-6)


def test_objects_are_what_their_files_are(untrained, tmp_path):
    """In any mode and size, turned as their EXIF says, and from memory that is not contiguous."""
    grey = RNG.integers(0, 256, (20, 45), dtype=np.uint8)
    turned = PILImage.fromarray(SEEN[0])
    turned.getexif()[0x0112] = 6
    for number, image in enumerate((
        PILImage.fromarray(grey), PILImage.fromarray(SEEN[0]).convert("P"), PILImage.fromarray(SEEN[0]).convert("RGBA"),
        PILImage.fromarray(grey.astype(np.uint16) * 257), turned,
    )):  # fmt: skip
        image.save(tmp_path / f"{number}.png", exif=image.getexif())
        from_file, from_object = (api.predict(untrained, each) for each in (tmp_path / f"{number}.png", image))
        np.testing.assert_array_equal(from_file.probabilities, from_object.probabilities)
    whole = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    views = [grey, PILImage.fromarray(grey), whole[::2, ::-1], PILImage.fromarray(whole[::2, ::-1].copy())]
    of_grey, of_grey_image, of_view, of_copy = api.predict(untrained, views).probabilities
    np.testing.assert_array_equal(of_grey, of_grey_image)
    np.testing.assert_array_equal(of_view, of_copy)


def test_datasets_in_memory_and_their_columns(untrained, shares):
    features = Features({"photo": Image(), "key": Value("string")})
    data = Dataset.from_dict(
        {"photo": [PILImage.fromarray(each) for each in SEEN[:3]], "key": ["x", "y", "z"]}, features
    )
    for given, options, names in (
        (data, {}, ["0", "1", "2"]),
        (data, {"id_column_name": "key"}, ["x", "y", "z"]),
        (data.to_iterable_dataset(), {"id_column_name": "key"}, ["x", "y", "z"]),
        (data["photo"], {}, ["0", "1", "2"]),
        ([data.select([0, 1]), data.select([2])], {"id_column_name": "key"}, ["x", "y", "z"]),
    ):
        got = api.predict(untrained, given, **options)
        assert got.names == names
        np.testing.assert_allclose(got.probabilities, shares[:3], atol=1e-5)
    with pytest.raises(DatasetError, match="does not say what its columns hold"):
        api.predict(untrained, datasets.IterableDataset.from_generator(lambda: iter([{"photo": 1}])))


def test_broken_objects_are_left_out_or_named(untrained):
    with pytest.raises(DatasetError, match=r"image 1 of INPUT cannot be decoded .*no known image format"):
        api.predict(untrained, [SEEN[0], b"no image"])
    got = api.predict(untrained, [SEEN[0], b"no image", PILImage.new("F", (4, 4))], skip_errors=True)
    assert got.names == ["0"] and [each.name for each in got.skipped] == ["1", "2"]


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        ([], {}, "INPUT holds nothing to predict on"),
        ("test/9*.jpg", {}, r"INPUT test/9\*\.jpg is a pattern that no file matches"),
        (SEEN[0].astype(np.float32), {}, r"image 0 of INPUT is an array of float32 \[32, 32, 3\]"),
        ([SEEN[0], SEEN[0].transpose(2, 0, 1)], {}, r"image 1 of INPUT is an array of uint8 \[3, 32, 32\]"),
        (7, {}, "image 0 of INPUT is of the type int"),
        (torch.zeros(2, 3), {}, "image 0 of INPUT is of the type Tensor"),
        (["test/1.png", "test/no.png"], {}, "INPUT test/no.png is not there"),
        (["test", "other"], {"id": "stem"}, "--id stem would call two images 1, test/1.png and other/1.jpg"),
        (["test/1.png", "data"], {"id": "stem"}, "--id stem is for image files"),
        ("test", {"id_column_name": "key"}, "--id_column_name is for a dataset of several columns, and INPUT test is"),
        ("test", {"id": "name"}, "--id must be one of path, stem, got name"),
        ("test", {"columns": ("id",)}, "--columns takes two headings"),
        ("test", {"columns": "id"}, "--columns takes two headings"),
    ],
)
def test_what_cannot_be_used_is_named(untrained, numbered, tmp_path, given, options, said):
    (tmp_path / "other").mkdir()
    PILImage.fromarray(SEEN[0]).save(tmp_path / "other" / "1.jpg")
    write_dataset(tmp_path / "data", "test", [SEEN[0]], [0], ["a", "b"])
    with pytest.raises(SlimResNetError, match=said) as refused:
        api.predict(untrained, given, **options)
    assert "\n" not in str(refused.value)


def run_main(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["predict.py", *map(str, words)])
    predict_script.main()


def test_without_a_file_a_table_is_printed(untrained, numbered, shares, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    run_main(monkeypatch, untrained, "test/1.png", "test/2.png")
    said = capsys.readouterr()
    order = np.argsort(-shares[0])
    first = f"test/1.png  {NAMES[order[0]]}  {shares[0][order[0]]:.1%}  " + ", ".join(
        f"{NAMES[each]} {shares[0][each]:.1%}" for each in order[1:3]
    )
    assert said.out.splitlines()[:2] == ["file        class    prob.  next", first]
    assert len(said.out.splitlines()) == 3 and said.err == ""
    (numbered / "3.png").write_bytes(b"no image")
    run_main(monkeypatch, untrained, "test", "--natural_order", "--skip_errors", "--threshold=0.99")
    said = capsys.readouterr()
    lines = said.out.splitlines()[1:]
    assert [line.split()[:2] for line in lines] == [[f"{n}.png", "unknown"] for n in range(1, 12) if n != 3]
    assert f"{NAMES[order[0]]} {shares[0][order[0]]:.1%}, {NAMES[order[1]]}" in lines[0]
    assert "left out, because they cannot be decoded: 1" in said.err and "3.png" in said.err


def test_a_long_table_ends_early_and_says_how_all_is_written(untrained, numbered, monkeypatch, capsys):
    """And images that are not shown are not read."""
    monkeypatch.setattr(api, "MOST_ROWS", 4)
    (numbered / "9.png").write_bytes(b"no image")
    run_main(monkeypatch, untrained, "test", "--natural_order")
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 5
    assert said.err == "7 more are not shown, nor predicted: --output FILE.csv writes all\n"
    run_main(monkeypatch, untrained, *(f"test/{n}.png" for n in range(1, 5)))
    assert capsys.readouterr().err == ""


def test_a_table_fits_into_eighty_columns_and_obeys_no_name(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    table = TerminalTable(["a class with a very long name", "猫" * 20, "\x1b[31mred", "short"], SINGLE_LABEL)
    names = ["holiday/" * 20 + "1.png", "猫.png", "line\nbreak.png"]
    table.write(
        Batch(names, np.array([0, 1, -1]), np.float32([[0.9, 0.06, 0.04, 0], [0, 1, 0, 0], [0.2, 0.2, 0.5, 0.1]]))
    )
    lines = table.lines()
    assert all(len(line) + line.count("猫") <= 80 for line in lines) and len(lines) == 4
    assert lines[1].startswith("…") and "/1.png  a class with …   90.0%" in lines[1]
    assert "line\\nbreak.png" in lines[3] and "\x1b" not in "".join(lines) and "unknown" in lines[3]
    shares = zip(lines[1:], (" 90.0%", "100.0%", " 50.0%"), strict=True)
    starts = [line.index(share) + line[: line.index(share)].count("猫") for line, share in shares]
    assert len(set(starts)) == 1


def test_flags_of_a_csv_need_one(capsys):
    for words in (["--labels=names"], ["--probabilities"], ["--columns", "id", "label"]):
        with pytest.raises(SystemExit):
            predict_script.parse(["m", "i", *words])
        assert f"{words[0].partition('=')[0]} is for the CSV of --output" in capsys.readouterr().err


def test_rows_go_to_standard_output_by_a_dash(untrained, numbered, monkeypatch, capfd):
    run_main(monkeypatch, untrained, "test/1.png", "--output=-")
    said = capfd.readouterr()
    assert said.out.splitlines()[0] == "ID,Labels" and said.out.splitlines()[1].startswith("1.png,")
    assert said.err == "-: 1 rows\n" and not (numbered.parent / "-").exists()
