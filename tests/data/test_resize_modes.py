"""Pictures that are not square: training, prediction and the saved processor make the same pixels of them."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, write_dataset
from PIL import Image
from transformers import AutoImageProcessor

from modeling_slimresnet import SlimResNetForImageClassification
from slimresnet.data.corruptions.standard import CORRUPTIONS, corrupt
from slimresnet.data.inputs import TrainingInputs, build_image_processor
from slimresnet.data.loader import TrainingBatch
from slimresnet.data.luma import luma
from slimresnet.data.randomness import Draws
from slimresnet.data.sources.arrays import open_arrays
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.sources.decoding import PixelFormat, pixels_of
from slimresnet.data.sources.prediction import open_images
from slimresnet.data.sources.source import DatasetError
from slimresnet.data.transforms.trivial_augment import OPERATIONS
from slimresnet.formats.trained import ModelError, load_processing
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import Recipe
from slimresnet.training.network import fit_config, fit_normalization

MODES = ["squash", "crop", "pad"]
SIDE = 16
SIZES = [(31, 17), (17, 31), (16, 16), (40, 40), (16, 33), (33, 9), (5, 7), (3, 64)]  # height, width


def pictures():
    """Of odd sizes, tall and wide, in colours, grey, with a palette, of one bit."""
    rng = np.random.default_rng(0)
    colours = [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in SIZES]
    return colours + [image.convert(mode) for image, mode in zip(colours, ["L", "P", "1", "L"] * 2, strict=True)]


@pytest.fixture
def folder(tiny_config, tmp_path):
    """Saves a network as training leaves it, with the processor of a recipe."""

    def save(recipe, **settings):
        for name, value in settings.items():
            setattr(tiny_config, name, value)
        SlimResNetForImageClassification(tiny_config).save_pretrained(tmp_path / "model")
        build_image_processor(recipe, tiny_config).save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return save


@pytest.mark.parametrize("mode", MODES)
def test_training_prediction_and_the_saved_processor_make_the_same_pixels(folder, tmp_path, mode):
    images = pictures()
    write_dataset(tmp_path / "data", "train", images, [0, 1] * (len(images) // 2), ["a", "b"])
    split = open_split(str(tmp_path / "data"), "train", image_size=SIDE, resize_mode=mode)
    [trained_on] = split.images.read([np.arange(len(images))])
    model = folder(Recipe(resize_mode=mode))
    processor = AutoImageProcessor.from_pretrained(model)
    plain = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
    theirs = torch.cat([processor(image, **plain)["pixel_values"] for image in images])
    assert torch.equal(trained_on, theirs.to(torch.uint8)) and theirs.shape == (len(images), 3, SIDE, SIDE)
    pixel_format, normalize = load_processing(model)
    assert pixel_format == PixelFormat(SIDE, mode)
    read = open_images(str(tmp_path / "data"), pixel_format, split="train")
    assert np.array_equal(np.stack([image.pixels for image in read.stream]), trained_on.permute(0, 2, 3, 1).numpy())
    normalized = processor(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(normalize(trained_on), normalized, rtol=0, atol=1e-5)


def test_what_is_seen_of_a_wide_picture():
    ends = np.zeros((10, 30, 3), np.uint8)
    ends[:, :10, 0], ends[:, 10:20], ends[:, 20:, 2] = 255, 200, 255  # red, grey, blue
    picture = Image.fromarray(ends)
    assert (pixels_of(picture, PixelFormat(10, "crop")) == 200).all()
    padded = pixels_of(Image.fromarray(ends + 1), PixelFormat(30, "pad"))
    assert not padded[:10].any() and not padded[20:].any() and np.array_equal(padded[10:20], ends + 1)
    assert len(np.unique(pixels_of(picture, PixelFormat(30, "squash")).reshape(-1, 3), axis=0)) == 3


@pytest.mark.parametrize("mode", ["crop", "pad"])
def test_a_picture_that_is_too_long_and_thin_is_named(tmp_path, mode):
    """No pixel is left of it, or 32×2,240,000 would have to be made of it."""
    picture = Image.fromarray(np.zeros((1, 70000, 3), np.uint8))
    write_dataset(tmp_path / "data", "train", [picture, picture], [0, 1], ["a", "b"])
    said = f"70,000×1 pixels, too long and thin for resize_mode {mode}"
    [first, _] = open_images(str(tmp_path / "data"), PixelFormat(32, mode), split="train").stream
    assert first.pixels is None and said in first.reason
    split = open_split(str(tmp_path / "data"), "train", image_size=32, resize_mode=mode)
    with pytest.raises(DatasetError, match=f"row 0 of .*{said}"):
        list(split.images.read([np.arange(2)]))


def test_arrays_are_resized_as_pictures_are(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 31, 3), dtype=np.uint8)
    np.save(tmp_path / "fog.npy", images)
    np.save(tmp_path / "labels.npy", np.zeros(2, np.int64))
    for pixel_format in (PixelFormat(12, "crop"), PixelFormat(12, "pad", num_channels=1)):
        [read] = open_arrays(tmp_path, pixel_format, ["a", "b"])["fog"].images.read([np.arange(2)])
        expected = np.stack([pixels_of(Image.fromarray(image), pixel_format) for image in images])
        assert np.array_equal(read.permute(0, 2, 3, 1).numpy(), expected)


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ({"size": {"shortest_edge": SIDE}}, "its size {'shortest_edge': 16} is not that of the network, 16×16"),
        ({"size": {"shortest_edge": SIDE + 2}, "do_center_crop": True}, "its size {'shortest_edge': 18}"),
        ({"size": {"longest_edge": SIDE}, "do_center_crop": True}, "its size {'longest_edge': 16}"),
        ({"size": {"shortest_edge": SIDE, "longest_edge": 99}, "do_center_crop": True}, "'longest_edge': 99"),
        ({"crop_size": {"height": 12, "width": 12}, "do_center_crop": True}, "its crop_size {'height': 12"),
        ({"size": {"shortest_edge": SIDE}, "do_center_crop": True, "resample": 3}, r"\(bilinear, crop\) to 16×16"),
    ],
)
def test_other_ways_to_resize_are_refused(folder, edits, said):
    model = folder(Recipe())
    file = model / "preprocessor_config.json"
    crop = {"crop_size": {"height": SIDE, "width": SIDE}}
    file.write_text(json.dumps(json.loads(file.read_text()) | crop | edits))
    with pytest.raises(ModelError, match=said):
        load_processing(model)


def test_the_processor_of_another_program_says_how_pictures_are_resized(folder):
    model = folder(Recipe())
    file = model / "preprocessor_config.json"
    square = {"height": SIDE, "width": SIDE}
    crop = {"image_processor_type": "DeiTImageProcessor", "size": {"shortest_edge": SIDE}, "crop_size": square}
    file.write_text(json.dumps(json.loads(file.read_text()) | crop))  # its own default is to crop
    assert load_processing(model).pixel_format.resize_mode == "crop"


@pytest.mark.skipif(shutil.which("node") is None, reason="the page's script needs node")
def test_the_demo_page_resizes_in_the_same_ways(tmp_path):
    cases = []
    for mode in MODES:
        for height, width in [*SIZES, (100, 37), (9, 33)]:
            colours = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
            rgba = np.dstack([colours, np.full((height, width), 255, np.uint8)]).ravel().tolist()
            cases.append([rgba, width, height, SIDE, mode])
    (tmp_path / "pixels.mjs").write_bytes((REPOSITORY / "demo/page/pixels.js").read_bytes())
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    (tmp_path / "run.mjs").write_text(
        "import { readFileSync } from 'fs'; import { resizedPlanes } from './pixels.mjs';"
        "const cases = JSON.parse(readFileSync('cases.json'));"
        "console.log(JSON.stringify(cases.map((each) => [...resizedPlanes(...each)])));"
    )
    done = subprocess.run(["node", "run.mjs"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    for planes, (rgba, width, height, side, mode) in zip(json.loads(done.stdout), cases, strict=True):
        colours = np.array(rgba, np.uint8).reshape(height, width, 4)[..., :3]
        expected = pixels_of(Image.fromarray(colours), PixelFormat(side, mode)).transpose(2, 0, 1)
        assert np.abs(np.array(planes).reshape(3, side, side) - expected).max() <= 1, (width, height, mode)


def test_grey_pixels_are_the_luma_of_the_colours():
    for picture in pictures():
        [colour, grey] = [pixels_of(picture.convert("RGB"), PixelFormat(SIDE, "pad", count)) for count in (3, 1)]
        assert grey.shape == (SIDE, SIDE, 1)
        assert np.array_equal(np.asarray(Image.fromarray(colour).convert("L")), grey[..., 0])
        planes = torch.tensor(colour).permute(2, 0, 1)[None]
        assert torch.equal(luma(planes)[0, 0], torch.tensor(grey[..., 0]))


EVERYTHING = {
    "crop_padding": 2, "horizontal_flip_prob": 0.5, "vertical_flip_prob": 0.5, "gaussian_blur_prob": 0.5,
    "random_erasing_prob": 0.5, "cutmix_prob": 0.4, "mixup_prob": 0.4, "trivial_augment": True,
    "progressive_resizing": ["12:0.5"],
}  # fmt: skip


@pytest.mark.parametrize("epoch", [0, 3])
def test_every_transform_does_to_grey_what_it_does_to_equal_channels(tiny_config, epoch):
    grey = torch.randint(0, 256, (200, 1, SIDE, SIDE), dtype=torch.uint8)
    labels, draws = torch.arange(200) % 3, Draws(0, epoch, first=0, samples=np.arange(200))
    one = TrainingInputs(Recipe(**EVERYTHING, image_mean=[0.4], image_std=[0.3]), tiny_config, 4)
    three = TrainingInputs(Recipe(**EVERYTHING, image_mean=[0.4] * 3, image_std=[0.3] * 3), tiny_config, 4)
    assert len(OPERATIONS) < 200 / 5  # each has its share
    found, expected = (
        make(TrainingBatch(grey.expand(-1, channels, -1, -1).contiguous(), labels, draws))
        for make, channels in ((one, 1), (three, 3))
    )
    assert found["pixel_values"].shape[1] == 1
    assert torch.equal(found["pixel_values"].expand(-1, 3, -1, -1), expected["pixel_values"])
    assert torch.equal(found["labels"], expected["labels"])
    assert torch.equal(one.denormalize(one.normalize(grey)), grey)


def test_a_corruption_of_a_grey_image_is_that_of_its_colours_turned_grey():
    grey = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8)
    for name in ("gaussian_noise", "brightness"):
        found = corrupt(grey, name, CORRUPTIONS[name], 3, np.arange(3), 7)
        colours = corrupt(grey.expand(-1, 3, -1, -1), name, CORRUPTIONS[name], 3, np.arange(3), 7)
        assert found.shape == grey.shape and torch.equal(found, luma(colours)) and not torch.equal(found, grey)


@pytest.mark.parametrize(
    ("num_channels", "mean", "std", "expected"),
    [
        (3, Recipe.image_mean, Recipe.image_std, (Recipe.image_mean, Recipe.image_std)),
        (1, Recipe.image_mean, Recipe.image_std, ((0.4809,), (0.2466,))),
        (1, (0.13,), (0.31,), ((0.13,), (0.31,))),
        (1, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), ((0.5,), (0.2,))),
    ],
)
def test_a_mean_for_each_channel(num_channels, mean, std, expected):
    fitted = fit_normalization(Recipe(image_mean=mean, image_std=std), num_channels)
    for found, values in zip((fitted.image_mean, fitted.image_std), expected, strict=True):
        assert found == pytest.approx(values, abs=1e-4)


def test_another_number_of_means_than_channels_is_refused():
    with pytest.raises(RecipeError, match=r"--image_mean takes one number for a network of grey images, got 0.1 0.2"):
        fit_normalization(Recipe(image_mean=[0.1, 0.2, 0.3]), 1)
    with pytest.raises(RecipeError, match=r"--image_std takes three numbers, one a channel of the network, got 0.3"):
        fit_normalization(Recipe(image_std=[0.3]), 3)


def test_size_and_channels_that_are_asked_for_win_over_those_of_a_config(tiny_config):
    fit_config(tiny_config, Recipe(), is_trained=False)
    assert (tiny_config.image_size, tiny_config.num_channels) == (16, 3)
    fit_config(tiny_config, Recipe(image_size=28, num_channels=1), is_trained=False)
    assert (tiny_config.image_size, tiny_config.num_channels) == (28, 1)
    fit_config(tiny_config, Recipe(image_size=64, num_channels=1), is_trained=True)
    assert tiny_config.image_size == 64
    with pytest.raises(RecipeError, match="--num_channels 3 is not that of --model_name_or_path, 1"):
        fit_config(tiny_config, Recipe(num_channels=3), is_trained=True)
