"""Corruptions and folders of NumPy files: what they do to pixels, and how eval.py scores them."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from conftest import SAMPLE
from PIL import Image
from training_runs import evaluate_folder, read

from slimresnet.api.evaluate import evaluate
from slimresnet.api.predict import predict
from slimresnet.data.corruptions import standard as corruptions
from slimresnet.data.corruptions.extra import EXTRA_CORRUPTIONS
from slimresnet.data.corruptions.standard import CORRUPTIONS, SEVERITIES, corrupt
from slimresnet.data.sources.arrays import open_arrays
from slimresnet.data.sources.corrupted import CorruptedImages
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.decoding import PixelFormat
from slimresnet.data.sources.source import DatasetError
from slimresnet.evaluation import shift
from slimresnet.evaluation.protocol import ScoredNetwork
from slimresnet.evaluation.rows import ScoredRows
from slimresnet.evaluation.shift import CorruptionSet, score_corruptions
from slimresnet.formats.trained import ModelError
from slimresnet.recipe.checks import RecipeError

ALL = CORRUPTIONS | EXTRA_CORRUPTIONS


@pytest.fixture(scope="module")
def split():
    return open_split(str(SAMPLE), "test", image_size=32)


@pytest.fixture(scope="module")
def pixels(split):
    return next(split.images.read([np.arange(64)]))


@pytest.mark.parametrize("name", ALL)
def test_a_severer_corruption_leaves_less_of_the_image(pixels, name):
    rows = np.arange(64)
    distances = []
    for severity in SEVERITIES:
        corrupted = corrupt(pixels, name, ALL[name], severity, rows, seed=0)
        assert corrupted.shape == pixels.shape and corrupted.dtype == torch.uint8
        distances.append((corrupted.float() - pixels.float()).square().mean().item())
    assert min(distances) > 0
    # The published parameters of these do not rise step by step in this measure.
    if name not in ("glass_blur", "motion_blur", "elastic_transform", "snow", "synthetic_frost", "spatter", "saturate"):
        assert distances == sorted(distances)


@pytest.mark.parametrize("name", ALL)
def test_a_draw_belongs_to_its_image_alone(pixels, name):
    rows = np.arange(64)
    together = corrupt(pixels, name, ALL[name], 3, rows, seed=0)
    assert torch.equal(together, corrupt(pixels, name, ALL[name], 3, rows, seed=0))
    alone = torch.cat(
        [corrupt(pixels[row : row + 1], name, ALL[name], 3, rows[row : row + 1], seed=0) for row in (5, 40)]
    )
    assert torch.equal(together[[5, 40]], alone)
    deterministic = {
        "defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur",
        "saturate",
    }  # fmt: skip
    assert torch.equal(together, corrupt(pixels, name, ALL[name], 3, rows, seed=1)) == (name in deterministic)


def test_images_are_corrupted_as_they_are_read(split, pixels):
    corrupted = CorruptedImages(split, "fog", CORRUPTIONS["fog"], 4, seed=7)
    rows = np.array([40, 3])
    [read_pixels] = list(corrupted.read([rows]))
    assert torch.equal(read_pixels, corrupt(pixels[rows], "fog", CORRUPTIONS["fog"], 4, rows, seed=7))


def leave_corruptions(monkeypatch, *names):
    few = {name: CORRUPTIONS[name] for name in names}
    monkeypatch.setattr(corruptions, "CORRUPTIONS", few)
    monkeypatch.setattr(shift, "CORRUPTIONS", few)


def test_eval_scores_every_corruption(trained, tmp_path, monkeypatch, capsys):
    leave_corruptions(monkeypatch, "gaussian_noise", "shot_noise", "impulse_noise")
    folder = shutil.copytree(trained, tmp_path / "run")
    evaluate_folder(folder, "--shift=corruptions", "--max_eval_samples=20", "--tta=flip", f"--output_dir={folder}")
    accuracies = json.loads((folder / "test_corruptions.json").read_text())
    assert list(accuracies["none"]) == list(accuracies["flip"]) == ["gaussian_noise", "shot_noise", "impulse_noise"]
    assert all(len(each) == 5 for each in accuracies["none"].values())
    results = read(folder)
    assert results["test_corruption_accuracy"] == pytest.approx(np.mean(list(accuracies["none"].values())))
    assert results["test_corruption_accuracy_tta"] == pytest.approx(np.mean(list(accuracies["flip"].values())))
    assert results["test_corruption_samples"] == 20
    assert results["test_corruption_precision"] == "float32" and results["test_corruption_frost"] == "synthetic"
    assert results["test_accuracy"] == read(trained)["test_accuracy"]  # what stood there stays
    assert "shot_noise" in capsys.readouterr().out


def test_each_severity_is_scored_as_itself(split):
    """Each severity paints a grey of its own, and the network is wrong as often as the severity says."""

    def paint(images, severity, generators):
        assert len(images) == len(generators)
        return np.full_like(images, severity / 10)

    def predict(shifted, rows, views):
        assert shifted.label_names == split.label_names
        [pixels] = shifted.images.read([rows])
        severity = round(pixels[0, 0, 0, 0].item() / 25.5)
        answers = shifted.labels[rows].copy()
        answers[:severity] = (answers[:severity] + 1) % 10
        right = torch.nn.functional.one_hot(torch.from_numpy(answers), 10).double()
        return dict.fromkeys(views, right)

    scored = ScoredRows(split, np.arange(7, 27), "test", "cifar10", "test")
    said = []
    found = score_corruptions(
        ScoredNetwork(predict, precision="bf16"),
        scored,
        CorruptionSet("corruptions", {"first": paint, "second": paint}, frost="synthetic"),
        tta="flip",
        seed=0,
        of_output={},
        say=said.append,
    )
    assert said == ["first   none 85.00%, flip 85.00%", "second  none 85.00%, flip 85.00%"]
    expected = [0.95, 0.9, 0.85, 0.8, 0.75]
    by_corruption = {"first": expected, "second": expected}
    assert found.details == {"test_corruptions.json": {"none": by_corruption, "flip": by_corruption}}
    assert found.results == scored.facts("test") | {
        "test_corruption_samples": 20,
        "test_corruption_precision": "bf16",
        "test_corruption_tta": "flip",
        "test_corruption_frost": "synthetic",
        "test_corruption_accuracy": pytest.approx(0.85),
        "test_corruption_accuracy_tta": pytest.approx(0.85),
    }


def test_frost_of_photographs(trained, tmp_path, monkeypatch):
    leave_corruptions(monkeypatch, "synthetic_frost", "contrast")
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    Image.new("RGB", (40, 32), "white").save(photographs / "white.png")
    folder = shutil.copytree(trained, tmp_path / "run")
    flags = ["--shift=corruptions", "--max_eval_samples=20", f"--output_dir={folder}"]
    evaluate_folder(folder, *flags, f"--frost_folder={photographs}")
    accuracies = json.loads((folder / "test_corruptions.json").read_text())["none"]
    assert list(accuracies) == ["frost", "contrast"] and read(folder)["test_corruption_frost"] == "photographs"
    evaluate_folder(folder, *flags)
    accuracies = json.loads((folder / "test_corruptions.json").read_text())["none"]
    assert list(accuracies) == ["synthetic_frost", "contrast"]
    assert read(folder)["test_corruption_frost"] == "synthetic"
    (photographs / "white.png").unlink()
    with pytest.raises(DatasetError, match=r"--frost_folder .* holds no images"):
        evaluate_folder(folder, *flags, f"--frost_folder={photographs}")


def test_choices_have_validation_images_and_corruptions_of_their_own(trained, tmp_path, monkeypatch):
    folder = shutil.copytree(trained, tmp_path / "run")
    flags = ["--split=validation", "--max_eval_samples=20", f"--output_dir={folder}"]
    evaluate_folder(folder, "--shift=extra_corruptions", *flags)
    results = read(folder)
    accuracies = json.loads((folder / "eval_extra_corruptions.json").read_text())["none"]
    assert list(accuracies) == ["speckle_noise", "gaussian_blur", "spatter", "saturate"]
    assert results["eval_extra_corruption_accuracy"] == pytest.approx(np.mean(list(accuracies.values())))
    assert results["eval_extra_corruption_samples"] == 20 and "eval_extra_corruption_frost" not in results
    leave_corruptions(monkeypatch, "contrast")
    evaluate_folder(folder, "--shift=corruptions", *flags)
    assert read(folder)["eval_corruption_samples"] == 20
    assert not [name for name in read(folder) if name.startswith("test_corruption")]


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"shift": "FOLDER", "split": "validation"}, "--split and --max_eval_samples out"),
        ({"shift": "FOLDER", "max_eval_samples": 20}, "--split and --max_eval_samples out"),
        ({"frost_folder": "FOLDER"}, "--frost_folder is for the frost of --shift corruptions"),
        ({"frost_folder": "FOLDER", "shift": "extra_corruptions"}, "--frost_folder is for the frost"),
        ({"compare_tta": True, "split": "validation", "shift": "corruptions"}, "leave --shift out"),
        (
            {"backend": "onnxruntime", "mixed_precision": "bf16"},
            "--mixed_precision is for --backend torch, not for onn",
        ),
        ({"tta": "wild"}, "--tta must be one of none, flip, flip_shift, paper, got wild"),
        ({"mixed_precision": "fp16"}, "--mixed_precision must be one of auto, no, bf16, got fp16"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused_before_anything_is_read(arguments, said):
    with pytest.raises(RecipeError, match=said):
        evaluate("no model", **arguments)


@pytest.mark.parametrize("function", [evaluate, partial(predict, input="no images")])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"backend": "tf"}, "--backend must be one of torch, .* got tf"),
        ({"quantized": True}, "--quantized is for --backend .*, not for torch"),
    ],
)
def test_a_backend_that_there_is_not_is_refused_before_anything_is_read(function, arguments, said):
    with pytest.raises(ModelError, match=said):
        function("no model", **arguments)


def test_eval_scores_numpy_folders(trained, split, tmp_path):
    pixels = torch.cat(list(split.images.read([np.arange(90)]))).permute(0, 2, 3, 1).numpy()
    labels = split.labels[:90]
    shifted = tmp_path / "CIFAR-10-C"
    shifted.mkdir()
    np.save(shifted / "labels.npy", labels.astype(np.uint8))
    for name in ("fog", "snow", "saturate"):
        np.save(shifted / f"{name}.npy", pixels if name == "fog" else 255 - pixels)
    folder = shutil.copytree(trained, tmp_path / "run")
    evaluate_folder(folder, f"--shift={shifted}", f"--output_dir={folder}")
    by_name = json.loads((folder / "CIFAR-10-C_details.json").read_text())["none"]
    assert by_name.keys() == {"fog", "snow", "saturate"}
    assert read(folder)["CIFAR-10-C_corruptions"] == 2 and read(folder)["CIFAR-10-C_precision"] == "float32"
    assert read(folder)["CIFAR-10-C_accuracy"] == (by_name["fog"] + by_name["snow"]) / 2
    assert read(folder)["saturate_accuracy"] == by_name["saturate"]
    newer = tmp_path / "new"
    newer.mkdir()
    np.save(newer / "cifar10.1_v6_data.npy", pixels)
    np.save(newer / "cifar10.1_v6_labels.npy", labels)
    evaluate_folder(folder, f"--shift={newer}", f"--output_dir={folder}")
    assert read(folder)["cifar10.1_v6_accuracy"] == by_name["fog"]


def test_numpy_files_that_are_refused(tmp_path):
    names = ["a", "b"]
    with pytest.raises(DatasetError, match=r"holds no \.npy files"):
        open_arrays(tmp_path, PixelFormat(32), names)
    np.save(tmp_path / "fog.npy", np.zeros((4, 32, 32, 3), np.uint8))
    for labels, said in (
        (None, r"labels\.npy is missing"),
        (np.zeros(3, int), "must hold 4 class numbers"),
        (np.full(4, 2), r"in 0 … 1"),
        (np.zeros(4), "must hold 4 class numbers"),
    ):
        if labels is not None:
            np.save(tmp_path / "labels.npy", labels)
        with pytest.raises(DatasetError, match=said):
            open_arrays(tmp_path, PixelFormat(32), names)
    np.save(tmp_path / "labels.npy", np.zeros(4, int))
    np.save(tmp_path / "fog.npy", np.zeros((4, 32, 32), np.uint8))
    with pytest.raises(DatasetError, match=r"fog\.npy must hold uint8 images"):
        open_arrays(tmp_path, PixelFormat(32), names)
    (tmp_path / "fog.npy").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"fog\.npy is no NumPy array"):
        open_arrays(tmp_path, PixelFormat(32), names)
