"""Predicting: every kind of input, the CSV that Kaggle wants, and what it says of images that are none."""

import csv
import io
import json
import os
import pickle
import threading
import weakref
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import NAMES, REPOSITORY, SAMPLE, write_dataset
from PIL import Image
from process_state import unchanged
from training_runs import run_script
from transformers import pipeline
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from modeling_slimresnet import SlimResNetConfig
from modeling_slimresnet.__main__ import layer_table
from modeling_slimresnet.__main__ import main as print_table
from slimresnet.api import predict as api
from slimresnet.cli import predict as predict_script
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.data.sources.prediction import open_images
from slimresnet.data.sources.source import DatasetError
from slimresnet.evaluation.tta import POLICIES, VIEWS
from slimresnet.formats.format import Runnable
from slimresnet.formats.registry import find_format
from slimresnet.formats.trained import ModelError, load_model, load_processing
from slimresnet.recipe.checks import RecipeError
from slimresnet.run_folder.writing import FolderError

RNG = np.random.default_rng(0)


def predict_with(*words):
    api.write_predictions(**vars(predict_script.parse([*map(str, words)])))


def predict(folder, source, output, *flags):
    predict_with(folder, source, f"--output={output}", *flags)
    with open(output, newline="") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def pixels():
    """Twelve images of the sample, uint8 `[12, 3, 32, 32]`."""
    return next(open_split(str(SAMPLE), "test", image_size=32).images.read([np.arange(12)]))


@pytest.fixture
def pictures(tmp_path, pixels):
    """The same as a folder of PNG files."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for number, image in enumerate(pixels):
        name = f"more/{number:02}.png" if number > 8 else f"{number:02}.png"
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / name)
    return folder


def reference(folder, pixels, policy="none"):
    """Probabilities by hand."""
    model, normalize = load_model(folder), load_processing(folder).normalize
    with torch.inference_mode():
        logits = sum(w * model(normalize(VIEWS[view](pixels))).logits for view, w in POLICIES[policy].items())
    return logits.softmax(dim=1)


def test_every_source_gives_the_same_classes(trained, pixels, pictures, tmp_path):
    expected = reference(trained, pixels).argmax(dim=1).tolist()
    rows = predict(trained, pictures, tmp_path / "folder.csv")
    assert rows[0] == ["ID", "Labels"] and [int(label) for _, label in rows[1:]] == expected
    assert [name for name, _ in rows[1:]] == [f"{n:02}.png" for n in range(9)] + [
        f"more/{n:02}.png" for n in (9, 10, 11)
    ]
    images = [image.permute(1, 2, 0).numpy() for image in pixels]
    write_dataset(tmp_path / "parquet", "test", images, [0] * 12, ["a", "b"])
    rows = predict(trained, tmp_path / "parquet", tmp_path / "parquet.csv")
    assert rows[1:] == [[str(row), str(label)] for row, label in enumerate(expected)]
    rows = predict(trained, pictures / "03.png", tmp_path / "file.csv")
    assert rows == [["ID", "Labels"], ["03.png", str(expected[3])]]
    flat, ids = pixels.flatten(1).numpy(), np.arange(100, 112)
    for content in (
        {b"data": flat, b"ids": ids},
        {"data": pixels.permute(0, 2, 3, 1).numpy(), "ids": ids.tolist()},
    ):
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            (tmp_path / "test.pkl").write_bytes(pickle.dumps(content, protocol))
            rows = predict(trained, tmp_path / "test.pkl", tmp_path / "kaggle.csv", "--per_device_eval_batch_size=5")
            assert rows[1:] == [[str(each), str(label)] for each, label in zip(ids, expected, strict=True)]


def test_names_in_bytes_are_read_as_text(pixels, tmp_path):
    """As Python 2 wrote them, and so the pickles of CIFAR-10."""
    content = {b"data": pixels[:2].flatten(1).numpy(), b"ids": [b"one.png", b"zwei.png"]}
    (tmp_path / "test.pkl").write_bytes(pickle.dumps(content, 2))
    images = open_images(str(tmp_path / "test.pkl"), PixelFormat(32))
    assert [image.name for image in images.stream] == ["one.png", "zwei.png"]


def test_what_is_no_file_here_is_a_dataset_on_the_hub(monkeypatch):
    asked = []
    monkeypatch.setattr("slimresnet.data.sources.prediction._from_dataset", lambda *arguments: asked.append(arguments))
    open_images("user/images", PixelFormat(24), split="train", config_name="small", image_column="photo")
    assert asked == [("user/images", PixelFormat(24), "train", "small", "photo")]


def test_float32_on_a_gpu_is_no_tf32(trained, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    find_format("torch").open_network(trained, trust_remote_code=False)
    assert not torch.backends.cudnn.allow_tf32


def test_names_and_probabilities_of_the_mean_of_views(trained, pixels, pictures, tmp_path):
    rows = predict(trained, pictures, tmp_path / "o.csv", "--labels=names", "--probabilities", "--tta=flip_shift")
    expected = reference(trained, pixels, "flip_shift")
    names = open_split(str(SAMPLE), "test", image_size=32).label_names
    assert rows[0] == ["ID", "Labels", *names]
    assert [row[1] for row in rows[1:]] == [names[label] for label in expected.argmax(dim=1)]
    shares = torch.tensor([[float(share) for share in row[2:]] for row in rows[1:]])
    torch.testing.assert_close(shares, expected, atol=1e-5, rtol=0)


def test_called_from_python_it_returns_what_the_csv_says(trained, pixels, pictures, tmp_path, monkeypatch, capsys):
    """Again and again, from any folder, and leaves the process as it was."""
    (pictures / "05.png").write_bytes(b"no image")
    expected = reference(trained, pixels, "flip")[[number for number in range(12) if number != 5]]
    names = open_split(str(SAMPLE), "test", image_size=32).label_names
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    rows = predict(trained, "pictures", "o.csv", "--skip_errors", "--tta=flip", "--probabilities")
    capsys.readouterr()
    for _ in range(2):
        with unchanged():
            got = api.predict(trained, "pictures", tta="flip", skip_errors=True, per_device_eval_batch_size=5)
        said = capsys.readouterr()
        assert said.out == "" and "left out, because they cannot be decoded: 1" in said.err
        assert [[each.name, str(each.label)] for each in got] == [row[:2] for row in rows[1:]]
        assert [each.label_name for each in got] == [names[each.label] for each in got]
        assert [[f"{share:.6f}" for share in each.probabilities] for each in got] == [row[2:] for row in rows[1:]]
        assert got.label_names == rows[0][2:] == names and repr(got) == "Predictions of 11 images, 1 skipped"
        assert got.labels.dtype == np.int64 and got.probabilities.dtype == np.float32
        torch.testing.assert_close(torch.from_numpy(got.probabilities), expected, atol=1e-5, rtol=0)
        assert len(got) == 11 and got[-1].name == "more/11.png" and [each.name for each in got[3:5]] == got.names[3:5]
        assert [image.name for image in got.skipped] == ["05.png"] and "no known image format" in got.skipped[0].reason
        with pytest.raises(IndexError):
            got[11]


def test_the_command_line_keeps_no_batch(untrained, pictures, tmp_path, monkeypatch):
    """So that a million images need no more memory than a batch: the one in hand, and the one that comes."""
    batch_of, made, alive = api.Batch, [], []

    def watched(names, labels, probabilities):
        alive.append(sum(batch() is not None for batch in made))
        made.append(weakref.ref(probabilities))
        return batch_of(names, labels, probabilities)

    monkeypatch.setattr(api, "Batch", watched)
    words = ["predict.py", untrained, pictures, f"--output={tmp_path / 'o.csv'}", "--per_device_eval_batch_size=2"]
    monkeypatch.setattr("sys.argv", [*map(str, words)])
    predict_script.main()
    assert len(made) == 6 and max(alive) == 1


def test_files_that_are_passed_over_are_told_before_the_output_is_opened(
    untrained, pictures, tmp_path, monkeypatch, capsys
):
    (pictures / "notes.pdf").write_bytes(b"no picture")
    monkeypatch.setattr(api, "open_output", Mock(side_effect=FolderError("a full disk")))
    with pytest.raises(FolderError, match="a full disk"):
        predict_with(untrained, pictures, f"--output={tmp_path / 'o.csv'}")
    assert "passed over 1 entr" in capsys.readouterr().err


def test_where_no_image_can_be_decoded_the_result_is_empty(untrained, pictures):
    for file in pictures.rglob("*.png"):
        file.write_bytes(b"no image")
    got = api.predict(untrained, pictures, skip_errors=True)
    assert (len(got), list(got), got.probabilities.shape, len(got.skipped)) == (0, [], (0, 10), 12)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"tta": "flop"}, "--tta must be one of none, flip, flip_shift, paper, got flop."),
        ({"labels": "words"}, "--labels must be one of numbers, names, got words."),
        ({"mixed_precision": "fp16"}, "--mixed_precision must be one of no, bf16, got fp16."),
        (
            {"mixed_precision": "bf16", "backend": "openvino"},
            "--mixed_precision is for --backend torch, not for openvino: leave it out.",
        ),
        ({"per_device_eval_batch_size": 0}, "--per_device_eval_batch_size must be at least 1, got 0."),
    ],
)
def test_arguments_that_cannot_be_used_are_named(untrained, pictures, arguments, said):
    with pytest.raises(RecipeError) as refused:
        api.predict(untrained, pictures, **arguments)
    assert str(refused.value) == said


def test_a_precision_that_a_backend_does_not_have_is_a_mistake_of_the_command_line(capsys):
    with pytest.raises(SystemExit) as left:
        predict_script.parse(["m", "i", "--output=o.csv", "--backend=openvino", "--mixed_precision=bf16"])
    assert left.value.code == 2 and "--mixed_precision is for --backend torch, not for" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "said"), [(".", "is a folder: name a file"), ("typo/o.csv", "lies in .*typo, which does not exist")]
)
def test_an_output_that_cannot_be_is_refused_before_anything_is_read(tmp_path, monkeypatch, output, said):
    monkeypatch.setattr(api, "find_folder", None)
    with pytest.raises(FolderError, match=f"--output .*{said}"):
        predict_with("model", "images", f"--output={tmp_path / output}")
    assert not list(tmp_path.iterdir())


def test_rows_go_into_a_pipe_or_a_device_as_they_come(untrained, pictures, tmp_path, capfd):
    rows = predict(untrained, pictures, tmp_path / "o.csv")
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    predict_with(untrained, pictures, f"--output={pipe}")
    reader.join()
    capfd.readouterr()
    predict_with(untrained, pictures, "--output=/dev/stdout")
    said = capfd.readouterr()
    for text in (got[0], said.out):
        assert list(csv.reader(text.splitlines())) == rows
    assert "/dev/stdout: 12 rows" in said.err and pipe.is_fifo() and os.path.exists("/dev/stdout")


def test_a_full_disk_keeps_the_rows_that_were_there(untrained, pictures, tmp_path, monkeypatch):
    """And an image that cannot be read is not taken for a disk that is full."""
    (tmp_path / "o.csv").write_text("mine")
    for error, raised in ((OSError(28, "No space left on device"), FolderError), (OSError("odd image"), OSError)):
        with monkeypatch.context() as patched:
            patched.setattr(api, "logits_of_batch", Mock(side_effect=error))
            with pytest.raises(
                raised, match=r"o\.csv cannot be written \(No space left" if error.errno else "odd image"
            ):
                predict(untrained, pictures, tmp_path / "o.csv")
    assert (tmp_path / "o.csv").read_text() == "mine" and not list(tmp_path.glob(".*"))


def test_names_are_those_of_the_config_in_its_order(untrained, pictures, pixels, tmp_path):
    rows = predict(untrained, pictures, tmp_path / "o.csv", "--labels=names", "--probabilities")
    expected = reference(untrained, pixels)
    assert rows[0] == ["ID", "Labels", *NAMES]
    assert [row[1] for row in rows[1:]] == [NAMES[label] for label in expected.argmax(dim=1)]
    shares = torch.tensor([[float(share) for share in row[2:]] for row in rows[1:]])
    torch.testing.assert_close(shares, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("edits", [{}, {"do_normalize": False}, {"image_mean": 0.5, "image_std": [0.5, 0.6, 0.7]}])
def test_the_probabilities_are_the_pipelines(untrained, tmp_path, edits):
    """Of pictures of any size, under what the preprocessor says."""
    file = untrained / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | edits))
    folder = tmp_path / "pictures"
    folder.mkdir()
    shapes = {"a.png": (32, 32, 3), "b.PNG": (20, 45, 3), "c.tif": (70, 41), "d.webp": (64, 64, 4)}
    for name, shape in shapes.items():
        Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8)).save(folder / name)
    rows = predict(untrained, folder, tmp_path / "o.csv", "--labels=names", "--probabilities")
    assert [row[0] for row in rows[1:]] == list(shapes)
    classify = pipeline("image-classification", model=str(untrained), top_k=10)
    for file, name, *shares in rows[1:]:
        expected = classify(str(folder / file))
        assert name == expected[0]["label"]
        by_name = {each["label"]: each["score"] for each in expected}
        assert [float(share) for share in shares] == pytest.approx([by_name[each] for each in NAMES], abs=2e-5)


def test_sixteen_bits_are_scaled_as_in_training(untrained, tmp_path):
    """Where transformers' pipeline takes all that is brighter than 255 of 65,535 for white."""
    grey = RNG.integers(0, 256, (32, 32), dtype=np.uint8)
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(grey).save(folder / "8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "16.png")
    (_, *in_16), (_, *in_8) = predict(untrained, folder, tmp_path / "o.csv", "--probabilities")[1:]
    assert in_16 == in_8


class _Fixed(torch.nn.Module):
    """Gives each image the logits that are written into its first pixels."""

    def __init__(self, config, table):
        super().__init__()
        self.config, self.table = config, table

    def forward(self, pixel_values):
        return ImageClassifierOutputWithNoAttention(logits=self.table[pixel_values[:, 0, 0, 0].long()])


def predict_table(table, tmp_path, monkeypatch, *flags):
    """Predictions on an image a row of logits."""
    table = torch.tensor(table)
    config = SlimResNetConfig(id2label=dict(enumerate(NAMES[: table.shape[1]])))
    format = Mock(open_network=lambda *_, **__: Runnable(_Fixed(config, table), torch.Tensor.float, PixelFormat(32)))
    monkeypatch.setattr(api, "find_format", lambda *_, **__: format)
    monkeypatch.setattr(api, "find_folder", lambda name: name)
    data = np.repeat(np.arange(len(table), dtype=np.uint8), 3072).reshape(-1, 3072)
    (tmp_path / "test.pkl").write_bytes(pickle.dumps({b"data": data, b"ids": [f"n{row}" for row in range(len(table))]}))
    return predict("unused", tmp_path / "test.pkl", tmp_path / "o.csv", *flags)


def test_the_class_is_that_of_the_largest_logit(tmp_path, monkeypatch):
    """The lower of two that are equal, as eval.py has it; probabilities are equal where logits are nearly so."""
    rows = predict_table([[0, 0, -1.0], [0, 1e-30, -1], [-1, 0, 5]], tmp_path, monkeypatch, "--labels=names")
    assert rows[1:] == [["n0", NAMES[0]], ["n1", NAMES[1]], ["n2", NAMES[2]]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("flags", [[], ["--tta=paper"], ["--per_device_eval_batch_size=1", "--probabilities"]])
def test_logits_that_are_not_finite_are_refused_and_nothing_is_lost(tmp_path, monkeypatch, value, flags):
    (tmp_path / "o.csv").write_text("earlier")
    with pytest.raises(ModelError, match=r"NaN or infinite for 1 of \d images, the first is n1"):
        predict_table([[0, 1.0], [value, 1.0], [1.0, 0]], tmp_path, monkeypatch, *flags)
    assert (tmp_path / "o.csv").read_text() == "earlier"
    assert sorted(os.listdir(tmp_path)) == ["o.csv", "test.pkl"]


def test_a_broken_image_is_named_and_may_be_left_out(trained, pictures, tmp_path, capsys):
    output = tmp_path / "o.csv"
    output.write_text("earlier")
    (pictures / "05.png").write_bytes(b"no image")
    (pictures / "more" / "10.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"image 05\.png of INPUT cannot be decoded .*--skip_errors"):
        predict(trained, pictures, output)
    assert output.read_text() == "earlier" and sorted(os.listdir(tmp_path)) == ["o.csv", "pictures"]
    rows = predict(trained, pictures, output, "--skip_errors")
    assert len(rows) == 11 and not {"05.png", "more/10.png"} & {name for name, _ in rows}
    said = capsys.readouterr().err
    assert "left out, because they cannot be decoded: 2" in said
    assert "05.png: its bytes are of no known image format" in said and "more/10.png: " in said


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="file names are text there")
def test_names_that_are_no_utf8_are_written_as_their_bytes(untrained, pictures, tmp_path, capsys):
    """In every row, and nothing is lost at the end of the work; the CSV stays UTF-8."""
    (pictures / "00.png").rename(os.fsdecode(os.fsencode(pictures) + b"/\xff\xe4.png"))
    config = json.loads((untrained / "config.json").read_text())
    config["id2label"]["0"] = "half \ud83d"
    (untrained / "config.json").write_text(json.dumps(config))
    rows = predict(untrained, pictures, tmp_path / "o.csv", "--probabilities")
    assert len(rows) == 13 and "\\xff\\xe4.png" in [row[0] for row in rows]
    assert rows[0][2] == "half \\ud83d"
    single = os.fsdecode(os.fsencode(pictures) + b"/\xff\xe4.png")
    assert predict(untrained, single, tmp_path / "o.csv")[1][0] == "\\xff\\xe4.png"


class _Program:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({b"data": np.zeros((2, 3072), np.uint8), b"ids": _Program()}, r"asks for (posix|nt)\.system"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"ids": np.random.default_rng(0)}, r"asks for numpy\.random"),
        ({b"data": np.zeros((2, 3072), np.float32), b"ids": [1, 2]}, "float32"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"ids": [1]}, "1 ids"),
        ({b"data": np.zeros((2, 100), np.uint8), b"ids": [1, 2]}, "must be a pickle of a dict"),
        ({b"pixels": 1}, "KeyError: 'data'"),
        ([1, 2], "must be a pickle of a dict"),
    ],
)
def test_pickles_that_are_refused(tmp_path, content, said):
    file = tmp_path / "test.pkl"
    file.write_bytes(pickle.dumps(content, 2))
    with pytest.raises(DatasetError, match=said) as refused:
        open_images(str(file), PixelFormat(32))
    assert str(file) in str(refused.value) and "\n" not in str(refused.value)


def test_a_damaged_pickle_is_refused(tmp_path):
    whole = pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"ids": [1, 2]})
    for end in (1, 2, 30, 100, len(whole) - 1):
        (tmp_path / "test.pkl").write_bytes(whole[:end])
        with pytest.raises(DatasetError, match="is a pickle that cannot be read"):
            open_images(str(tmp_path / "test.pkl"), PixelFormat(32))


def test_a_stream_is_read_as_far_as_it_is_used(tmp_path):
    """So that a million images need no more memory than a batch."""
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "PNG")
    write_dataset(tmp_path, "test", [buffer.getvalue()] * 2000 + [b"broken"], [0] * 2001, ["a", "b"])
    images = open_images(str(tmp_path), PixelFormat(32))
    assert all(next(images.stream).pixels is not None for _ in range(2000))
    assert next(images.stream).pixels is None and next(images.stream, None) is None


@pytest.mark.processes
def test_on_the_command_line(trained, pictures, tmp_path, monkeypatch):
    process = run_script("predict.py", trained, pictures, "--output", tmp_path / "o.csv", folder=tmp_path)
    assert process.returncode == 0 and process.stdout == f"{tmp_path / 'o.csv'}: 12 rows\n"
    assert process.stderr == ""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setattr("sys.argv", ["predict.py", str(trained), str(empty), "--output=o.csv"])
    with pytest.raises(SystemExit) as left:
        predict_script.main()
    assert left.value.code == (
        f"predict.py: error: INPUT {empty} holds neither image files nor Parquet: give a folder that does."
    )


def test_the_layer_table(tmp_path, tiny_config, monkeypatch, capsys):
    table = layer_table(SlimResNetConfig())
    lines = table.splitlines()
    assert lines[2].split()[:2] == ["Conv2d-1", "slimresnet.embedder.convolution"]
    assert "[1, 32, 32, 32]" in lines[2] and lines[2].split()[-2:] == ["864", "884,736"]
    assert sum("Conv2d" in line for line in lines) == 34
    assert any("Linear-" in line and "2,570" in line for line in lines)
    assert "parameters     4,754,218" in table and "multiply-adds  271,4" in table
    assert "18.14 MiB" in table  # as the report's Table 1
    tiny_config.save_pretrained(tmp_path)
    monkeypatch.setattr("sys.argv", ["modeling_slimresnet", str(tmp_path)])
    print_table()
    assert "[1, 16, 8, 8]" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["modeling_slimresnet", str(REPOSITORY / "tests")])
    with pytest.raises(SystemExit, match=r"MODEL .* has no config that can be read"):
        print_table()
