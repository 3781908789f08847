"""Corruptions and folders of NumPy files: what they do to pixels, and how eval.py scores them."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import SAMPLE
from scipy.ndimage import zoom
from test_evaluation import evaluate_folder
from training_runs import read

from cifar10.arrays import open_arrays
from cifar10.reading import DatasetError, open_split
from evaluation import corruptions
from evaluation.corruptions import CORRUPTIONS, SEVERITIES, CorruptedImages, corrupt
from training.recipe import RecipeError


@pytest.fixture(scope="module")
def split():
    return open_split(str(SAMPLE), "test", image_size=32)


@pytest.fixture(scope="module")
def pixels(split):
    return next(split.images.read([np.arange(64)]))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_severer_corruption_leaves_less_of_the_image(pixels, name):
    rows = np.arange(64)
    distances = []
    for severity in SEVERITIES:
        corrupted = corrupt(pixels, name, severity, rows, seed=0)
        assert corrupted.shape == pixels.shape and corrupted.dtype == torch.uint8
        distances.append((corrupted.float() - pixels.float()).square().mean().item())
    assert min(distances) > 0
    # The published parameters of these do not rise step by step in this measure.
    if name not in ("glass_blur", "motion_blur", "elastic_transform", "snow", "frost"):
        assert distances == sorted(distances)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_draw_belongs_to_its_image_alone(pixels, name):
    rows = np.arange(64)
    together = corrupt(pixels, name, 3, rows, seed=0)
    assert torch.equal(together, corrupt(pixels, name, 3, rows, seed=0))
    alone = torch.cat([corrupt(pixels[row : row + 1], name, 3, rows[row : row + 1], seed=0) for row in (5, 40)])
    assert torch.equal(together[[5, 40]], alone)
    deterministic = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
    assert torch.equal(together, corrupt(pixels, name, 3, rows, seed=1)) == (name in deterministic)


def test_noise_has_the_published_strength():
    grey = torch.full((64, 3, 32, 32), 128, dtype=torch.uint8)
    rows = np.arange(64)
    for severity, scale in zip(SEVERITIES, (0.04, 0.06, 0.08, 0.09, 0.10), strict=True):
        noisy = corrupt(grey, "gaussian_noise", severity, rows, 0).double()
        assert noisy.std().item() / 255 == pytest.approx(scale, rel=0.01)
    salt_and_pepper = corrupt(grey, "impulse_noise", 5, rows, 0)
    assert (salt_and_pepper == 0).double().mean().item() == pytest.approx(0.035, rel=0.05)
    assert (salt_and_pepper == 255).double().mean().item() == pytest.approx(0.035, rel=0.05)
    shot = corrupt(grey, "shot_noise", 5, rows, 0).double() / 255
    assert shot.var().item() == pytest.approx(0.5 / 50, rel=0.03)  # Poisson


def test_blurs_keep_the_mean_and_flat_images(pixels):
    flat = torch.full((1, 3, 32, 32), 77, dtype=torch.uint8)
    for name in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "pixelate"):
        assert (corrupt(flat, name, 5, np.arange(1), 0).int() - 77).abs().max() <= 1, name
        blurred = corrupt(pixels, name, 5, np.arange(64), 0).double()
        assert blurred.mean().item() == pytest.approx(pixels.double().mean().item(), rel=0.03), name


def test_motion_goes_along_its_angle():
    point = np.zeros((2, 15, 15, 1))
    point[:, 7, 7] = 1
    moved = corruptions._move(point, radius=6, sigma=2.0, angles=np.array([0.0, 90.0]))[..., 0]
    # A pixel takes from its right, and below: the point is drawn out to the left, and upwards.
    assert (moved[0, 7, 1:8] > 0).all() and np.count_nonzero(moved[0]) == np.count_nonzero(moved[0, 7])
    assert (moved[1, 1:8, 7] > 0).all() and moved[1].sum() == pytest.approx(moved[0].sum())


def test_zoom_is_scipys():
    images = np.random.default_rng(0).random((2, 32, 32, 3))
    larger = zoom(images[:, 2:30, 2:30], (1, 1.15, 1.15, 1), order=1)  # ceil(32 / 1.15) = 28 pixels
    top = (larger.shape[1] - 32) // 2
    np.testing.assert_allclose(corruptions._zoom(images, 1.15), larger[:, top : top + 32, top : top + 32], atol=1e-12)


def test_brightness_and_contrast():
    image = torch.tensor([100, 50, 0], dtype=torch.uint8).view(1, 3, 1, 1).repeat(1, 1, 32, 32)
    brighter = corrupt(image, "brightness", 3, np.arange(1), 0)[0, :, 0, 0].tolist()
    value = 100 + 0.15 * 255
    assert brighter == [int(value), int(value / 2), 0]  # hue and saturation stay
    assert torch.equal(corrupt(image, "contrast", 5, np.arange(1), 0), image)  # a flat image has none to lose


def test_plasma_fills_its_range():
    generators = [np.random.default_rng(seed) for seed in range(4)]
    heights = corruptions._plasma((20, 32), 2.0, generators)
    assert heights.shape == (4, 20, 32) and heights.min() >= 0 and heights.max() <= 1
    assert heights.reshape(4, -1).std(axis=1).min() > 0.05


def test_images_are_corrupted_as_they_are_read(split, pixels):
    corrupted = CorruptedImages(split, "fog", 4, seed=7)
    rows = np.array([40, 3])
    [read_pixels] = list(corrupted.read([rows]))
    assert torch.equal(read_pixels, corrupt(pixels[rows], "fog", 4, rows, seed=7))


def test_eval_scores_every_corruption(trained, tmp_path, monkeypatch, capsys):
    for name in list(CORRUPTIONS)[3:]:
        monkeypatch.delitem(CORRUPTIONS, name)
    folder = shutil.copytree(trained, tmp_path / "run")
    evaluate_folder(folder, "--shift=corruptions", "--max_eval_samples=20", "--tta=flip", f"--output_dir={folder}")
    accuracies = json.loads((folder / "test_corruptions.json").read_text())
    assert list(accuracies["none"]) == list(accuracies["flip"]) == ["gaussian_noise", "shot_noise", "impulse_noise"]
    assert all(len(each) == 5 for each in accuracies["none"].values())
    results = read(folder)
    assert results["test_corruption_accuracy"] == pytest.approx(np.mean(list(accuracies["none"].values())))
    assert results["test_corruption_accuracy_tta"] == pytest.approx(np.mean(list(accuracies["flip"].values())))
    assert results["test_corruption_samples"] == 20
    assert results["test_accuracy"] == read(trained)["test_accuracy"]  # what stood there stays
    assert "shot_noise" in capsys.readouterr().out


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
    by_name = json.loads((folder / "CIFAR-10-C.json").read_text())["none"]
    assert by_name.keys() == {"fog", "snow", "saturate"}
    assert read(folder)["CIFAR-10-C_accuracy"] == (by_name["fog"] + by_name["snow"]) / 2
    assert read(folder)["saturate_accuracy"] == by_name["saturate"]
    newer = tmp_path / "new"
    newer.mkdir()
    np.save(newer / "cifar10.1_v6_data.npy", pixels)
    np.save(newer / "cifar10.1_v6_labels.npy", labels)
    evaluate_folder(folder, f"--shift={newer}", f"--output_dir={folder}")
    assert read(folder)["cifar10.1_v6_accuracy"] == by_name["fog"]


def test_numpy_files_that_are_refused(tmp_path, trained):
    names = ["a", "b"]
    with pytest.raises(DatasetError, match=r"holds no \.npy files"):
        open_arrays(tmp_path, 32, names)
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
            open_arrays(tmp_path, 32, names)
    np.save(tmp_path / "labels.npy", np.zeros(4, int))
    np.save(tmp_path / "fog.npy", np.zeros((4, 32, 32), np.uint8))
    with pytest.raises(DatasetError, match=r"fog\.npy must hold uint8 images"):
        open_arrays(tmp_path, 32, names)
    (tmp_path / "fog.npy").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"fog\.npy is no NumPy array"):
        open_arrays(tmp_path, 32, names)
    with pytest.raises(RecipeError, match="--split validation"):
        evaluate_folder(trained, "--shift=corruptions", "--split=validation")
