"""Each augmentation of a batch against a plain one of a single image."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from transformers import ViTImageProcessorPil

from slimresnet.data.randomness import Draws
from slimresnet.data.transforms.gaussian_blur import GaussianBlur, gaussian_blur
from slimresnet.data.transforms.masks import box_mask
from slimresnet.data.transforms.normalize import normalize
from slimresnet.data.transforms.random_crop import RandomCrop, crop
from slimresnet.data.transforms.random_erasing import RandomErasing, erasing_boxes
from slimresnet.data.transforms.random_flip import HorizontalFlip, flip
from slimresnet.data.transforms.transform import ImageTransform, transforms_of
from slimresnet.recipe.settings import Recipe


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (40, 3, 12, 10), dtype=torch.uint8)


@pytest.mark.parametrize("padding", [2, 4])
@pytest.mark.parametrize(("mode", "numpy_mode"), [("zero", "constant"), ("reflect", "reflect")])
def test_crop(pixels, padding, mode, numpy_mode):
    offsets = np.random.default_rng(0).integers(0, 2 * padding + 1, (40, 2))
    offsets[:4] = [[0, 0], [0, 2 * padding], [2 * padding, 2 * padding], [padding, padding]]
    cropped = crop(pixels, offsets, padding, mode)
    assert cropped.dtype == torch.uint8 and cropped.shape == pixels.shape
    for image, (top, left), result in zip(pixels.numpy(), offsets, cropped.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)), mode=numpy_mode)
        assert (result == padded[:, top : top + 12, left : left + 10]).all()
    assert torch.equal(cropped[3], pixels[3])  # the window in the middle


@pytest.mark.parametrize(("dim", "reference"), [(2, np.flipud), (3, np.fliplr)])
def test_flip(pixels, dim, reference):
    chosen = np.arange(40) % 3 == 0
    for image, is_chosen, result in zip(pixels.numpy(), chosen, flip(pixels, chosen, dim).numpy(), strict=True):
        for channel in range(3):
            expected = reference(image[channel]) if is_chosen else image[channel]
            assert (result[channel] == expected).all()


def test_gaussian_blur(pixels):
    rng = np.random.default_rng(0)
    chosen, sigma = rng.random(40) < 0.6, rng.uniform(0.1, 1.5, 40)
    blurred = gaussian_blur(pixels, chosen, sigma).numpy()
    for image, is_chosen, width, result in zip(pixels.numpy(), chosen, sigma, blurred, strict=True):
        if not is_chosen:
            assert (result == image).all()
            continue
        weights = [math.exp(-(x**2 + y**2) / (2 * width**2)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        kernel = np.array(weights).reshape(3, 3) / sum(weights)
        padded = np.pad(image.astype(float), ((0, 0), (1, 1), (1, 1)), mode="reflect")
        for row in range(12):
            for column in range(10):
                window = padded[:, row : row + 3, column : column + 3]
                expected = (window * kernel).sum(axis=(1, 2))
                assert np.abs(result[:, row, column] - expected).max() <= 0.501  # rounded


def test_gaussian_blur_of_no_sample_is_the_batch(pixels):
    assert torch.equal(gaussian_blur(pixels, np.zeros(40, dtype=bool), np.ones(40)), pixels)


@pytest.mark.parametrize(("rows", "columns"), [(32, 32), (40, 28)])
def test_erasing_boxes_have_the_area_ratio_and_place_that_were_drawn(rows, columns):
    shape = Draws(0, 0, 0, np.arange(5000)).uniform("boxes", 4)
    top, bottom, left, right = erasing_boxes(shape, (0.02, 0.2), rows, columns).T
    # The border is within reach, and not crossed.
    assert (top.min(), bottom.max(), left.min(), right.max()) == (0, rows, 0, columns)
    height, width = bottom - top, right - left
    for index, (u_area, u_ratio, u_top, u_left) in enumerate(shape[:200]):
        area = (0.02 + u_area * 0.18) * rows * columns
        ratio = math.exp(math.log(0.3) * (1 - 2 * u_ratio))  # from 0.3 to 1 / 0.3
        assert height[index] == round(math.sqrt(area * ratio)) and width[index] == round(math.sqrt(area / ratio))
        assert top[index] == int(u_top * (rows + 1 - height[index]))
        assert left[index] == int(u_left * (columns + 1 - width[index]))
    assert (height * width / (rows * columns)).mean() == pytest.approx(0.11, abs=0.005)


def test_every_window_of_a_crop_is_as_likely_as_another():
    """Each pixel of the picture has a value of its own, and so its middle tells the window."""
    picture = torch.arange(9 * 11, dtype=torch.uint8).view(1, 1, 9, 11).expand(10_000, 3, -1, -1)
    cropped = RandomCrop(crop_padding=2, crop_padding_mode="zero")(picture, Draws(0, 0, 0, np.arange(10_000)))
    row, column = np.divmod(cropped[:, 0, 4, 5].numpy(), 11)
    windows = np.bincount(5 * (row - 2) + column - 3, minlength=25)
    assert len(windows) == 25 and windows == pytest.approx(400, abs=100)


def test_what_a_recipe_does_not_say_is_as_documented():
    """Random erasing: 2 to 20 % of the area, in the mean color; the blur: a standard deviation of 0.1 to 1.5 pixels."""
    draws, points = Draws(0, 0, 0, np.arange(4000)), torch.zeros(4000, 1, 9, 9, dtype=torch.uint8)
    erase = RandomErasing.of(Recipe(random_erasing_prob=1.0))
    erased = dataclasses.replace(erase, image_mean=(1 / 255,))(points.repeat(1, 1, 8, 8), draws)
    share = erased.double().mean(dim=(1, 2, 3))
    assert share.min().item() == pytest.approx(0.02, abs=0.008) and share.max().item() == pytest.approx(0.2, abs=0.008)
    colored = erase(torch.full((100, 3, 9, 9), 7, dtype=torch.uint8), Draws(0, 0, 0, np.arange(100)))
    assert colored.permute(0, 2, 3, 1).reshape(-1, 3).unique(dim=0).tolist() == [[7, 7, 7], [125, 123, 114]]
    points[:, :, 4, 4] = 255
    centre = GaussianBlur.of(Recipe(gaussian_blur_prob=1.0))(points, draws)[:, 0, 4, 4]
    widest = math.exp(-0.5 / 1.5**2)
    assert centre.max() == 255 and centre.min().item() == pytest.approx(255 / (1 + 2 * widest) ** 2, abs=1)


def test_erasing_boxes_stay_inside_a_small_image():
    top, bottom, left, right = erasing_boxes(Draws(0, 0, 0, np.arange(500)).uniform("boxes", 4), (0.5, 1.0), 5, 3).T
    assert ((top >= 0) & (bottom <= 5) & (left >= 0) & (right <= 3) & (top < bottom) & (left < right)).all()


def test_box_mask(pixels):
    boxes = np.array([[0, 0, 0, 0], [0, 12, 0, 10], [3, 7, 2, 9], [11, 12, 9, 10]])
    mask = box_mask(boxes, pixels[:4])
    assert mask.shape == (4, 1, 12, 10)
    for box, result in zip(boxes, mask[:, 0], strict=True):
        expected = torch.zeros(12, 10, dtype=torch.uint8)
        expected[box[0] : box[1], box[2] : box[3]] = 255
        assert torch.equal(result, expected)


def test_normalize_equals_the_image_processor():
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=mean, image_std=std)
    expected = processor(list(pixels.permute(0, 2, 3, 1).numpy()), return_tensors="pt").pixel_values
    result = normalize(pixels, mean, std)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-6)


FULL = {
    "trivial_augment": True,
    "crop_padding": 4,
    "crop_padding_mode": "reflect",
    "horizontal_flip_prob": 0.5,
    "vertical_flip_prob": 0.3,
    "gaussian_blur_prob": 0.5,
    "random_erasing_prob": 0.5,
}
NOTHING = {"crop_padding": 0, "horizontal_flip_prob": 0.0}


def augment(pixels, draws, **settings):
    """All transforms of the pixels that a recipe asks for, one after the other."""
    for transform in transforms_of(Recipe(**settings), ImageTransform):
        pixels = transform(pixels, draws)
    return pixels


def test_a_sample_is_augmented_the_same_in_any_batch(pixels):
    before = pixels.clone()
    whole = augment(pixels, Draws(1, 2, 8, np.arange(40)), **FULL)
    assert whole.dtype == torch.uint8 and whole.shape == pixels.shape
    parts = [augment(pixels[i : i + 5], Draws(1, 2, 8 + i, np.arange(5)), **FULL) for i in range(0, 40, 5)]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(pixels, before)
    assert not torch.equal(augment(pixels, Draws(1, 3, 8, np.arange(40)), **FULL), whole)


def test_each_sample_has_its_own_draw():
    same = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8).expand(64, -1, -1, -1)
    results = {image.numpy().tobytes() for image in augment(same, Draws(0, 0, 0, np.arange(64)), **FULL)}
    assert len(results) > 60


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("horizontal_flip_prob", 0.3),
        ("vertical_flip_prob", 0.3),
        ("gaussian_blur_prob", 0.3),
        ("random_erasing_prob", 0.3),
    ],
)
def test_probability(field, expected):
    image = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8).expand(4000, -1, -1, -1)
    settings = NOTHING | {"gaussian_blur_sigma": [0.5, 1.0], field: expected}
    changed = (augment(image, Draws(0, 0, 0, np.arange(4000)), **settings) != image).flatten(1).any(dim=1)
    assert changed.float().mean().item() == pytest.approx(expected, abs=0.03)


def test_nothing_asked_nothing_changed(pixels):
    assert torch.equal(augment(pixels, Draws(0, 0, 0, np.arange(40)), **NOTHING), pixels)


def test_erasing_paints_the_color():
    black = torch.zeros(100, 3, 40, 20, dtype=torch.uint8)
    paint = RandomErasing(1.0, random_erasing_area=(0.02, 0.2), image_mean=(0.4914, 0.4822, 0.4465))
    painted = paint(black, Draws(0, 0, 0, np.arange(100)))
    inside = painted.ne(0).all(dim=1)
    assert (inside.flatten(1).sum(dim=1) > 0).all()
    assert inside.any(dim=(0, 1)).all() and inside.any(dim=(0, 2)).all()  # up to every border
    assert torch.equal(
        painted.permute(0, 2, 3, 1)[inside].unique(dim=0), torch.tensor([[125, 123, 114]], dtype=torch.uint8)
    )


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_alternating_flip_shows_every_sample_both_ways_in_two_epochs(share):
    images = torch.randint(0, 256, (2000, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mirror = HorizontalFlip(horizontal_flip_prob=share, alternating_flip=True)
    mirrored = []
    for epoch in range(4):
        samples = np.random.default_rng(epoch).permutation(2000)  # each epoch has an order of its own
        batches = [mirror(images[part], Draws(7, epoch, 0, part)) for part in np.array_split(samples, 9)]
        changed = (torch.cat(batches) != images[samples]).flatten(1).any(dim=1).numpy()
        mirrored.append(changed[np.argsort(samples)])
    assert mirrored[0].mean() == pytest.approx(share, abs=0.04)
    assert (mirrored[0] != mirrored[1]).all()
    assert (mirrored[0] == mirrored[2]).all() and (mirrored[1] == mirrored[3]).all()
