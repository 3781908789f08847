"""Each operation of TrivialAugment against Pillow's, image by image."""

import numpy as np
import pytest
import torch
from conftest import SAMPLE
from datasets import load_dataset
from PIL import Image, ImageEnhance, ImageOps

from slimresnet.data.randomness import Draws
from slimresnet.data.transforms.trivial_augment import OPERATIONS, TrivialAugment, trivial_augment
from slimresnet.recipe.settings import Recipe

LEVELS = [-1.0, -0.63, -0.2, -0.01, 0.0, 0.01, 0.35, 0.8, 1.0]


def move(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)


PILLOW = {
    "identity": lambda image, level: image,
    "shear_x": lambda image, level: move(image, 1, 0.99 * level, 0, 0, 1, 0),
    "shear_y": lambda image, level: move(image, 1, 0, 0, 0.99 * level, 1, 0),
    "translate_x": lambda image, level: move(image, 1, 0, 32 * level, 0, 1, 0),
    "translate_y": lambda image, level: move(image, 1, 0, 0, 0, 1, 32 * level),
    "rotate": lambda image, level: image.rotate(135 * level),
    "brightness": lambda image, level: ImageEnhance.Brightness(image).enhance(1 + 0.99 * level),
    "color": lambda image, level: ImageEnhance.Color(image).enhance(1 + 0.99 * level),
    "contrast": lambda image, level: ImageEnhance.Contrast(image).enhance(1 + 0.99 * level),
    "sharpness": lambda image, level: ImageEnhance.Sharpness(image).enhance(1 + 0.99 * level),
    "posterize": lambda image, level: ImageOps.posterize(image, 8 - round(6 * abs(level))),
    "solarize": lambda image, level: ImageOps.solarize(image, 256 * (1 - abs(level))),
    "autocontrast": lambda image, level: ImageOps.autocontrast(image),
    "equalize": lambda image, level: ImageOps.equalize(image),
}


@pytest.fixture(scope="module")
def pixels():
    """Photographs, and images of one color, of two values and of three: uint8 RGB `[B, 3, 32, 32]`."""
    photographs = [np.asarray(row["img"]) for row in load_dataset(str(SAMPLE), split="test").select(range(100))]
    rng = np.random.default_rng(0)
    odd = [np.full((32, 32, 3), 77), np.broadcast_to([0, 130, 255], (32, 32, 3))]
    odd += [40 + 90 * rng.integers(0, values, (32, 32, 3)) for values in (2, 3)]
    return torch.from_numpy(np.stack([*photographs, *odd]).astype(np.uint8)).permute(0, 3, 1, 2).contiguous()


def by_pillow(name: str, image: torch.Tensor, level: float) -> torch.Tensor:
    result = PILLOW[name](Image.fromarray(image.permute(1, 2, 0).numpy()), level)
    return torch.from_numpy(np.array(result)).permute(2, 0, 1)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (23, 30)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_does_what_pillow_does(pixels, name, height, width):
    pixels = pixels[:, :, :height, :width].contiguous()
    levels = torch.tensor(LEVELS).repeat(len(pixels))[: len(pixels)]
    result = OPERATIONS[name](pixels, levels.view(-1, 1, 1, 1))
    assert result.dtype == torch.uint8 and result.shape == pixels.shape
    expected = torch.stack([by_pillow(name, *pair) for pair in zip(pixels, levels.tolist(), strict=True)])
    different = (result != expected).float().mean().item()
    if name == "rotate":  # at 135 degrees, the middles of some pixels come to lie between two others
        assert different < 0.01
    elif name in ("brightness", "color", "contrast", "sharpness"):
        assert (result.int() - expected.int()).abs().max() <= 1 and different < 0.002  # float32
    else:
        assert different == 0
    if name != "identity":
        assert (result != pixels).any()


def test_each_operation_is_drawn_as_often_as_another_and_at_all_strengths(pixels):
    image = pixels[:1, :, :16, :16].expand(14_000, -1, -1, -1)
    drawn = Draws(0, 0, 0, np.arange(14_000)).uniform("trivial augment", 2)
    result = trivial_augment(image, drawn)
    numbers = (drawn[:, 0] * 14).astype(int)
    assert np.bincount(numbers, minlength=14) == pytest.approx(1000, rel=0.12)
    for number, name in enumerate(OPERATIONS):
        of_it = result[numbers == number]
        levels = torch.from_numpy(2 * drawn[numbers == number, 1] - 1).float()
        assert levels.min() < -0.98 and levels.max() > 0.98
        assert torch.equal(of_it, OPERATIONS[name](image[: len(of_it)], levels.view(-1, 1, 1, 1)))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_small_images(size):
    image = torch.randint(0, 256, (500, 3, size, size + 1), dtype=torch.uint8)
    before = image.clone()
    result = trivial_augment(image, np.random.default_rng(0).random((500, 2)))
    assert result.shape == image.shape and result.dtype == torch.uint8
    assert torch.equal(image, before)


def translated(pixels, translation, drawn):
    """What of a batch went through a translation, of which dimension, and the images that came out of it."""
    result = trivial_augment(pixels, drawn, translation)
    for dimension, name in ((3, "translate_x"), (2, "translate_y")):
        chosen = (drawn[:, 0] * 14).astype(int) == list(OPERATIONS).index(name)
        yield dimension, np.flatnonzero(chosen), result[chosen]


@pytest.mark.parametrize("translation", [0, 1, 4, 5, 32])
def test_an_image_is_moved_by_up_to_as_many_pixels_as_asked_for(pixels, translation):
    """Against NumPy: shifted by the rounded number of pixels, black where nothing is left; other operations as ever."""
    drawn = Draws(0, 0, 0, np.arange(104 * 20)).uniform("trivial augment", 2)
    images, seen = pixels.repeat(20, 1, 1, 1), set()
    whole = trivial_augment(images, drawn)
    for dimension, chosen, moved in translated(images, translation, drawn):
        for index, result in zip(chosen, moved, strict=True):
            shift = int(np.floor(0.5 + translation * np.float32(2 * drawn[index, 1] - 1)))
            padded = np.pad(
                images[index].numpy(), [(0, 0), *[(33, 33) if axis == dimension else (0, 0) for axis in (2, 3)]]
            )
            first = 33 + shift
            expected = padded[:, :, first : first + 32] if dimension == 3 else padded[:, first : first + 32]
            assert (result.numpy() == expected).all()
            seen.add(shift)
        whole[chosen] = moved
    assert {-translation, translation} <= seen and max(map(abs, seen)) == translation
    assert torch.equal(whole, trivial_augment(images, drawn, translation))


def test_the_papers_reach_is_the_default_and_may_leave_an_image_black(pixels):
    light = torch.full_like(pixels, 200).repeat(20, 1, 1, 1)
    draws = Draws(0, 0, 0, np.arange(len(light)))
    drawn = draws.uniform("trivial augment", 2)
    for translation, has_black in ((32, True), (8, False)):
        moved = torch.cat([images for _, _, images in translated(light, translation, drawn)])
        assert (moved == 0).flatten(1).all(dim=1).any().item() == has_black
    by_default = TrivialAugment.of(Recipe(trivial_augment=True))(light, draws)
    assert torch.equal(by_default, trivial_augment(light, drawn, 32)) and torch.equal(
        by_default, trivial_augment(light, drawn)
    )
