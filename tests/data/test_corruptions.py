"""Every corruption at every severity against the published constants and a plain implementation beside ours."""

import zlib

import numpy as np
import published_corruptions as published
import pytest
import torch
from conftest import SAMPLE
from PIL import Image

from slimresnet.data.corruptions import frost
from slimresnet.data.corruptions import standard as corruptions
from slimresnet.data.corruptions.extra import EXTRA_CORRUPTIONS
from slimresnet.data.corruptions.standard import CORRUPTIONS, SEVERITIES, corrupt, with_photographs
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.source import DatasetError
from slimresnet.data.transforms.transform import overlapping_augmentations
from slimresnet.data.transforms.trivial_augment import OPERATIONS
from slimresnet.recipe.settings import Recipe

ALL = CORRUPTIONS | EXTRA_CORRUPTIONS
ROWS = np.array([5, 123456, 0])
SEED = 17


@pytest.fixture(scope="module")
def pixels():
    """Three images of the sample, wider than high, uint8 `[3, 3, 24, 40]`; one has its greys, black and white."""
    split = open_split(str(SAMPLE), "test", image_size=32)
    [images] = split.images.read([np.arange(3)])
    wide = [Image.fromarray(image.permute(1, 2, 0).numpy()).resize((40, 24)) for image in images]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in wide])).permute(0, 3, 1, 2).contiguous()
    pixels[1, :, 3:7, 10:18] = torch.arange(0, 256, 36, dtype=torch.uint8)
    pixels[1, :, 0, :5] = 255
    return pixels


def generators(name, severity):
    """A draw is a function of (seed, corruption, severity, row)."""
    key = np.random.SeedSequence([SEED, zlib.crc32(name.encode()), severity]).generate_state(2, np.uint64)
    return [np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, row])) for row in ROWS]


def assert_as_published(pixels, name, corruption, reference, severity):
    images = pixels.permute(0, 2, 3, 1).numpy() / 255
    expected = np.stack(
        [reference(image, severity, draw) for image, draw in zip(images, generators(name, severity), strict=True)]
    )
    expected = np.floor(255 * expected.clip(0, 1) + 1e-6)
    got = corrupt(pixels, name, corruption, severity, ROWS, SEED).permute(0, 2, 3, 1).numpy()
    # Rounding in the last bit takes few values to the next step.
    assert np.abs(got - expected).max() <= 1, (name, severity)
    assert (got != expected).mean() < 0.002, (name, severity)


@pytest.mark.parametrize("name", [name for name in ALL if name != "synthetic_frost"])
def test_every_severity_is_the_published_one(pixels, name):
    for severity in SEVERITIES:
        for pictures in (pixels, pixels.transpose(2, 3)):  # wide and tall
            assert_as_published(pictures, name, ALL[name], getattr(published, name), severity)


def test_both_kinds_of_frost_are_laid_over_as_published(pixels):
    photographs = [np.random.default_rng(size).random((24 + 2 * size, 40 + size, 3)) for size in range(3)]

    def photograph(image, severity, draw):
        keep, share = published.FROST[severity]
        chosen = photographs[draw.integers(3)]
        top, left = draw.integers(chosen.shape[0] - 23), draw.integers(chosen.shape[1] - 39)
        return keep * image + share * chosen[top : top + 24, left : left + 40]

    def ice(image, severity, draw):
        keep, share = published.FROST[severity]
        return keep * image + share * frost.grow_ice((24, 40), [draw])[0]

    for severity in SEVERITIES:
        assert_as_published(pixels, "frost", with_photographs(photographs)["frost"], photograph, severity)
        assert_as_published(pixels, "synthetic_frost", CORRUPTIONS["synthetic_frost"], ice, severity)


def test_names_and_order():
    fifteen = [
        "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
        "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
    ]  # fmt: skip
    assert list(with_photographs([])) == fifteen
    assert list(CORRUPTIONS) == [name.replace("frost", "synthetic_frost") for name in fifteen]
    assert list(EXTRA_CORRUPTIONS) == ["speckle_noise", "gaussian_blur", "spatter", "saturate"]
    assert list(SEVERITIES) == [1, 2, 3, 4, 5]
    same = with_photographs([]).items() & CORRUPTIONS.items()
    assert len(same) == 14


def test_a_pixel_of_no_hue_and_an_image_without_drops(pixels):
    """What divides by a largest value meets one that is 0."""
    black = torch.zeros_like(pixels)
    for name, corruption in ALL.items():
        for severity in SEVERITIES:
            assert corrupt(black, name, corruption, severity, ROWS, SEED).shape == black.shape
    tiny = pixels[:1, :, :2, :2]  # so few pixels that some draw holds no drop
    rows = np.arange(20)
    spattered = corrupt(tiny.repeat(20, 1, 1, 1), "spatter", ALL["spatter"], 1, rows, SEED)
    assert any(torch.equal(image, tiny[0]) for image in spattered)


@pytest.mark.parametrize(
    "kind, colour, between, within, step",
    [
        (0, (0.30, 0.58, 0.65), 0.041, 0.054, 0.055),
        (1, (0.78, 0.79, 0.83), 0.035, 0.072, 0.081),
        (3, (0.56, 0.62, 0.67), 0.039, 0.104, 0.128),
        (4, (0.40, 0.44, 0.49), 0.062, 0.124, 0.155),
    ],
)
def test_ice_has_the_statistics_of_the_photographs(kind, colour, between, within, step, monkeypatch):
    """
    Measured on pieces of 32×32 of the photographs at a fifth of their size, 0–1: the mean of each channel, and of the
    grey values how far pieces are apart, how much one varies, and two neighbours in it.
    """
    monkeypatch.setattr(frost, "KINDS", frost.KINDS[kind : kind + 1])
    ice = frost.grow_ice((32, 32), [np.random.default_rng([9, row]) for row in range(400)])
    assert ice.min() >= 0 and ice.max() <= 1
    grey = ice.mean(axis=3)
    assert ice.mean(axis=(0, 1, 2)) == pytest.approx(colour, abs=0.015)
    assert grey.mean(axis=(1, 2)).std() == pytest.approx(between, rel=0.15)
    assert np.median(grey.std(axis=(1, 2))) == pytest.approx(within, rel=0.1)
    for axis in (1, 2):
        assert np.diff(grey, axis=axis).std() == pytest.approx(step, rel=0.1)


def test_a_draw_grows_the_same_ice_everywhere():
    """Statistics cannot tell a sign, nor a quotient from a product; corrupted figures are of these very pictures."""
    ice = frost.grow_ice((32, 32), [np.random.default_rng([9, row]) for row in range(3)])
    expected = [[0.7292, 0.7376, 0.7760], [0.7077, 0.7155, 0.7532], [0.2204, 0.5307, 0.6034]]
    np.testing.assert_allclose(ice[:, 3, 29], expected, atol=1e-4)


def test_kinds_of_ice_come_as_often_as_their_photographs():
    ice = frost.grow_ice((32, 32), [np.random.default_rng([9, row]) for row in range(1000)])
    mean = 0.2 * np.array([0.30, 0.58, 0.65]) + 0.4 * np.array([0.78, 0.79, 0.83])
    mean += 0.2 * np.array([0.56, 0.62, 0.67]) + 0.2 * np.array([0.40, 0.44, 0.49])
    assert ice.mean(axis=(0, 1, 2)) == pytest.approx(mean, abs=0.02)
    assert len(frost.KINDS) == 5 and frost.KINDS[1] == frost.KINDS[2]


def test_photographs_are_read_as_they_are(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (33, 50, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "b.png")
    Image.new("L", (32, 32), 51).save(tmp_path / "a.PNG")
    (tmp_path / "README.md").write_text("where they are from")
    first, second = frost.open_photographs(tmp_path, 32)
    assert np.array_equal(first, np.full((32, 32, 3), 0.2)) and np.array_equal(second, colours / 255)


def test_folders_of_photographs_that_are_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"--frost_folder .*nowhere is no folder"):
        frost.open_photographs(tmp_path / "nowhere", 32)
    with pytest.raises(DatasetError, match="holds no images"):
        frost.open_photographs(tmp_path, 32)
    Image.new("RGB", (40, 31)).save(tmp_path / "low.png")
    with pytest.raises(DatasetError, match=r"low\.png has 40×31 pixels, and needs 32×32"):
        frost.open_photographs(tmp_path, 32)
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"broken\.jpg cannot be read as an image"):
        frost.open_photographs(tmp_path, 32)


def test_a_draw_depends_on_all_that_it_should(pixels):
    noise = CORRUPTIONS["gaussian_noise"]
    flat = torch.full_like(pixels, 128)

    def draw(name="gaussian_noise", severity=1, rows=ROWS, seed=SEED):
        return corrupt(flat, name, noise, severity, rows, seed)

    assert torch.equal(draw(), draw())
    signs = draw() > 128
    for other in (draw(name="snow"), draw(severity=2), draw(rows=ROWS + 1), draw(seed=SEED + 1)):
        assert 0.4 < (signs == (other > 128)).double().mean() < 0.6  # no relation


def test_what_training_shares_with_the_corruptions():
    assert overlapping_augmentations(Recipe()) == {}
    overlaps = overlapping_augmentations(Recipe(trivial_augment=True))
    assert list(overlaps) == ["brightness", "contrast", "color", "sharpness"]
    assert overlaps.keys() <= OPERATIONS.keys()
    assert overlaps["brightness"] == ("brightness",) and overlaps["color"] == ("saturate",)
    assert list(overlapping_augmentations(Recipe(gaussian_blur_prob=0.1))) == ["gaussian_blur"]
    for names in overlapping_augmentations(Recipe(trivial_augment=True, gaussian_blur_prob=1.0)).values():
        assert set(names) <= ALL.keys()
    assert {name for name in ALL if name.endswith("blur")} == set(overlaps["sharpness"])


def test_plasma_takes_the_power_of_two_that_holds_the_image():
    draw = np.random.default_rng(3)
    [heights] = corruptions.plasma((5, 9), 2.0, [np.random.default_rng(3)])
    np.testing.assert_allclose(heights, published.plasma(16, 2.0, draw)[:5, :9])
