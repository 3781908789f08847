"""Every setting of a recipe that says what is done to the images, against Pillow, NumPy and SciPy, image by image."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SAMPLE
from datasets import load_dataset
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import beta
from test_trivial_augment import PILLOW
from transformers import AutoImageProcessor

import slimresnet.data.inputs
from slimresnet.data.feed import training_inputs
from slimresnet.data.inputs import TrainingInputs, batches_at_once, build_image_processor
from slimresnet.data.loader import Loading, TrainingBatch, TrainingLoader, joined
from slimresnet.data.randomness import Draws
from slimresnet.data.sources.memory import ResidentImages
from slimresnet.data.sources.source import ImageSplit
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import Recipe

SAMPLES, CLASSES = 120, 10
# Nothing is done to an image but what a test asks for. The channels have different figures, and whole ones as a color.
PLAIN = {
    "crop_padding": 0,
    "horizontal_flip_prob": 0.0,
    "image_mean": [0.2, 0.4, 0.6],
    "image_std": [0.25, 0.2, 0.3],
}
# Each setting: a value for it, and what else it needs to say anything.
SETTINGS = {
    "image_mean": ([0.6, 0.2, 0.4], {"random_erasing_prob": 0.5}),
    "image_std": ([0.1, 0.4, 0.2], {}),
    "trivial_augment": (True, {}),
    "trivial_augment_translation": (5, {"trivial_augment": True}),
    "crop_padding": (3, {}),
    "crop_padding_mode": ("reflect", {"crop_padding": 3}),
    "horizontal_flip_prob": (0.3, {}),
    "alternating_flip": (True, {"horizontal_flip_prob": 0.3}),
    "vertical_flip_prob": (0.3, {}),
    "gaussian_blur_prob": (0.3, {}),
    "gaussian_blur_sigma": ([0.5, 0.8], {"gaussian_blur_prob": 0.3}),
    "random_erasing_prob": (0.3, {}),
    "random_erasing_area": ([0.3, 0.6], {"random_erasing_prob": 0.3}),
    "cutmix_prob": (0.3, {}),
    "cutmix_alpha": (0.2, {"cutmix_prob": 0.8}),
    "mixup_prob": (0.4, {"cutmix_prob": 0.3}),
    "mixup_alpha": (0.2, {"cutmix_prob": 0.1, "mixup_prob": 0.8}),
    "label_smoothing_factor": (0.1, {"cutmix_prob": 0.3}),
    "num_light_augmentation_epochs": (4, {"vertical_flip_prob": 0.3, "cutmix_prob": 0.3}),
    "num_final_light_augmentation_epochs": (2, {"vertical_flip_prob": 0.3, "cutmix_prob": 0.3}),
    "progressive_resizing": (["9:0.5", "12:0.8"], {}),
}
EVERYTHING = PLAIN | {name: value for name, (value, _) in SETTINGS.items()} | {"num_light_augmentation_epochs": 1}
NUM_EPOCHS = 5


@pytest.fixture(scope="module")
def pixels():
    """The middles of photographs: no symmetry, and neighbours that differ. uint8 `[SAMPLES, 3, 16, 16]`."""
    photographs = [np.asarray(row["img"])[8:24, 8:24] for row in load_dataset(str(SAMPLE), split=f"test[:{SAMPLES}]")]
    return torch.from_numpy(np.stack(photographs)).permute(0, 3, 1, 2).contiguous()


def batch_of(pixels, epoch):
    """Labels without order, and rows of the data set that are not their places in the epoch."""
    rows = np.random.default_rng(epoch).permutation(1000)[: len(pixels)]
    return TrainingBatch(pixels, torch.from_numpy(rows * 7 % CLASSES), Draws(11, epoch, 40, rows))


def augmented(image, recipe, draws, index, is_full):
    """An image `[3, H, W]` by Pillow, NumPy and SciPy, after the numbers drawn for it."""

    def drawn(name, columns):
        return draws.uniform(name, columns)[index]

    height, width = image.shape[1:]
    if is_full and recipe.trivial_augment:
        number, level = drawn("trivial augment", 2)
        name, operation = list(PILLOW.items())[int(number * len(PILLOW))]
        level = 2 * level - 1
        if name.startswith("translate"):
            level *= recipe.trivial_augment_translation / 32
        image = np.asarray(operation(Image.fromarray(image.transpose(1, 2, 0)), level)).transpose(2, 0, 1)
    if padding := recipe.crop_padding:
        top, left = (int(share * (2 * padding + 1)) for share in drawn("crop", 2))
        mode = {"zero": "constant", "reflect": "reflect"}[recipe.crop_padding_mode]
        image = np.pad(image, ((0, 0), (padding, padding), (padding, padding)), mode=mode)
        image = image[:, top : top + height, left : left + width]
    if recipe.alternating_flip:
        begins_with_it = draws.uniform_of_samples("alternating flip")[index] < recipe.horizontal_flip_prob
        is_mirrored = begins_with_it == (draws.epoch % 2 == 0)
    else:
        is_mirrored = drawn("horizontal flip", 1) < recipe.horizontal_flip_prob
    if is_mirrored:
        image = image[:, :, ::-1]
    if not is_full:
        return image
    if drawn("vertical flip", 1) < recipe.vertical_flip_prob:
        image = image[:, ::-1]
    chance, share = drawn("gaussian blur", 2)
    if chance < recipe.gaussian_blur_prob:
        sigma = np.interp(share, (0, 1), recipe.gaussian_blur_sigma)
        image = np.rint(gaussian_filter(image.astype(float), sigma, axes=(1, 2), radius=1, mode="mirror"))
    chance, area, ratio, top, left = drawn("random erasing", 5)
    if chance < recipe.random_erasing_prob:
        area = np.interp(area, (0, 1), recipe.random_erasing_area) * height * width
        ratio = 0.3 ** (1 - 2 * ratio)  # from 0.3 to 1 / 0.3, evenly in its logarithm
        rows, columns = min(round((area * ratio) ** 0.5), height), min(round((area / ratio) ** 0.5), width)
        top, left = int(top * (height - rows + 1)), int(left * (width - columns + 1))
        color = 255 * np.array(recipe.image_mean).reshape(-1, 1, 1)
        image = image.copy()
        image[:, top : top + rows, left : left + columns] = np.rint(color)
    return image


def mixed(images, labels, recipe, draws):
    """Images `[B, 3, H, W]` mixed with their neighbours, and distributions `[B, CLASSES]`."""
    targets, results = np.eye(CLASSES)[labels], images.copy()
    new_targets = targets.copy()
    height, width = images.shape[2:]
    drawn = draws.uniform("cutmix", 4)
    cuts = np.sqrt(1 - beta(recipe.cutmix_alpha, recipe.cutmix_alpha).ppf(drawn[:, 1]))
    blends = 1 - beta(recipe.mixup_alpha, recipe.mixup_alpha).ppf(drawn[:, 1])
    for index, ((chance, _, row, column), cut, share) in enumerate(zip(drawn, cuts, blends, strict=True)):
        if chance >= recipe.cutmix_prob + recipe.mixup_prob:
            continue
        partner = index + 1 if index % 2 == 0 else index - 1
        if chance >= recipe.cutmix_prob:
            results[index] = np.rint((1 - share) * images[index] + share * images[partner])
            new_targets[index] = (1 - share) * targets[index] + share * targets[partner]
            continue
        box = []
        for size, centre in ((height, row), (width, column)):
            half = int(size * cut) // 2
            box.append(slice(max(int(centre * size) - half, 0), min(int(centre * size) + half, size)))
        results[index][:, *box] = images[partner][:, *box]
        share = results[index, 0][*box].size / (height * width)
        new_targets[index] = (1 - share) * targets[index] + share * targets[partner]
    return results, new_targets


def by_hand(recipe, batch):
    """What the model should get: pixel values and distributions, float64."""
    epoch = batch.draws.epoch
    first, last = recipe.num_light_augmentation_epochs, NUM_EPOCHS - recipe.num_final_light_augmentation_epochs
    is_full = first <= epoch < last
    images = [
        augmented(image, recipe, batch.draws, index, is_full).astype(np.uint8)
        for index, image in enumerate(batch.pixels.numpy())
    ]
    for stage in recipe.progressive_resizing or ():
        size, share = stage.split(":")
        if epoch / NUM_EPOCHS < float(share):
            small = (int(size), int(size))
            pictures = (Image.fromarray(image.transpose(1, 2, 0)) for image in images)
            images = [np.asarray(each.resize(small, Image.Resampling.BILINEAR)).transpose(2, 0, 1) for each in pictures]
            break
    images, targets = np.stack(images), np.eye(CLASSES)[batch.labels]
    if is_full:
        images, targets = mixed(images, batch.labels.numpy(), recipe, batch.draws)
    smoothing = recipe.label_smoothing_factor
    targets = (1 - smoothing) * targets + smoothing / CLASSES
    mean, std = (np.array(values).reshape(-1, 1, 1) for values in (recipe.image_mean, recipe.image_std))
    return (images / 255 - mean) / std, targets


def assert_as_by_hand(inputs, recipe, batch):
    """But for a unit of brightness where Pillow rounds once more, and for a few pixels where a rotation ties."""
    pixel_values, labels = by_hand(recipe, batch)
    assert inputs["pixel_values"].dtype == inputs["labels"].dtype == torch.float32
    np.testing.assert_allclose(inputs["labels"], labels, atol=1e-6)
    assert inputs["pixel_values"].shape == pixel_values.shape
    difference = np.abs(inputs["pixel_values"].numpy() - pixel_values) * np.array(recipe.image_std).reshape(-1, 1, 1)
    assert (difference > 1.01 / 255).mean() < 0.001
    assert (difference > 1e-5).mean() < (0.4 if recipe.progressive_resizing else 0.001)


def test_every_setting_of_the_augmentation_is_tested_here():
    """But for copies, which the loader makes."""
    names = [field.name for field in dataclasses.fields(Recipe)]
    assert names[names.index("image_mean") : names.index("progressive_resizing") + 1] == list(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_changes_what_it_says_and_nothing_else(pixels, tiny_config, name):
    value, others = SETTINGS[name]
    without, batch = Recipe(**PLAIN | others), batch_of(pixels, epoch=3)
    recipe = dataclasses.replace(without, **{name: value})
    assert_as_by_hand(TrainingInputs(recipe, tiny_config, NUM_EPOCHS)(batch), recipe, batch)
    with pytest.raises(AssertionError):  # a setting that does not arrive is noticed
        assert_as_by_hand(TrainingInputs(without, tiny_config, NUM_EPOCHS)(batch), recipe, batch)


@pytest.mark.parametrize("epoch", range(NUM_EPOCHS))
def test_all_settings_at_once(pixels, tiny_config, epoch):
    batch = batch_of(pixels, epoch)
    for others in ({}, {"alternating_flip": False, "progressive_resizing": None, "trivial_augment": False}):
        recipe = Recipe(**EVERYTHING | others)
        assert_as_by_hand(TrainingInputs(recipe, tiny_config, NUM_EPOCHS)(batch), recipe, batch)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_batches_that_are_augmented_at_once_are_those_one_by_one(pixels, tiny_config, monkeypatch, num_processes):
    """Places in the epoch that do not follow each other, since other processes have those between."""
    labels = np.arange(SAMPLES) * 7 % CLASSES
    read = SimpleNamespace(read=lambda batches: (pixels[rows] for rows in batches))
    split = ImageSplit(labels, list("abcdefghij"), ResidentImages(read, SAMPLES, torch.device("cpu")))
    loader = TrainingLoader(
        split,
        np.arange(SAMPLES),
        Loading(torch.device("cpu"), num_processes - 1, num_processes),
        seed=5,
        batch_size=6,
        accumulation=2,
        shuffle_buffer_size=SAMPLES,
    )
    make_inputs = TrainingInputs(Recipe(**EVERYTHING), tiny_config, NUM_EPOCHS)
    expected = list(training_inputs(loader, make_inputs, 2 * loader.steps_per_epoch, 3 * loader.steps_per_epoch))
    calls = []
    monkeypatch.setattr(slimresnet.data.inputs, "joined", lambda batches: calls.append(len(batches)) or joined(batches))
    monkeypatch.setattr(slimresnet.data.inputs, "batches_at_once", lambda pixels: 3)
    at_once = list(training_inputs(loader, make_inputs, 2 * loader.steps_per_epoch, 3 * loader.steps_per_epoch))
    assert sum(calls) == len(expected) and max(calls) == 3
    for inputs, others in zip(at_once, expected, strict=True):
        assert inputs.keys() == others.keys()
        for name, value in inputs.items():
            assert torch.equal(value, others[name])


def test_an_odd_batch_is_augmented_by_itself():
    """Its last sample has its CutMix partner within it."""
    even, odd = (torch.empty(count, 3, 16, 16, dtype=torch.uint8, device="meta") for count in (120, 121))
    assert batches_at_once(even) == 2**25 // (120 * 3 * 16 * 16) and batches_at_once(odd) == 1
    assert batches_at_once(torch.empty(120, 3, 16, 16, dtype=torch.uint8)) == 1  # a processor's cache holds one


def test_inputs_are_made_where_the_pixels_are(pixels, tiny_config):
    """On the meta device, where tensors of the CPU are refused as they would be on a GPU."""
    batch = batch_of(pixels, 3)
    on_device = TrainingBatch(batch.pixels.to("meta"), batch.labels.to("meta"), batch.draws)
    inputs = TrainingInputs(Recipe(**EVERYTHING), tiny_config, NUM_EPOCHS)(on_device)
    assert {name: (value.device.type, *value.shape) for name, value in inputs.items()} == {
        "pixel_values": ("meta", SAMPLES, 3, 12, 12),
        "labels": ("meta", SAMPLES, CLASSES),
    }


def test_denormalized_pixels_are_those_that_were_normalized(tiny_config):
    inputs = TrainingInputs(Recipe(**PLAIN), tiny_config, NUM_EPOCHS)
    every_value = torch.arange(256, dtype=torch.uint8).view(16, 16)
    pixels = torch.stack([every_value, every_value.T, every_value.flip(0)]).unsqueeze(0)
    assert torch.equal(inputs.denormalize(inputs.normalize(pixels)), pixels)
    beyond = torch.tensor([-9.0, 9.0]).view(1, 1, 1, 2).expand(1, 3, 16, 2)
    assert inputs.denormalize(beyond).unique().tolist() == [0, 255]


def test_the_saved_processor_does_what_training_does(tiny_config, tmp_path):
    recipe = Recipe(**PLAIN)
    build_image_processor(recipe, tiny_config).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    for shape in ((16, 16, 3), (21, 40, 3), (9, 12)):  # of another size, grey
        picture = Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8))
        result = processor(picture, return_tensors="pt").pixel_values
        resized = np.asarray(picture.convert("RGB").resize((16, 16), Image.Resampling.BILINEAR))
        pixels = torch.from_numpy(resized.copy()).permute(2, 0, 1).unsqueeze(0)
        expected = TrainingInputs(recipe, tiny_config, NUM_EPOCHS).normalize(pixels)
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


def test_sizes_up_to_the_networks_are_taken_and_larger_ones_refused(tiny_config):
    TrainingInputs(Recipe(crop_padding=15, progressive_resizing=["16:0.5"]), tiny_config, NUM_EPOCHS)
    with pytest.raises(RecipeError, match="--crop_padding 16 must be below the image size, 16 pixels"):
        TrainingInputs(Recipe(crop_padding=16), tiny_config, NUM_EPOCHS)
    with pytest.raises(RecipeError, match="--progressive_resizing must stay within the image size, 16 pixels"):
        TrainingInputs(Recipe(progressive_resizing=["17:0.5"]), tiny_config, NUM_EPOCHS)


@pytest.mark.parametrize(
    ("first", "final", "expected"), [(0, 0, 4), (1, 2, 2), (0, 4, 0), (4, 0, 4), (3, 2, 4), (5, 5, 4)]
)
def test_the_last_epoch_with_all_augmentations(tiny_config, first, final, expected):
    recipe = Recipe(num_light_augmentation_epochs=first, num_final_light_augmentation_epochs=final)
    assert TrainingInputs(recipe, tiny_config, NUM_EPOCHS).last_full_epoch == expected
